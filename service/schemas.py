"""The API's responses. The OpenAPI document is generated from them, with a description of every field."""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, computed_field
from typing_extensions import TypeAliasType

Reason = TypeAliasType(
    "Reason",
    Literal["small", "turned", "cut_off", "blurred", "dark", "bright", "uncertain", "occluded", "ambiguous"],
)
"""Why a face's labels may be wrong. The alias gives it a name in the OpenAPI document."""

Size = Annotated[int, Field(ge=1)]
Length = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Schema(BaseModel):
    """Base of all responses: immutable, with attribute docstrings as field descriptions."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


EXAMPLE: Final[dict[str, Any]] = {
    "image": {"width": 512, "height": 512},
    "summary": {"happiness": 1},
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
            "emotions": {
                "neutral": 0.06,
                "happiness": 0.91,
                "surprise": 0.03,
                "sadness": 0.0,
                "anger": 0.0,
                "disgust": 0.0,
                "fear": 0.0,
                "contempt": 0.0,
            },
            "pose": {"roll": 4.1, "yaw": -3.2},
            "quality": {"size": 90.2, "sharpness": 0.31, "brightness": 0.62},
            "reliable": True,
            "unreliable_because": [],
        }
    ],
    "model": {"name": "tandem", "version": "1"},
}
"""An example for the documentation; a test validates it against the schema."""


class ImageSize(Schema):
    """Size of the upright photo, that is, after its EXIF orientation was applied."""

    width: Size
    """Pixels, 1 or more."""
    height: Size
    """Pixels, 1 or more."""


class FaceBox(Schema):
    """Rectangle around a face, clipped to the photo."""

    x: Length
    """Left edge, in pixels from the left of the upright photo, 0 or more."""
    y: Length
    """Top edge, in pixels from the top of the upright photo, 0 or more."""
    width: Length
    """Pixels, 0 or more."""
    height: Length
    """Pixels, 0 or more."""


class Point(Schema):
    """A point in the upright photo; it may be outside if the face is cut off."""

    x: float
    """Pixels from the left."""
    y: float
    """Pixels from the top."""


class Landmarks(Schema):
    """Five points of a face. Left and right are the viewer's, not the person's."""

    left_eye: Point
    """Center of the eye on the viewer's left."""
    right_eye: Point
    """Center of the eye on the viewer's right."""
    nose: Point
    """Tip of the nose."""
    mouth_left: Point
    """Corner of the mouth on the viewer's left."""
    mouth_right: Point
    """Corner of the mouth on the viewer's right."""


class Pose(Schema):
    """How the head is turned, estimated from the landmarks."""

    roll: Annotated[float, Field(ge=-180, le=180)]
    """Degrees, -180 to 180; positive if the head is tilted clockwise in the picture."""
    yaw: Annotated[float, Field(ge=-90, le=90)]
    """Degrees, -90 to 90; positive if the face looks to the viewer's right. Accurate to about ten degrees."""


class PictureQuality(Schema):
    """How well the face can be seen."""

    size: Annotated[float, Field(ge=0)]
    """Shorter side of the box, in pixels."""
    sharpness: Annotated[float, Field(ge=0, le=64)]
    """Variance of the Laplacian divided by the variance of the aligned crop, 0 to 64. Sharp faces have 0.1 to 1,
    clearly blurred ones less than 0.02."""
    brightness: Fraction
    """Mean gray of the aligned crop, 0 (black) to 1 (white)."""


class FaceEmotion(Schema):
    """One face and the emotion that it shows, which is not necessarily what the person feels."""

    box: FaceBox
    """Where the face is."""
    landmarks: Landmarks
    """Eyes, nose and corners of the mouth."""
    detection_score: Fraction
    """The detector's confidence that this is a face, 0 to 1."""
    emotion: str
    """The label with the highest probability."""
    confidence: Fraction
    """Probability of that label, 0 to 1."""
    emotions: dict[str, Fraction]
    """Probability of every label, 0 to 1; they sum to 1."""
    pose: Pose
    """How the head is turned."""
    quality: PictureQuality
    """Size, sharpness and brightness of the face in the photo."""
    reliable: bool
    """Whether the labels can be relied on: true if unreliable_because is empty."""
    unreliable_because: list[Reason]
    """Why the labels may be wrong: small (box below 20 pixels), turned (yaw beyond 45 degrees), cut_off (a
    landmark outside the photo), blurred (sharpness below 0.02), dark (brightness below 0.1), bright (brightness
    above 0.92), uncertain (detection score below 0.7), occluded (an eye or the mouth seems to be hidden),
    ambiguous (the two highest probabilities differ by less than 0.1)."""
    crop: str | None = None
    """The face, cut out of the upright photo with a margin: the data: URL of a JPEG of at most 160 x 160 pixels.
    Only if the query's ``fields`` names it."""


