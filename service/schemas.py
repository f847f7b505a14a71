"""What the API answers, every field described; the OpenAPI document is made from these."""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

Reason = Literal["small", "turned", "cut_off", "blurred", "dark", "bright", "uncertain"]
"""Why a face may be labelled wrong."""

Size = Annotated[int, Field(ge=1)]
Length = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Schema(BaseModel):
    """Base of all answers: immutable, and its attribute docstrings are the field descriptions."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


EXAMPLE: Final[dict[str, Any]] = {
    "image": {"width": 512, "height": 512},
    "faces": [
        {
            "box": {"x": 178.1, "y": 63.4, "width": 90.2, "height": 112.6},
            "landmarks": {
                "left_eye": {"x": 203.9, "y": 109.5},
                "right_eye": {"x": 247.2, "y": 113.8},
                "nose": {"x": 220.3, "y": 135.4},
                "mouth_left": {"x": 202.6, "y": 149.5},
                "mouth_right": {"x": 240.4, "y": 152.4},
            },
            "detection_score": 0.94,
            "emotion": "happiness",
            "confidence": 0.91,
            "emotions": {"neutral": 0.06, "happiness": 0.91, "surprise": 0.03},
            "pose": {"roll": 4.1, "yaw": -3.2},
            "quality": {"size": 90.2, "sharpness": 0.31, "brightness": 0.62},
            "reliable": True,
            "unreliable_because": [],
        }
    ],
    "model": {"name": "tandem", "version": "1"},
}
"""An answer for the reference; a test holds it against the schema."""


class ImageSize(Schema):
    """Size of the upright photo, that is after its EXIF orientation was applied."""

    width: Size
    """Pixels, 1 or more."""
    height: Size
    """Pixels, 1 or more."""


class FaceBox(Schema):
    """Rectangle around a face, clipped to the photo."""

    x: Length
    """Left edge, in pixels from the left of the upright photo, 0 or more."""
    y: Length
    """Upper edge, in pixels from the top of the upright photo, 0 or more."""
    width: Length
    """Pixels, 0 or more."""
    height: Length
    """Pixels, 0 or more."""


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


class Pose(Schema):
    """How the head is turned, estimated from the landmarks."""

    roll: Annotated[float, Field(ge=-180, le=180)]
    """Degrees, -180 to 180; positive where the head leans clockwise in the picture."""
    yaw: Annotated[float, Field(ge=-90, le=90)]
    """Degrees, -90 to 90; positive where it looks to the viewer's right. Good to about ten degrees."""


class PictureQuality(Schema):
    """How well the face can be seen."""

    size: Annotated[float, Field(ge=0)]
    """Shorter side of the box, in pixels."""
    sharpness: Annotated[float, Field(ge=0, le=64)]
    """Variance of the Laplacian over the variance of the aligned crop, 0 to 64: sharp faces have 0.1 to 1,
    clearly blurred ones less than 0.02."""
    brightness: Fraction
    """Mean grey of the aligned crop, 0 (black) to 1 (white)."""


def _none_required(schema: dict[str, Any]) -> None:
    """Of a face any field may be left out by the query's ``fields``."""
    schema.pop("required", None)


class FaceEmotion(Schema):
    """One face and the emotion that it shows, which need not be what the person feels.

    Every field is there, unless the query's ``fields`` names others only.
    """

    model_config = ConfigDict(json_schema_extra=_none_required)

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
    pose: Pose
    """How the head is turned."""
    quality: PictureQuality
    """Size, sharpness and brightness of its picture."""
    reliable: bool
    """Whether nothing speaks against relying on the labels of this face."""
    unreliable_because: list[Reason]
    """What speaks against it, empty for a reliable face: small (box below 20 pixels), turned (yaw beyond 45
    degrees), cut_off (a landmark outside the photo), blurred (sharpness below 0.02), dark (brightness below 0.1),
    bright (above 0.92), uncertain (detection score below 0.7)."""


FACE_FIELDS: Final = tuple(FaceEmotion.model_fields)
"""What the query's ``fields`` chooses from."""


class ModelIdentity(Schema):
    """Name and version of a model."""

    name: str
    """Name in Triton."""
    version: str
    """Version in Triton."""


class PhotoEmotions(Schema):
    """The answer for one photo."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    image: ImageSize
    """Size of the upright photo."""
    faces: list[FaceEmotion]
    """The faces found, largest first; empty where there is none."""
    model: ModelIdentity
    """The model that answered."""


class CropSize(Schema):
    """Size of the grey crop of a face that the model takes."""

    width: Size
    """Pixels, 1 or more."""
    height: Size
    """Pixels, 1 or more."""


class ModelDescription(ModelIdentity):
    """What the served model states about itself."""

    labels: list[str]
    """The emotions it tells apart, in the order of its output."""
    crop: CropSize
    """Size of the grey crop of a face that it takes."""
    max_batch_size: Size
    """Most faces in one request to Triton."""
    provenance: dict[str, str]
    """What identifies the weights: commit, data, metrics."""


class Alive(Schema):
    """The process runs."""

    status: Literal["alive"] = "alive"
    """Always «alive»."""


class Ready(Schema):
    """A real inference worked within about the last second."""

    status: Literal["ready"] = "ready"
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
    status: Annotated[int, Field(ge=400, le=599)]
    """HTTP status, 400 to 599."""
    detail: str
    """What was wrong here, with the value and the limit."""
    request_id: str
    """Identifier of the request, as in the X-Request-ID header and the log."""
    errors: list[ParameterError] | None = None
    """The parameters that are wrong, where that is the problem."""


class TrackedFace(FaceEmotion):
    """A face in a frame of a stream; its probabilities are smoothed where the stream asked for that."""

    track: Annotated[int, Field(ge=1)] | None = None
    """The same number for the same face from frame to frame, from 1; null where the stream did not ask for it."""


class FrameEmotions(Schema):
    """The answer for one frame of a stream."""

    frame: Annotated[int, Field(ge=1)]
    """Which of the stream's frames this is the answer for, from 1."""
    dropped: Annotated[int, Field(ge=0)]
    """Frames between the one answered before and this one that were dropped, since newer ones came."""
    image: ImageSize
    """Size of the upright frame."""
    faces: list[TrackedFace]
    """The faces found, largest first; empty where there is none."""
    model: ModelIdentity
    """The model that answered."""


class BatchLine(Schema):
    """One line of a batch's answer; lines come in the order in which the photos were done."""

    index: Annotated[int, Field(ge=0)]
    """Which photo of the batch this is, from 0, in the order of the upload."""
    name: str
    """Its file name as given, in a ZIP with the folders; at most 255 characters."""
    answer: PhotoEmotions | None = None
    """The photo's faces; absent where there is a problem instead."""
    problem: Problem | None = None
    """Why this photo has no answer; absent where it has one."""


class FrameProblem(Problem):
    """The answer for a frame that cannot be read, after which the stream goes on, or why there is no stream."""

    frame: Annotated[int, Field(ge=1)] | None = None
    """Which of the stream's frames this is the answer for, from 1; absent where it is about the whole stream."""
    dropped: Annotated[int, Field(ge=0)] | None = None
    """Frames between the one answered before and this one that were dropped, since newer ones came."""
