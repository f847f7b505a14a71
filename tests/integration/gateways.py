"""A gateway in the test's own process, and how to talk to it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from service.app import create_app
from service.gateway import Gateway
from service.settings import Settings


@asynccontextmanager
async def gateway(**settings: object) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway with these settings; it needs a ``triton_url``."""
    app = create_app(Settings(**settings))  # type: ignore[arg-type]
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://tandem", timeout=60) as client,
    ):
        yield client


def parts(client: httpx.AsyncClient) -> Gateway:
    """The parts of the gateway that a client of ``gateway`` asks."""
    transport = client._transport
    assert isinstance(transport, httpx.ASGITransport)
    found: Gateway = transport.app.state.gateway  # type: ignore[attr-defined]
    return found


async def post(
    client: httpx.AsyncClient, content: bytes, kind: str = "image/jpeg", *, query: str = "", **headers: str
) -> httpx.Response:
    """One photo as raw body."""
    headers = {"Content-Type": kind, **headers}
    return await client.post(f"/v1/emotions{query}", content=content, headers=headers)


def problem(response: httpx.Response, status: int, slug: str) -> str:
    """The detail of the problem that the response must be."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    body = response.json()
    assert body["type"] == f"urn:tandem:problem:{slug}"
    assert body["status"] == status
    assert body["request_id"] == response.headers["X-Request-ID"]
    assert body["title"]
    if status == 503:
        assert int(response.headers["Retry-After"]) >= 1
    return str(body["detail"])
