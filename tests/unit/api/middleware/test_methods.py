"""HEAD, OPTIONS and slashes at the end, on routes of every kind that the app has."""

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from service.api.app import create_app
from service.api.middleware.methods import MethodsMiddleware, TrailingSlashMiddleware
from service.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def client_of(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t")


@pytest.fixture
def app() -> FastAPI:
    app = FastAPI(openapi_url=None, redirect_slashes=False)
    router = APIRouter()
    seen: list[str] = []
    app.state.seen = seen

    @router.get("/get")
    async def get(request: Request) -> str:
        seen.append(request.method)
        return "text"

    @router.post("/post")
    async def post() -> str:
        return "text"

    async def plain(request: Request) -> Response:
        return PlainTextResponse("text")

    app.include_router(router)
    app.add_route("/", plain)
    app.add_middleware(MethodsMiddleware)
    app.add_middleware(TrailingSlashMiddleware)
    return app


async def test_head_is_get_without_the_body(app: FastAPI) -> None:
    async with client_of(app) as client:
        for path in ("/get", "/", "/get/"):
            head, get = await client.head(path), await client.get(path)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers == get.headers
        assert (await client.head("/post")).status_code == 405
        assert (await client.head("/nothing")).status_code == 404
    assert app.state.seen == ["GET"] * 4


async def test_options_names_the_methods(app: FastAPI) -> None:
    async with client_of(app) as client:
        for path, allowed in {
            "/get": "GET, HEAD, OPTIONS",
            "/post": "POST, OPTIONS",
            "/": "GET, HEAD, OPTIONS",
        }.items():
            response = await client.options(path)
            assert (response.status_code, response.headers["Allow"], response.content) == (204, allowed, b"")
        assert (await client.options("/nothing")).status_code == 404


async def test_slashes_at_the_end_are_ignored(app: FastAPI) -> None:
    async with client_of(app) as client:
        assert (await client.get("/get/")).json() == "text"
        assert (await client.post("/post//")).json() == "text"


@pytest.mark.parametrize("operations_port", [None, 9999])
async def test_every_route_of_the_service_answers_both(operations_port: int | None) -> None:
    app = create_app(Settings(triton_url="127.0.0.1:9", operations_port=operations_port))
    async with client_of(app) as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
        for path in (*paths, "/", "/docs", "/openapi.json", "/page/page.js"):
            assert (await client.options(path)).status_code == 204, path
        for path in ("/", "/docs", "/docs/", "/openapi.json", "/page/page.js"):
            assert (await client.head(path)).status_code == 200, path
        assert ("/livez" in paths) == (operations_port is None)