FACE_FIELDS: Final = tuple(FaceEmotion.model_fields)
"""What the query's ``fields`` selects from."""

DEFAULT_FIELDS: Final = tuple(name for name in FACE_FIELDS if name != "crop")
"""The fields of a face if the query does not select any."""


def count_emotions(faces: Sequence[FaceEmotion]) -> dict[str, int]:
    """Return how many faces show each emotion, without those that none shows, most frequent first."""
    return dict(Counter(face.emotion for face in faces).most_common())


Summary = dict[str, Annotated[int, Field(ge=1)]]


def _none_required(schema: dict[str, Any]) -> None:
    schema.pop("required", None)


class SelectedFace(FaceEmotion):
    """A face with all fields but ``crop``, or with those that the query's ``fields`` selects."""

    model_config = ConfigDict(json_schema_extra=_none_required)


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
    """The faces found, largest first; empty if there are none."""
    model: ModelIdentity
    """The model that answered."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def summary(self) -> Summary:
        """How many faces show each emotion, most frequent first; emotions that none shows are left out."""
        return count_emotions(self.faces)


class SelectedPhotoEmotions(PhotoEmotions):
    """The answer for one photo; the query's ``fields`` selects the fields of its faces. Only documents it."""

    faces: list[SelectedFace]  # type: ignore[assignment] # mypy: list is invariant; the answer is immutable
    """The faces found, largest first; empty if there are none."""


class CropSize(Schema):
    """Size and color of the crop of a face that is the model's input."""

    width: Size
    """Pixels, 1 or more."""
    height: Size
    """Pixels, 1 or more."""
    channels: Size
    """1 if the crop is gray, 3 if it is in RGB."""


class ModelDescription(ModelIdentity):
    """What the served model states about itself."""

    labels: list[str]
    """The emotions that it distinguishes, in the order of its output."""
    crop: CropSize
    """Size and color of the crop of a face that is its input."""
    max_batch_size: Size
    """Maximum number of faces in one request to Triton."""
    provenance: dict[str, str]
    """What identifies the weights: commit, data, metrics."""


class UploadLimits(Schema):
    """How large a photo may be."""

    max_bytes: Size
    """Maximum bytes of a photo, once decoded from base64 (TANDEM_MAX_UPLOAD_BYTES)."""
    max_pixels: Size
    """Maximum width times height of a photo (TANDEM_MAX_PIXELS)."""
    max_jpeg_pixels: Size
    """Maximum of a JPEG in RGB or gray that is not progressive: five times as many. One with more than
    ``max_pixels`` is read at half its width and height; boxes are in pixels of its full size."""
    timeout_s: Length
    """Seconds in which an upload must arrive (TANDEM_UPLOAD_TIMEOUT_S)."""
    fetch_hosts: list[str]
    """Hosts and buckets that a photo is fetched from by its URL; empty if none is (TANDEM_FETCH_HOSTS)."""


class BatchLimits(Schema):
    """How large a batch may be."""

    max_photos: Size
    """Maximum number of photos (TANDEM_MAX_BATCH_PHOTOS)."""
    max_bytes: Size
    """Maximum bytes of all photos together, packed and unpacked (TANDEM_MAX_BATCH_BYTES)."""
    max_concurrent: Size
    """Maximum number of batches at a time, of all callers (TANDEM_MAX_BATCHES)."""
    timeout_s: Length
    """Seconds in which a batch must arrive (TANDEM_BATCH_UPLOAD_TIMEOUT_S)."""


class StreamLimits(Schema):
    """What a stream of frames may send."""

    max_concurrent: Annotated[int, Field(ge=0)]
    """Maximum number of open streams, of all callers; 0 if streams are off (TANDEM_MAX_STREAMS)."""
    max_frame_bytes: Size
    """Maximum bytes of a frame (TANDEM_MAX_FRAME_BYTES)."""
    max_frames_per_s: Length
    """Maximum frames per second (TANDEM_MAX_FRAMES_PER_S)."""
    idle_s: Length
    """Seconds without a frame after which a stream is closed (TANDEM_STREAM_IDLE_S)."""


