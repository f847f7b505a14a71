import asyncio
import logging
import time

import httpx
import pytest
from fastapi import FastAPI, Request

from service.api.middleware.request_log import RequestLogMiddleware
from service.api.problems import add_problem_handlers
from service.errors import Draining
from service.observability.metrics import Metrics
from service.observability.request_context import RequestContext
from service.observability.tracing import Tracing


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def app(metrics: Metrics) -> FastAPI:
    app = FastAPI(openapi_url=None)

    @app.get("/fine")
    async def fine(request: Request) -> str:
        return RequestContext.of(request.scope).request_id

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("a secret")

    @app.get("/livez")
    async def livez() -> None:
        pass

    @app.get("/readyz")
    async def readyz() -> None:
        raise Draining("stopping")

    @app.get("/deadline")
    async def deadline(request: Request) -> float:
        return RequestContext.of(request.scope).deadline - time.monotonic()

    @app.post("/upload")
    async def upload(request: Request) -> int:
        return len(await request.body())

    add_problem_handlers(app)
    app.add_middleware(RequestLogMiddleware, metrics=metrics, tracing=Tracing(), request_timeout_s=30)
    return app


def ask(app: FastAPI, method: str, path: str, **headers: str) -> httpx.Response:
    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(send())


def test_keeps_the_callers_request_id(app: FastAPI) -> None:
    response = ask(app, "GET", "/fine", **{"X-Request-ID": "abc-123"})
    assert response.headers["X-Request-ID"] == "abc-123"
    assert response.json() == "abc-123"


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, '"quoted"', "a;b"])
def test_creates_a_request_id_if_the_callers_is_unusable(app: FastAPI, given: str) -> None:
    made = ask(app, "GET", "/fine", **{"X-Request-ID": given}).headers["X-Request-ID"]
    assert made != given
    assert len(made) == 32


def test_an_unexpected_error_is_a_problem_without_a_traceback(
    app: FastAPI, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    response = ask(app, "GET", "/broken")
    assert response.status_code == 500
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert problem["type"] == "urn:tandem:problem:internal"
    assert problem["request_id"] == response.headers["X-Request-ID"]
    assert "secret" not in response.text
    assert "a secret" in caplog.text
    assert b'tandem_rejected_total{reason="internal"} 1.0' in metrics.exposition()[0]


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nothing", 404), ("PUT", "/fine", 405)])
def test_routing_errors_are_problems(app: FastAPI, method: str, path: str, status: int) -> None:
    response = ask(app, method, path)
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json()["status"] == status
    if status == 405:
        assert response.headers["Allow"] == "GET"


def test_counts_by_route_and_not_by_path_or_invented_method(app: FastAPI, metrics: Metrics) -> None:
    for number in range(3):
        ask(app, "GET", f"/nothing/{number}")
        ask(app, f"ODD{number}", "/fine")
    text = metrics.exposition()[0].decode()
    assert 'tandem_requests_total{method="GET",route="unmatched",status="404"} 3.0' in text
    assert 'tandem_requests_total{method="other",route="/fine",status="405"} 3.0' in text
    assert "tandem_in_flight 0.0" in text


def test_each_request_is_logged_once(app: FastAPI, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "tandem.requests"):
        ask(app, "GET", "/fine?token=abc", **{"X-Request-ID": "r1"})
    (record,) = [r for r in caplog.records if r.name == "tandem.requests"]
    fields = record.__dict__["fields"]
    assert fields.pop("duration_ms") >= 0
    assert fields == {"request_id": "r1", "method": "GET", "route": "/fine", "status": 200}


@pytest.mark.parametrize(
    ("path", "level"),
    [
        ("/fine", logging.INFO),
        ("/nothing", logging.INFO),
        ("/broken", logging.WARNING),
        ("/livez", logging.DEBUG),
        ("/readyz", logging.WARNING),
    ],
)
def test_errors_of_the_service_are_warnings_and_polled_routes_are_quiet(
    app: FastAPI, caplog: pytest.LogCaptureFixture, path: str, level: int
) -> None:
    with caplog.at_level(logging.DEBUG, "tandem.requests"):
        ask(app, "GET", path)
    (record,) = [r for r in caplog.records if r.name == "tandem.requests" and r.message == "request"]
    assert record.levelno == level


def test_the_deadline_counts_from_the_arrival_of_the_request(app: FastAPI) -> None:
    assert 20 < ask(app, "GET", "/deadline").json() <= 30


def test_a_caller_who_disconnects_is_counted_and_is_not_an_error(
    app: FastAPI, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    sent: list[object] = []

    async def receive() -> dict[str, object]:
        return {"type": "http.disconnect"}

    async def send(message: object) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/upload", "headers": [], "query_string": b""}
    asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]
    assert b'tandem_requests_total{method="POST",route="/upload",status="499"} 1.0' in metrics.exposition()[0]
    assert sent == []
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(("method", "path"), [("GET", "/fine"), ("GET", "/broken"), ("GET", "/nothing")])
def test_every_answer_carries_the_security_headers(app: FastAPI, method: str, path: str) -> None:
    headers = ask(app, method, path).headers
    assert headers["Cache-Control"] == "no-store"
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; frame-ancestors 'none'")
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
