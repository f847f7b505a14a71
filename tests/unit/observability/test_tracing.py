import subprocess
import sys

from service.observability.request_context import RequestContext, current_request
from service.observability.tracing import Tracing

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


def test_the_request_context_is_set_inside_the_server_span_only() -> None:
    tracing = Tracing()
    scope = {"type": "http", "headers": [(b"traceparent", f"00-{TRACE}-{PARENT}-01".encode())]}
    with tracing.server_span(scope, "id") as context, tracing.client_span("triton", {}) as headers:
        assert current_request.get() is RequestContext.of(scope) is context
        assert context.request_id == "id"
        assert context.route == "unmatched"
        assert context.trace.trace_id == TRACE
        assert headers == {"traceparent": context.trace.traceparent}
    assert current_request.get() is None
    with tracing.client_span("triton", {}) as headers:
        assert headers == {}


def test_the_extra_is_needed_only_to_export_spans() -> None:
    code = """
import sys
sys.modules["opentelemetry.sdk"] = None
sys.modules["opentelemetry.exporter"] = None
from service.api.app import create_app
from service.settings import Settings
from service.errors import ExtraMissing
create_app(Settings())
try:
    create_app(Settings(otlp_endpoint="http://127.0.0.1:9"))
except ExtraMissing as error:
    print(error)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "pip install 'tandem-emotions[otel]'" in ended.stdout
