"""What the API answers, every field described; the OpenAPI document is made from these."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]


class Schema(BaseModel):
    """Base of all answers: immutable, and its attribute docstrings are the field descriptions."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class ImageSize(Schema):
    """Size of the upright photo, that is after its EXIF orientation was applied."""

    width: int
    """Pixels."""
    height: int
    """Pixels."""


class FaceBox(Schema):
    """Rectangle around a face, clipped to the photo."""

    x: float
    """Left edge, in pixels from the left of the upright photo."""
    y: float
    """Upper edge, in pixels from the top of the upright photo."""
    width: float
    """Pixels."""
    height: float
    """Pixels."""


class Point(Schema):
    """A place in the upright photo; it may lie outside where a face is cut off."""

    x: float
    """Pixels from the left."""
    y: float
    """Pixels from the top."""


class Landmarks(Schema):
    """Five points of a face. Left and right are the viewer's, not the pictured person's."""

    left_eye: Point
    """Centre of the eye that the viewer sees on the left of the face."""
    right_eye: Point
    """Centre of the eye that the viewer sees on the right of the face."""
    nose: Point
    """Tip of the nose."""
    mouth_left: Point
    """Corner of the mouth on the viewer's left."""
    mouth_right: Point
    """Corner of the mouth on the viewer's right."""


class FaceEmotion(Schema):
    """One face and the emotion that it shows, which need not be what the person feels."""

    box: FaceBox
    """Where the face is."""
    landmarks: Landmarks
    """Eyes, nose and corners of the mouth."""
    detection_score: Fraction
    """How sure the detector is that this is a face, 0 to 1."""
    emotion: str
    """The label with the highest probability."""
    confidence: Fraction
    """Probability of that label, 0 to 1."""
    emotions: dict[str, Fraction]
    """Probability of every label, 0 to 1; they sum to 1."""


class ModelIdentity(Schema):
    """Name and version of a model."""

    name: str
    """Name in Triton."""
    version: str
    """Version in Triton."""


class PhotoEmotions(Schema):
    """The answer for one photo."""

    image: ImageSize
    """Size of the upright photo."""
    faces: list[FaceEmotion]
    """The faces found, largest first; empty where there is none."""
    model: ModelIdentity
    """The model that answered."""


class CropSize(Schema):
    """Size of the grey crop of a face that the model takes."""

    width: int
    """Pixels."""
    height: int
    """Pixels."""


class ModelDescription(ModelIdentity):
    """What the served model states about itself."""

    labels: list[str]
    """The emotions it tells apart, in the order of its output."""
    crop: CropSize
    """Size of the grey crop of a face that it takes."""
    max_batch_size: int
    """Most faces in one request to Triton."""
    provenance: dict[str, str]
    """What identifies the weights: commit, data, metrics."""


class Alive(Schema):
    """The process runs."""

    status: str = "alive"
    """Always «alive»."""


class Ready(Schema):
    """A real inference worked within about the last second."""

    status: str = "ready"
    """Always «ready»."""
    model: ModelIdentity
    """The model that is served."""


class ParameterError(Schema):
    """What is wrong with one parameter."""

    parameter: str
    """Its name."""
    message: str
    """What is allowed."""


class Problem(Schema):
    """An error, after RFC 9457."""

    type: str
    """Stable identifier of the kind of problem: «urn:tandem:problem:<slug>»."""
    title: str
    """The kind of problem in words; the same for every occurrence."""
    status: int
    """HTTP status."""
    detail: str
    """What was wrong here, with the value and the limit."""
    request_id: str
    """Identifier of the request, as in the X-Request-ID header and the log."""
    errors: list[ParameterError] | None = None
    """The parameters that are wrong, where that is the problem."""
