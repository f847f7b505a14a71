import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from service.observability.request_context import TraceContext

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


def parse(traceparent: str) -> TraceContext:
    return TraceContext.from_headers(Headers({"traceparent": traceparent}))


def test_continues_the_callers_trace() -> None:
    context = parse(f"00-{TRACE}-{PARENT}-01")
    assert (context.trace_id, context.sampled) == (TRACE, True)
    assert context.span_id != PARENT
    assert context.traceparent == f"00-{TRACE}-{context.span_id}-01"
    assert parse(context.traceparent).trace_id == TRACE
    assert parse(f"01-{TRACE}-{PARENT}-00-something-new").trace_id == TRACE


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
def test_starts_a_trace_if_the_callers_is_invalid(wrong: str) -> None:
    context = parse(wrong)
    assert context.trace_id != TRACE
    assert not context.sampled


@given(st.text(st.characters(max_codepoint=255)))
def test_any_header_gives_a_valid_context(given: str) -> None:
    context = parse(given)
    assert (len(context.trace_id), len(context.span_id)) == (32, 16)