class RateLimits(Schema):
    """How much a caller may send: an API key, or an address if there are no keys."""

    max_photos: Size | None
    """Maximum number of photos in each window; null if there is no limit (TANDEM_RATE_LIMIT)."""
    window_s: Length
    """Seconds of a window (TANDEM_RATE_WINDOW_S)."""
    max_concurrent: Size | None
    """Maximum number of requests at a time; null if there is no limit (TANDEM_CONCURRENT_LIMIT)."""


class Limits(Schema):
    """What the service accepts, each limit with the setting that an operator changes it by."""

    formats: list[str]
    """Media types of the photos that are read."""
    answer_formats: list[str]
    """Media types that Accept may ask for."""
    photo: UploadLimits
    """Limits on one photo, also in a batch."""
    batch: BatchLimits
    """Limits on a batch."""
    stream: StreamLimits
    """Limits on a stream."""
    rate: RateLimits
    """Limits on each caller."""
    max_faces: Size
    """Maximum number of faces that are returned for a photo, the largest (TANDEM_MAX_FACES)."""
    request_timeout_s: Length
    """Seconds in which a photo is answered, its upload included (TANDEM_REQUEST_TIMEOUT_S)."""


class Alive(Schema):
    """The process runs."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    status: Literal["alive"] = "alive"
    """Always "alive"."""


class Ready(Schema):
    """A real inference has worked within about the last second."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    status: Literal["ready"] = "ready"
    """Always "ready"."""
    model: ModelIdentity
    """The model that is served."""


class ParameterError(Schema):
    """What is wrong with one parameter."""

    parameter: str
    """Its name."""
    message: str
    """What is allowed."""


class Problem(Schema):
    """An error (RFC 9457)."""

    type: str
    """Stable identifier of the type of problem: urn:tandem:problem:<slug>."""
    title: str
    """The type of problem in words; the same for every occurrence."""
    status: Annotated[int, Field(ge=400, le=599)]
    """HTTP status, 400 to 599."""
    detail: str
    """What was wrong this time, with the value and the limit."""
    request_id: str
    """Identifier of the request, as in the X-Request-ID header and in the log."""
    errors: list[ParameterError] | None = None
    """The invalid parameters, if that is the problem."""


class TrackedFace(FaceEmotion):
    """A face in a frame of a stream: all fields but ``crop``, or ``track`` and those that ``fields`` selects.

    If the query's ``smooth`` is above 0, its probabilities are smoothed, and its label stays until the probability
    of another is higher by 0.1. Until then the face is ambiguous.
    """

    model_config = ConfigDict(json_schema_extra=_none_required)

    track: Annotated[int, Field(ge=1)] | None = None
    """The same number for the same face from frame to frame, from 1; null if the stream does not track faces."""


class FrameEmotions(Schema):
    """The answer for one frame of a stream."""

    frame: Annotated[int, Field(ge=1)]
    """The number of the frame in the stream, from 1."""
    dropped: Annotated[int, Field(ge=0)]
    """Frames right before this one that were dropped because newer ones came."""
    image: ImageSize
    """Size of the upright frame."""
    faces: list[TrackedFace]
    """The faces found, largest first; empty if there are none."""
    model: ModelIdentity
    """The model that answered."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def summary(self) -> Summary:
        """How many faces show each emotion, most frequent first; emotions that none shows are left out."""
        return count_emotions(self.faces)


class BatchLine(Schema):
    """The answer for one photo of a batch, or its problem."""

    index: Annotated[int, Field(ge=0)]
    """The number of the photo in the upload, from 0."""
    name: str
    """Its file name as uploaded, with the folders in a ZIP archive; cut to 255 characters."""
    answer: PhotoEmotions | None = None
    """The answer for the photo; absent if there is a problem."""
    problem: Problem | None = None
    """Why the photo has no answer; absent if it has one."""


class SelectedBatchLine(BatchLine):
    """One line of a batch's answer; the query's ``fields`` selects the fields of its faces. Only documents it."""

    answer: SelectedPhotoEmotions | None = None
    """The answer for the photo; absent if there is a problem."""


class BatchEmotions(Schema):
    """The answer for a batch as one JSON document."""

    photos: list[BatchLine]
    """One for each photo, in the order of the upload."""


class FrameProblem(Problem):
    """Why a frame has no answer, after which the stream goes on, or why the stream ends."""

    frame: Annotated[int, Field(ge=1)] | None = None
    """The number of the frame in the stream, from 1; absent if the problem is about the whole stream."""
    dropped: Annotated[int, Field(ge=0)] | None = None
    """Frames right before this one that were dropped because newer ones came."""
