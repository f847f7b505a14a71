"""Which request the code is at work for: its W3C trace context, and its spans where OpenTelemetry is used.

The context alone needs no library: it goes from the caller through the log and the metrics' exemplars to Triton.
Spans are made and sent where ``otlp_endpoint`` is set, which needs the extra ``otel``.
"""

import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.types import Scope

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

TRACEPARENT = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)
"""W3C Trace Context, section 3.2: version, trace id, parent id, flags, and in later versions more."""


class TracingUnavailable(Exception):
    """Spans are to be sent, but the library for it is not installed."""


@dataclass(frozen=True)
class TraceContext:
    """``trace_id`` (32 hex digits) is that of all that a request causes, ``span_id`` (16) that of our part."""

    trace_id: str
    span_id: str
    sampled: bool

    @classmethod
    def of(cls, headers: Headers) -> "TraceContext":
        """Go on with the caller's trace, or begin one that nobody records."""
        given = TRACEPARENT.fullmatch(headers.get("traceparent", "").strip())
        span_id = secrets.token_hex(8)
        if given and (given[1] != "00" or given[5] is None):
            return cls(given[2], span_id, sampled=bool(int(given[4], 16) & 1))
        return cls(secrets.token_hex(16), span_id, sampled=False)

    @property
    def traceparent(self) -> str:
        """The header for what this service calls."""
        return f"00-{self.trace_id}-{self.span_id}-{self.sampled:02x}"


@dataclass(frozen=True)
class Exchange:
    """The request or stream that the code is at work for."""

    scope: Scope
    trace: TraceContext

    @property
    def route(self) -> str:
        """The route's path, as far as the routing has come; «unmatched» before and without one."""
        return route_of(self.scope)


current: ContextVar[Exchange | None] = ContextVar("exchange", default=None)
"""Set by the middleware; tasks that a request starts see it too."""


def route_of(scope: Scope) -> str:
    """The path of the route that answers, with its parameters' names."""
    return str(getattr(scope.get("route"), "path", "unmatched"))


@contextmanager
def _entered(exchange: Exchange) -> Iterator[Exchange]:
    token = current.set(exchange)
    try:
        yield exchange
    finally:
        current.reset(token)


class Tracing:
    """Trace contexts without spans; what there is when no spans are to be sent."""

    @contextmanager
    def exchange(self, scope: Scope) -> Iterator[Exchange]:
        """Around one request: the code in it finds the exchange in ``current``."""
        with _entered(Exchange(scope, TraceContext.of(Headers(scope=scope)))) as exchange:
            yield exchange

    def steps(self, steps: Sequence[tuple[str, float, float]]) -> None:
        """What was done for the request: names, starts and ends, in seconds of ``time.perf_counter``."""

    @contextmanager
    def call(self, name: str, attributes: Mapping[str, str | int]) -> Iterator[dict[str, str]]:
        """Around a call to another service; gives the headers to send with it."""
        exchange = current.get()
        yield {"traceparent": exchange.trace.traceparent} if exchange else {}

    def close(self) -> None:
        """Send what is not sent yet; takes a while, and is for a thread."""


class SpanTracing(Tracing):
    """OpenTelemetry: spans of requests, of their steps, and of calls to Triton, sent as OTLP over HTTP."""

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry import trace  # noqa: PLC0415 - an extra
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self._provider = provider
        self._trace = trace
        self._propagator = TraceContextTextMapPropagator()
        self._tracer = provider.get_tracer("tandem")

    @contextmanager
    def exchange(self, scope: Scope) -> Iterator[Exchange]:
        """Around one request: a span, child of the caller's."""
        parent = self._propagator.extract(dict(Headers(scope=scope)))
        method = scope.get("method", "WEBSOCKET")
        with self._tracer.start_as_current_span(
            method,
            parent,
            kind=self._trace.SpanKind.SERVER,
            attributes={"http.request.method": method, "url.path": scope["path"]},
        ) as span:
            context = span.get_span_context()
            mine = TraceContext(f"{context.trace_id:032x}", f"{context.span_id:016x}", context.trace_flags.sampled)
            with _entered(Exchange(scope, mine)) as exchange:
                try:
                    yield exchange
                finally:
                    span.update_name(f"{method} {exchange.route}")
                    span.set_attribute("http.route", exchange.route)
                    self._describe(span, scope.get("state", {}))

    def _describe(self, span: Any, state: Mapping[str, Any]) -> None:
        for name, attribute in (("status", "http.response.status_code"), ("faces", "tandem.faces")):
            if name in state:
                span.set_attribute(attribute, state[name])
        if "problem" in state:
            span.set_attribute("error.type", state["problem"])
        if state.get("status", 0) >= 500:  # of the caller's own errors a server's span is no failure
            span.set_status(self._trace.StatusCode.ERROR)

    def steps(self, steps: Sequence[tuple[str, float, float]]) -> None:
        """A span for each step, made afterwards: the processes that did them know nothing of spans."""
        zero = time.time_ns() - time.perf_counter_ns()
        for name, start, end in steps:
            self._tracer.start_span(name, start_time=zero + round(start * 1e9)).end(zero + round(end * 1e9))

    @contextmanager
    def call(self, name: str, attributes: Mapping[str, str | int]) -> Iterator[dict[str, str]]:
        """A span whose context the call carries."""
        kind = self._trace.SpanKind.CLIENT
        with self._tracer.start_as_current_span(name, kind=kind, attributes=dict(attributes)):
            headers: dict[str, str] = {}
            self._propagator.inject(headers)
            yield headers

    def close(self) -> None:
        """Send what is not sent yet."""
        self._provider.shutdown()


def tracing_for(otlp_endpoint: str | None, *, version: str) -> Tracing:
    """Spans to a collector at this URL, such as ``http://collector:4318``; without one, contexts alone.

    Raises:
        TracingUnavailable: the extra ``otel`` is not installed.
    """
    if otlp_endpoint is None:
        return Tracing()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        raise TracingUnavailable(
            f"TANDEM_OTLP_ENDPOINT is set, but {error.name} is not installed: pip install 'tandem[otel]'"
        ) from None
    provider = TracerProvider(resource=Resource.create({"service.name": "tandem", "service.version": version}))
    exporter = OTLPSpanExporter(endpoint=f"{otlp_endpoint.rstrip('/')}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return SpanTracing(provider)
