"""Metrics, logs and traces, with a real Triton."""

import gzip
import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from gateways import gateway, post
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from photos import astronaut, encoded, tiles
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from toy_model import write_repository

from service.observability.logging import JsonFormatter
from service.triton.server import LocalTriton

pytestmark = pytest.mark.anyio

PHOTO = encoded(astronaut())
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


class Collector:
    """Receives OTLP over HTTP like an OpenTelemetry collector, and keeps the spans."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                request = ExportTraceServiceRequest.FromString(body)
                for resource in request.resource_spans:
                    for scope in resource.scope_spans:
                        collector.spans.extend(scope.spans)
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Stay silent."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever)
    thread.start()
    yield collector
    collector.server.shutdown()
    thread.join()
    collector.server.server_close()


async def test_exemplars_link_buckets_to_traces(toy_triton: LocalTriton) -> None:
    async with gateway(triton_url=toy_triton.grpc_url) as client:
        # The photo comes last: a bucket keeps only the latest trace, and both requests may fall into the same one.
        await post(client, b"no photo")
        await post(client, encoded(tiles(3, 1)), traceparent=TRACEPARENT)
        response = await client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
        plain = (await client.get("/metrics")).headers["Content-Type"]
    assert plain.startswith("text/plain")
    assert response.headers["Content-Type"].startswith("application/openmetrics-text")
    families = {family.name: family for family in text_string_to_metric_families(response.text)}
    for name, labels in (
        ("tandem_stage_seconds", {"stage": "decode", "route": "/v1/emotions"}),
        ("tandem_request_seconds", {"route": "/v1/emotions"}),
        ("tandem_triton_seconds", {}),
    ):
        traces = {
            sample.exemplar.labels["trace_id"]
            for sample in families[name].samples
            if sample.exemplar and labels.items() <= sample.labels.items()
        }
        assert TRACE in traces, name
    labels = families["tandem_labels"].samples
    assert sum(sample.value for sample in labels if sample.name.endswith("_total")) == 3
    assert {sample.labels["version"] for sample in labels} == {"1"}
    assert families["tandem_build"].samples[0].labels["version"]


async def test_failed_calls_to_triton_are_counted(triton_home: Path, tmp_path: Path) -> None:
    with LocalTriton(home=triton_home, model_repository=write_repository(tmp_path)) as triton:
        async with gateway(triton_url=triton.grpc_url) as client:
            assert (await post(client, PHOTO)).status_code == 200
            assert "tandem_triton_errors_total{" not in (await client.get("/metrics")).text
            triton.stop()
            assert (await post(client, PHOTO)).status_code == 503
            text = (await client.get("/metrics")).text
    assert 'tandem_triton_errors_total{reason="triton-unavailable"} 1.0' in text
    assert "tandem_triton_seconds_count 2.0" in text


async def test_log_lines_name_request_and_trace(toy_triton: LocalTriton, caplog: pytest.LogCaptureFixture) -> None:
    lines: list[dict[str, object]] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(json.loads(self.format(record)))

    handler = Keep()
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("tandem.requests")
    logger.addHandler(handler)
    try:
        with caplog.at_level(logging.INFO):
            async with gateway(triton_url=toy_triton.grpc_url) as client:
                await post(client, PHOTO, traceparent=TRACEPARENT, **{"X-Request-ID": "mine"})
    finally:
        logger.removeHandler(handler)
    (line,) = lines
    assert (line["request_id"], line["trace_id"], line["status"]) == ("mine", TRACE, 200)
    assert line["span_id"] != PARENT


async def test_spans_cover_the_request_its_stages_and_triton(
    toy_triton: LocalTriton, collector: Collector
) -> None:
    async with gateway(triton_url=toy_triton.grpc_url, otlp_endpoint=collector.url) as client:
        await post(client, PHOTO, traceparent=TRACEPARENT, Accept="image/png")
        await post(client, b"no photo", traceparent=TRACEPARENT)
    by_name: dict[str, list[Span]] = {}
    for span in collector.spans:
        by_name.setdefault(span.name, []).append(span)
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    good, bad = by_name["POST /v1/emotions"]
    assert good.parent_span_id.hex() == PARENT
    attributes = {attribute.key: attribute.value for attribute in good.attributes}
    assert attributes["http.response.status_code"].int_value == 200
    assert attributes["tandem.faces"].int_value == 1
    failure = {attribute.key: attribute.value for attribute in bad.attributes}
    assert failure["error.type"].string_value == "unsupported-photo"
    for stage in ("decode", "detect", "align", "triton", "draw"):
        (span,) = [span for span in by_name[stage] if span.parent_span_id == good.span_id]
        assert good.start_time_unix_nano <= span.start_time_unix_nano + 2_000_000
        assert span.start_time_unix_nano <= span.end_time_unix_nano <= good.end_time_unix_nano + 2_000_000
    assert by_name["triton"][0].kind == Span.SPAN_KIND_CLIENT


async def test_a_missing_collector_does_no_harm(toy_triton: LocalTriton) -> None:
    async with gateway(triton_url=toy_triton.grpc_url, otlp_endpoint="http://127.0.0.1:9") as client:
        assert (await post(client, PHOTO)).status_code == 200
