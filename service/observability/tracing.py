"""Distributed tracing: W3C trace contexts always, OpenTelemetry spans if an endpoint is configured.

A trace context goes from the caller through the logs and the metrics' exemplars to Triton and needs no library.
Spans are recorded and exported only if ``otlp_endpoint`` is set, which needs the extra ``otel``.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.types import Scope

from service.errors import ExtraMissing, install_command
from service.observability.request_context import RequestContext, TraceContext, activated, current_request
from service.observability.timing import StageTiming

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span


class Tracing:
    """Passes trace contexts on without recording spans."""

    @contextmanager
    def server_span(self, scope: Scope, request_id: str, deadline: float = math.inf) -> Iterator[RequestContext]:
        """Wrap a request; code inside finds its context in ``current_request`` and in the scope."""
        trace = TraceContext.from_headers(Headers(scope=scope))
        with activated(RequestContext(scope, trace, request_id, deadline)) as context:
            yield context

    def stage_spans(self, stages: Sequence[StageTiming]) -> None:
        """Record a span for each finished stage of the current request."""

    @contextmanager
    def client_span(self, name: str, attributes: Mapping[str, str | int]) -> Iterator[dict[str, str]]:
        """Wrap a call to another service; yields the headers to send with it."""
        context = current_request.get()
        yield {"traceparent": context.trace.traceparent} if context else {}

    def close(self) -> None:
        """Export what is still pending. Blocks, so call it in a thread."""


class SpanTracing(Tracing):
    """Records spans of requests, stages and calls to Triton, and exports them as OTLP over HTTP."""

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry import trace  # noqa: PLC0415 - an extra
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self._provider = provider
        self._trace = trace
        self._propagator = TraceContextTextMapPropagator()
        self._tracer = provider.get_tracer("tandem")

    @contextmanager
    def server_span(self, scope: Scope, request_id: str, deadline: float = math.inf) -> Iterator[RequestContext]:
        """Wrap a request in a span, a child of the caller's."""
        parent = self._propagator.extract(dict(Headers(scope=scope)))
        method = scope.get("method", "WEBSOCKET")
        with self._tracer.start_as_current_span(
            method,
            parent,
            kind=self._trace.SpanKind.SERVER,
            attributes={"http.request.method": method, "url.path": scope["path"]},
        ) as span:
            ids = span.get_span_context()
            trace = TraceContext(f"{ids.trace_id:032x}", f"{ids.span_id:016x}", ids.trace_flags.sampled)
            with activated(RequestContext(scope, trace, request_id, deadline)) as context:
                try:
                    yield context
                finally:
                    span.update_name(f"{method} {context.route}")
                    span.set_attribute("http.route", context.route)
                    self._describe(span, context)

    def _describe(self, span: "Span", context: RequestContext) -> None:
        attributes = {
            "http.response.status_code": context.status,
            "tandem.faces": context.faces,
            "error.type": context.problem,
        }
        span.set_attributes({name: value for name, value in attributes.items() if value is not None})
        if (context.status or 0) >= 500:  # by convention 4xx is not an error of a server span
            span.set_status(self._trace.StatusCode.ERROR)

    def stage_spans(self, stages: Sequence[StageTiming]) -> None:
        """Record the spans after the fact: the worker processes that ran the stages do not trace."""
        offset = time.time_ns() - time.perf_counter_ns()
        for name, start, end in stages:
            span = self._tracer.start_span(name, start_time=offset + round(start * 1e9))
            span.end(offset + round(end * 1e9))

    @contextmanager
    def client_span(self, name: str, attributes: Mapping[str, str | int]) -> Iterator[dict[str, str]]:
        """Wrap a call in a span of its own; the headers carry that span's context."""
        kind = self._trace.SpanKind.CLIENT
        with self._tracer.start_as_current_span(name, kind=kind, attributes=dict(attributes)):
            headers: dict[str, str] = {}
            self._propagator.inject(headers)
            yield headers

    def close(self) -> None:
        """Export the pending spans and stop the exporter."""
        self._provider.shutdown()


def create_tracing(otlp_endpoint: str | None, *, version: str) -> Tracing:
    """Export spans to a collector's base URL, such as ``http://collector:4318``; no spans if it is None.

    Raises:
        ExtraMissing: the extra ``otel`` is not installed.
    """
    if otlp_endpoint is None:
        return Tracing()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        raise ExtraMissing(
            f"TANDEM_OTLP_ENDPOINT is set, but {error.name} is not installed: {install_command('otel')}"
        ) from None
    provider = TracerProvider(resource=Resource.create({"service.name": "tandem", "service.version": version}))
    exporter = OTLPSpanExporter(endpoint=f"{otlp_endpoint.rstrip('/')}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return SpanTracing(provider)
