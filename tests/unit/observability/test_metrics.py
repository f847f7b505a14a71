from service import __version__
from service.observability.metrics import Metrics, server_timing


def test_each_app_counts_for_itself() -> None:
    first, second = Metrics(), Metrics()
    first.requests.labels("/v1/emotions", "POST", "200").inc()
    line = b'tandem_requests_total{method="POST",route="/v1/emotions",status="200"} 1.0'
    assert line in first.exposition()[0]
    assert line not in second.exposition()[0]


def test_stages_and_build_are_exposed() -> None:
    metrics = Metrics()
    metrics.observe_stages({"decode": 0.02})
    text = metrics.exposition()[0].decode()
    assert 'tandem_stage_seconds_bucket{le="0.025",route="",stage="decode"} 1.0' in text
    assert f'tandem_build_info{{version="{__version__}"}} 1.0' in text
    assert "process_resident_memory_bytes" in text


def test_server_timing_is_in_milliseconds() -> None:
    assert server_timing({"decode": 0.0123, "triton": 1}) == "decode;dur=12.3, triton;dur=1000.0"
