"""Errors of a request. Each knows its HTTP status and its stable problem type (RFC 9457)."""

import shlex
import sys
from http import HTTPStatus
from typing import ClassVar


def install_command(extra: str) -> str:
    """Return the command that installs an extra where this Python finds it; a bare pip may be another Python's."""
    return f"{shlex.quote(sys.executable)} -m pip install 'tandem-emotions[{extra}]'"


class ExtraMissing(Exception):
    """A setting needs an extra that is not installed; the message names both."""


class TandemError(Exception):
    """An error that the caller is told about; ``str(error)`` is the problem's ``detail``."""

    status: ClassVar[int] = HTTPStatus.INTERNAL_SERVER_ERROR
    slug: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"
    retry_after_s: int | None = None

    @property
    def detail(self) -> str:
        """What was wrong, with the value and the limit."""
        return str(self)


class BadRequest(TandemError):
    """What arrived is not valid HTTP, or not a valid WebSocket handshake."""

    status = HTTPStatus.BAD_REQUEST
    slug = "bad-request"
    title = "Bad Request"


class BrokenUpload(TandemError):
    """The body is empty or broken, or does not carry what the route needs."""

    status = HTTPStatus.BAD_REQUEST
    slug = "broken-upload"
    title = "The request carries no photo"


class UnsupportedUpload(TandemError):
    """The content type is none of those in which photos are accepted."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    slug = "unsupported-upload"
    title = "The content type is not supported"


class SlowUpload(TandemError):
    """The body did not arrive within ``upload_timeout_s``."""

    status = HTTPStatus.REQUEST_TIMEOUT
    slug = "slow-upload"
    title = "The upload did not arrive in time"


class HeadTooLarge(TandemError):
    """The request line and the headers have too many bytes."""

    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    slug = "head-too-large"
    title = "The request's head is too large"


class NotAcceptable(TandemError):
    """The ``Accept`` header allows none of the available formats."""

    status = HTTPStatus.NOT_ACCEPTABLE
    slug = "not-acceptable"
    title = "No acceptable response format"


class NoStreamHere(TandemError):
    """A WebSocket is asked for at a path that has none."""

    status = HTTPStatus.NOT_FOUND
    slug = "not-found"
    title = "Not Found"


class ForeignOrigin(TandemError):
    """A page of another site tries to open a stream from a visitor's browser."""

    status = HTTPStatus.FORBIDDEN
    slug = "foreign-origin"
    title = "Streams are not open to pages of other sites"


class UploadTooLarge(TandemError):
    """The upload has more bytes than ``max_upload_bytes``, or a batch more than ``max_batch_bytes``."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    slug = "upload-too-large"
    title = "The upload is too large"


class TooManyPhotos(TandemError):
    """The batch has more photos than ``max_batch_photos``."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    slug = "too-many-photos"
    title = "The batch has too many photos"


class PhotoTooLarge(TandemError):
    """The photo has more pixels than ``max_pixels`` according to its header; nothing was decoded."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    slug = "photo-too-large"
    title = "The photo has too many pixels"


class UnsupportedPhoto(TandemError):
    """The bytes are not in a supported image format."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    slug = "unsupported-photo"
    title = "The image format is not supported"


class UnreadablePhoto(TandemError):
    """The format is supported, but the image cannot be decoded."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    slug = "unreadable-photo"
    title = "The photo cannot be read"


class UrlRefused(TandemError):
    """A photo's URL leads to where the gateway does not fetch from."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    slug = "url-refused"
    title = "The URL is not fetched"


class FetchFailed(TandemError):
    """The server of a photo's URL does not answer with an image in time."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    slug = "fetch-failed"
    title = "The photo at the URL cannot be fetched"


class BadParameter(TandemError):
    """A query parameter is unknown or has an invalid value."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    slug = "bad-parameter"
    title = "A parameter is invalid"


class Overloaded(TandemError):
    """The queue of the gateway or of Triton is full, or memory for uploads is."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    slug = "overloaded"
    title = "Too many requests are waiting"
    retry_after_s = 1


class TooManyStreams(Overloaded):
    """``max_streams`` streams are open."""

    slug = "too-many-streams"
    title = "Too many streams are open"


class Unauthorized(TandemError):
    """API keys are configured, and the request carries no valid one."""

    status = HTTPStatus.UNAUTHORIZED
    slug = "unauthorized"
    title = "A valid API key is required"


class TooManyRequests(TandemError):
    """The caller has exceeded its rate limit or its limit of concurrent requests."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    slug = "too-many-requests"
    title = "Too many requests from this caller"
    retry_after_s = 1

    def __init__(self, detail: str, *, retry_after_s: int = 1) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class TritonUnavailable(TandemError):
    """Triton cannot be reached, is not ready, or failed.

    ``transient`` if the call was never worked on: another attempt may reach another Triton, or this one again.
    """

    status = HTTPStatus.SERVICE_UNAVAILABLE
    slug = "triton-unavailable"
    title = "The inference server is not available"
    retry_after_s = 2

    def __init__(self, detail: str, *, transient: bool = False) -> None:
        super().__init__(detail)
        self.transient = transient


class ContractUnreadable(TritonUnavailable):
    """The served model's configuration lacks what the gateway needs to use it."""

    slug = "contract-unreadable"
    title = "The served model's contract cannot be read"


class ModelChanged(TritonUnavailable):
    """Triton now serves another version of the model than the one whose configuration was read."""

    slug = "model-changed"
    title = "The served model has changed"


class WorkerCrashed(TandemError):
    """The worker process that worked on the photo ended: it crashed, ran out of memory, or took too long."""

    slug = "photo-process-ended"
    title = "The worker process ended while it worked on the photo"


class NoWorkerAvailable(TandemError):
    """All worker processes have ended, and none could be restarted so far."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    slug = "no-photo-process"
    title = "No worker process is available"
    retry_after_s = 1


class Draining(TandemError):
    """The service was told to stop, and load balancers should use other instances."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    slug = "draining"
    title = "The service is shutting down"
    retry_after_s = 1


class DeadlineExceeded(TandemError):
    """The request took longer than ``request_timeout_s``, its upload included."""

    status = HTTPStatus.GATEWAY_TIMEOUT
    slug = "deadline-exceeded"
    title = "The answer did not come in time"
