"""What can go wrong with a request. Each error knows its HTTP status and its stable type (RFC 9457)."""

from http import HTTPStatus
from typing import ClassVar


class TandemError(Exception):
    """A failure that a caller is told about; ``str(error)`` is the problem's ``detail``."""

    status: ClassVar[int] = HTTPStatus.INTERNAL_SERVER_ERROR
    slug: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"
    retry_after_s: int | None = None

    @property
    def detail(self) -> str:
        """What was wrong here, with the value and the limit."""
        return str(self)


class BrokenUpload(TandemError):
    """The request does not carry a photo in any of the three forms."""

    status = HTTPStatus.BAD_REQUEST
    slug = "broken-upload"
    title = "The request carries no photo"


class UnsupportedUpload(TandemError):
    """The request's content type is none of the forms in which a photo is taken."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    slug = "unsupported-upload"
    title = "Not a content type that is read here"


class SlowUpload(TandemError):
    """The body did not arrive within ``upload_timeout_s``."""

    status = HTTPStatus.REQUEST_TIMEOUT
    slug = "slow-upload"
    title = "The upload did not arrive in time"


class HeadTooLarge(TandemError):
    """The request line and the headers have more bytes than are read."""

    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    slug = "head-too-large"
    title = "The request's head is too large"


class NotAcceptable(TandemError):
    """The ``Accept`` header allows none of the forms in which an answer is given."""

    status = HTTPStatus.NOT_ACCEPTABLE
    slug = "not-acceptable"
    title = "No acceptable form of answer"


class ForeignOrigin(TandemError):
    """A page of another site tries to open a stream from its visitor's browser."""

    status = HTTPStatus.FORBIDDEN
    slug = "foreign-origin"
    title = "Streams are not open to pages of other sites"


class UploadTooLarge(TandemError):
    """More bytes than ``max_upload_bytes``."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    slug = "upload-too-large"
    title = "The upload is too large"


class TooManyPhotos(TandemError):
    """More photos in a batch than ``max_batch_photos``."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    slug = "too-many-photos"
    title = "The batch has too many photos"


class PhotoTooLarge(TandemError):
    """More pixels than ``max_pixels``, found from the header before anything is decoded."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    slug = "photo-too-large"
    title = "The photo has too many pixels"


class UnsupportedPhoto(TandemError):
    """The bytes are not an image format that is read here."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    slug = "unsupported-photo"
    title = "Not an image format that is read here"


class UnreadablePhoto(TandemError):
    """The format is known, but the image in it cannot be decoded."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    slug = "unreadable-photo"
    title = "The photo cannot be read"


class BadParameter(TandemError):
    """A query parameter or a field has a value that is not allowed."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    slug = "bad-parameter"
    title = "A parameter is wrong"


class Overloaded(TandemError):
    """The queue of the gateway or of Triton is full."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    slug = "overloaded"
    title = "Too many requests are waiting"
    retry_after_s = 1


class TooManyStreams(Overloaded):
    """As many streams are open as ``max_streams`` allows."""

    slug = "too-many-streams"
    title = "Too many streams are open"


class Unauthorized(TandemError):
    """API keys are configured, and the request carries none of them."""

    status = HTTPStatus.UNAUTHORIZED
    slug = "unauthorized"
    title = "A valid API key is needed"


class TooManyRequests(TandemError):
    """The caller is over its rate limit or its limit of concurrent requests."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    slug = "too-many-requests"
    title = "Too many requests from this caller"
    retry_after_s = 1

    def __init__(self, detail: str, *, retry_after_s: int = 1) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class TritonUnavailable(TandemError):
    """Triton cannot be reached, is not ready, or failed.

    ``transient`` where the call never was worked on: another attempt may find another Triton, or this one again.
    """

    status = HTTPStatus.SERVICE_UNAVAILABLE
    slug = "triton-unavailable"
    title = "The inference server is not available"
    retry_after_s = 2

    def __init__(self, detail: str, *, transient: bool = False) -> None:
        super().__init__(detail)
        self.transient = transient


class ContractUnreadable(TritonUnavailable):
    """The model that Triton serves does not state what the gateway must know to use it."""

    slug = "contract-unreadable"
    title = "The served model's contract cannot be read"


class ModelChanged(TritonUnavailable):
    """Triton now serves another version of the model than the one whose contract was read."""

    slug = "model-changed"
    title = "The served model has changed"


class WorkerCrashed(TandemError):
    """The process that worked on the photo ended, or was ended: a decoder crashed, or memory ran out."""

    slug = "photo-process-ended"
    title = "The process that worked on the photo ended"


class NoWorkerAvailable(TandemError):
    """All processes that work on photos have ended, and could not be started again so far."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    slug = "no-photo-process"
    title = "No process can work on photos"
    retry_after_s = 1


class Draining(TandemError):
    """The service was told to stop and asks load balancers to look elsewhere."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    slug = "draining"
    title = "The service is shutting down"
    retry_after_s = 1


class DeadlineExceeded(TandemError):
    """The request took longer than ``request_timeout_s``, its upload included."""

    status = HTTPStatus.GATEWAY_TIMEOUT
    slug = "deadline-exceeded"
    title = "The answer did not come in time"
