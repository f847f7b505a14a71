"""The query parameters of every route that reads photos."""

from pydantic import BaseModel, ConfigDict, Field, field_validator

from service.errors import BadParameter
from service.schemas import FACE_FIELDS
from service.settings import Settings
from service.workers.tasks import DetectionOptions


class PhotoQuery(BaseModel):
    """Query parameters of a photo's analysis."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    max_faces: int | None = Field(None, ge=1)
    """Most faces to answer, largest first; the server's limit where not given."""
    min_face_size: float = Field(0, ge=0, allow_inf_nan=False)
    """Leave out faces whose box has a shorter side than this, in pixels of the upright photo."""
    threshold: float | None = Field(None, ge=0.05, le=1, allow_inf_nan=False)
    """Least detection score of a face, 0.05 to 1; the server's setting where not given."""
    fields: str | None = Field(
        None,
        description=f"What to tell of each face: a comma list of {', '.join(FACE_FIELDS)}; all if not given.",
        pattern=rf"^({'|'.join(FACE_FIELDS)})(,({'|'.join(FACE_FIELDS)}))*$",
        examples=["box,emotion,confidence"],
    )

    @field_validator("fields", mode="before")
    @classmethod
    def _name_the_unknown(cls, value: object) -> object:
        if isinstance(value, str):
            unknown = [name for name in value.split(",") if name not in FACE_FIELDS]
            if unknown:
                raise ValueError(f"no fields of a face: {unknown}; there are {', '.join(FACE_FIELDS)}")
        return value

    def face_fields(self) -> frozenset[str]:
        """The names of what to tell of each face."""
        return frozenset(FACE_FIELDS if self.fields is None else self.fields.split(","))

    def options(self, settings: Settings) -> DetectionOptions:
        """What is asked for, completed by the settings.

        Raises:
            BadParameter: more faces than the limit.
        """
        max_faces = self.max_faces or settings.max_faces
        if max_faces > settings.max_faces:
            raise BadParameter(f"max_faces is {max_faces}; the limit is {settings.max_faces} (TANDEM_MAX_FACES)")
        threshold = settings.detection_threshold if self.threshold is None else self.threshold
        return DetectionOptions(max_faces=max_faces, min_face_size=self.min_face_size, threshold=threshold)
