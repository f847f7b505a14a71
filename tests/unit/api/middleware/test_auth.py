import asyncio
from collections.abc import Awaitable, Callable

import httpx
from fastapi import FastAPI, Request

from service.api.middleware.auth import PHOTO_ROUTE, AuthMiddleware
from service.api.middleware.rate_limit import RateLimiter
from service.api.middleware.request_log import RequestLogMiddleware
from service.api.problems import add_problem_handlers
from service.api_keys import KeyRing, create_key
from service.errors import Overloaded
from service.observability.metrics import Metrics
from service.observability.request_context import RequestContext
from service.observability.tracing import Tracing

KEYS = {name: create_key(name) for name in ("greedy", "modest")}
BATCH_ROUTE = "/v1/emotions/batch"


class Service:
    """An app with two callers; its requests wait for ``go``, or are refused if their body is "full"."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.in_progress = 0
        app = FastAPI(openapi_url=None)
        app.post(PHOTO_ROUTE)(self._answer)
        app.post(BATCH_ROUTE)(self._answer)
        add_problem_handlers(app)
        keys = KeyRing.from_lines(key.line for key in KEYS.values())
        limiter = RateLimiter(rate=None, window_s=60, concurrent=None)
        app.add_middleware(AuthMiddleware, keys=keys, limiter=limiter)
        app.add_middleware(RequestLogMiddleware, metrics=Metrics(), tracing=Tracing())
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://tandem")

    async def _answer(self, request: Request) -> str | None:
        if await request.body() == b"full":
            raise Overloaded("full")
        self.in_progress += 1
        await self.go.wait()
        return RequestContext.of(request.scope).key_name

    async def ask(self, name: str, body: str = "", path: str = PHOTO_ROUTE) -> httpx.Response:
        return await self.client.post(path, content=body, headers={"X-API-Key": KEYS[name].secret})

    async def start(self, *names: str) -> list[asyncio.Task[httpx.Response]]:
        """Start requests and return when they are in progress."""
        expected = self.in_progress + len(names)
        tasks = [asyncio.create_task(self.ask(name)) for name in names]
        async with asyncio.timeout(60):
            while self.in_progress < expected:
                assert not any(task.done() for task in tasks)
                await asyncio.sleep(0)
        return tasks

    async def finish(self, tasks: list[asyncio.Task[httpx.Response]]) -> set[int]:
        """Let all requests finish, and return their statuses."""
        self.go.set()
        return {response.status_code for response in await asyncio.gather(*tasks)}


def run(scenario: Callable[[Service], Awaitable[None]]) -> None:
    async def start() -> None:
        service = Service()
        async with asyncio.timeout(20), service.client:
            await scenario(service)

    asyncio.run(start())


def test_the_context_names_the_key() -> None:
    async def scenario(service: Service) -> None:
        service.go.set()
        assert (await service.ask("modest")).json() == "modest"

    run(scenario)


def test_after_a_photo_was_refused_callers_share_the_service() -> None:
    async def scenario(service: Service) -> None:
        tasks = await service.start(*["greedy"] * 5, "modest")
        assert (await service.ask("modest", "full")).status_code == 503
        refused = await service.ask("greedy")
        assert refused.status_code == 429
        assert refused.json()["type"] == "urn:tandem:problem:too-many-requests"
        assert refused.headers["Retry-After"] == "1"
        tasks += await service.start("modest")
        assert await service.finish(tasks) == {200}

    run(scenario)


def test_after_a_batch_was_refused_they_do_not() -> None:
    async def scenario(service: Service) -> None:
        tasks = await service.start(*["greedy"] * 5, "modest")
        assert (await service.ask("modest", "full", BATCH_ROUTE)).status_code == 503
        tasks += await service.start("greedy")
        assert await service.finish(tasks) == {200}

    run(scenario)
