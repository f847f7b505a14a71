import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from service.observability.tracing import TraceContext, Tracing, current

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


def of(traceparent: str) -> TraceContext:
    return TraceContext.of(Headers({"traceparent": traceparent}))


def test_goes_on_with_the_callers_trace() -> None:
    context = of(f"00-{TRACE}-{PARENT}-01")
    assert (context.trace_id, context.sampled) == (TRACE, True)
    assert context.span_id != PARENT
    assert context.traceparent == f"00-{TRACE}-{context.span_id}-01"
    assert of(context.traceparent).trace_id == TRACE
    assert of(f"01-{TRACE}-{PARENT}-00-something-new").trace_id == TRACE


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE}-{PARENT}",
    ],
)
def test_begins_one_where_the_callers_will_not_do(wrong: str) -> None:
    context = of(wrong)
    assert context.trace_id != TRACE
    assert not context.sampled


@given(st.text(st.characters(max_codepoint=255)))
def test_whatever_a_caller_sends_there_is_a_context(given: str) -> None:
    context = of(given)
    assert (len(context.trace_id), len(context.span_id)) == (32, 16)


def test_the_exchange_is_seen_inside_only() -> None:
    tracing = Tracing()
    scope = {"type": "http", "headers": [(b"traceparent", f"00-{TRACE}-{PARENT}-01".encode())]}
    with tracing.exchange(scope) as exchange, tracing.call("triton", {}) as headers:
        assert current.get() is exchange
        assert exchange.route == "unmatched"
        assert headers == {"traceparent": exchange.trace.traceparent}
    assert current.get() is None
    with tracing.call("triton", {}) as headers:
        assert headers == {}


def test_without_the_extra_all_works_and_only_asking_for_spans_is_refused() -> None:
    code = """
import sys
sys.modules["opentelemetry.sdk"] = None
sys.modules["opentelemetry.exporter"] = None
from service.api.app import create_app
from service.settings import Settings
from service.observability.tracing import TracingUnavailable
create_app(Settings())
try:
    create_app(Settings(otlp_endpoint="http://127.0.0.1:9"))
except TracingUnavailable as error:
    print(error)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "pip install 'tandem[otel]'" in ended.stdout
