"""Query parameters of every route that analyzes photos."""

from pydantic import BaseModel, ConfigDict, Field, field_validator

from service.errors import BadParameter
from service.schemas import DEFAULT_FIELDS, FACE_FIELDS
from service.settings import Settings
from service.workers.tasks import DetectionOptions


class DetectionQuery(BaseModel):
    """Which faces of a photo to return."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    max_faces: int | None = Field(None, ge=1)
    """Maximum number of faces to return, largest first. Default: the server's limit."""
    min_face_size: float = Field(0, ge=0, allow_inf_nan=False)
    """Minimum length of the shorter side of a face's box, in pixels of the upright photo."""
    threshold: float | None = Field(None, ge=0.05, le=1, allow_inf_nan=False)
    """Minimum detection score of a face, 0.05 to 1. Default: the server's setting."""

    def face_fields(self) -> frozenset[str]:
        """The fields to return of each face."""
        return frozenset(DEFAULT_FIELDS)

    def options(self, settings: Settings) -> DetectionOptions:
        """Combine the parameters with the settings.

        Raises:
            BadParameter: ``max_faces`` exceeds the limit.
        """
        max_faces = self.max_faces or settings.max_faces
        if max_faces > settings.max_faces:
            raise BadParameter(f"max_faces is {max_faces}; the limit is {settings.max_faces} (TANDEM_MAX_FACES)")
        threshold = settings.detection_threshold if self.threshold is None else self.threshold
        return DetectionOptions(
            max_faces=max_faces,
            min_face_size=self.min_face_size,
            threshold=threshold,
            cutouts="crop" in self.face_fields(),
        )


class PhotoQuery(DetectionQuery):
    """Which faces of a photo to return, and which fields of them."""

    fields: str | None = Field(
        None,
        description=f"Fields to return of each face, separated by commas: {', '.join(FACE_FIELDS)}. "
        "Default: all but crop.",
        pattern=rf"^({'|'.join(FACE_FIELDS)})(,({'|'.join(FACE_FIELDS)}))*$",
        examples=["box,emotion,confidence"],
    )

    @field_validator("fields", mode="before")
    @classmethod
    def _reject_unknown_fields(cls, value: object) -> object:
        if isinstance(value, str):
            unknown = [name for name in value.split(",") if name not in FACE_FIELDS]
            if unknown:
                raise ValueError(f"a face has no fields {unknown}; its fields are {', '.join(FACE_FIELDS)}")
        return value

    def face_fields(self) -> frozenset[str]:
        """The fields to return of each face."""
        return frozenset(DEFAULT_FIELDS if self.fields is None else self.fields.split(","))
