"""The exceptions of the client: one family, with the fields of a problem document (RFC 9457)."""

from service.schemas import ParameterError, Problem


class CallFailed(Exception):
    """A photo got no answer; the message says why.

    The properties are the fields of the gateway's problem document, and None if it sent none.
    """

    problem: Problem | None = None
    """The problem document."""
    retry_after_s: float | None = None
    """Seconds to wait before a retry; None if the gateway does not say."""
    status: int | None = None
    """HTTP status of the answer."""

    @property
    def type(self) -> str | None:
        """Stable identifier of the kind of problem, such as ``urn:tandem:problem:overloaded``."""
        return self.problem.type if self.problem else None

    @property
    def title(self) -> str | None:
        """Short summary of the kind of problem."""
        return self.problem.title if self.problem else None

    @property
    def detail(self) -> str:
        """What was wrong; the message itself if the gateway did not say it."""
        return self.problem.detail if self.problem else str(self)

    @property
    def request_id(self) -> str | None:
        """Id of the request in the gateway's log."""
        return self.problem.request_id if self.problem else None

    @property
    def errors(self) -> list[ParameterError]:
        """What is wrong with each parameter, if that is the problem."""
        return (self.problem.errors if self.problem else None) or []


class NoAnswer(CallFailed):
    """No gateway answers at the URL, the connection broke, or the request timed out."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Refused(CallFailed):
    """The gateway rejected the request."""

    problem: Problem

    def __init__(self, problem: Problem, retry_after_s: float | None) -> None:
        super().__init__(problem.detail)
        self.problem = problem
        self.retry_after_s = retry_after_s
        self.status = problem.status


class UnusablePhoto(CallFailed, TypeError):
    """What was passed is not a photo, and nothing was sent."""


class UnreadableFile(CallFailed, OSError):
    """The file of a photo cannot be read, and nothing was sent."""


class NoSuchFile(UnreadableFile, FileNotFoundError):
    """There is no file at the path of a photo, and nothing was sent."""
