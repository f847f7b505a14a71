"""The request that the running code belongs to, and its W3C trace context."""

import math
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import Scope

SCOPE_KEY = "tandem.request_context"
"""Where the ASGI scope holds the context."""

TRACEPARENT = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)
"""W3C Trace Context, section 3.2: version, trace id, parent id, flags; later versions may append fields."""


@dataclass(frozen=True)
class TraceContext:
    """``trace_id`` (32 hex digits) identifies the whole trace, ``span_id`` (16 hex digits) this service's span."""

    trace_id: str
    span_id: str
    sampled: bool

    @classmethod
    def from_headers(cls, headers: Headers) -> "TraceContext":
        """Continue the caller's trace, or start one that is not sampled."""
        given = TRACEPARENT.fullmatch(headers.get("traceparent", "").strip())
        span_id = secrets.token_hex(8)
        if given and (given[1] != "00" or given[5] is None):
            return cls(given[2], span_id, sampled=bool(int(given[4], 16) & 1))
        return cls(secrets.token_hex(16), span_id, sampled=False)

    @property
    def traceparent(self) -> str:
        """The header to send with outgoing calls."""
        return f"00-{self.trace_id}-{self.span_id}-{self.sampled:02x}"


@dataclass
class RequestContext:
    """What is known about an HTTP request or a WebSocket, from its arrival to its end.

    The outermost middleware creates it. Middleware and routes add to it, and logs, metrics and spans report it.
    """

    scope: Scope
    trace: TraceContext
    request_id: str
    deadline: float = math.inf
    """Until when the request may take, in seconds of ``time.monotonic``."""
    caller: str = ""
    """Whose requests the rate limiter counts this one among."""
    key_name: str | None = None
    """Name of the API key that the request carries."""
    faces: int | None = None
    """How many faces were answered."""
    problem: str | None = None
    """Slug of the problem that is the answer."""
    status: int | None = None
    """HTTP status of the answer."""

    @classmethod
    def of(cls, scope: Scope) -> "RequestContext":
        """Return the context of the request with this scope."""
        context: RequestContext = scope[SCOPE_KEY]
        return context

    @property
    def route(self) -> str:
        """The path of the matched route; see ``route_of``."""
        return route_of(self.scope)


current_request: ContextVar[RequestContext | None] = ContextVar("current_request", default=None)
"""Set for the duration of a request; tasks that the request starts inherit it."""


def route_of(scope: Scope) -> str:
    """Return the path of the matched route with its parameters' names; ``unmatched`` if there is none (yet).

    A route with an attribute ``counts_as`` counts as another one.
    """
    route = scope.get("route")
    return str(getattr(route, "counts_as", getattr(route, "path", "unmatched")))


@contextmanager
def activated(context: RequestContext) -> Iterator[RequestContext]:
    """Make ``context`` the current request inside the block, and that of its scope."""
    context.scope[SCOPE_KEY] = context
    token = current_request.set(context)
    try:
        yield context
    finally:
        current_request.reset(token)
