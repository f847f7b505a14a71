"""Wires the parts into an app; nothing else knows all of them."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from service import __version__
from service.analyzer import Analyzer
from service.api.admission import Streams
from service.api.dependencies import AppState
from service.api.docs_page import reference_page
from service.api.middleware.auth import AuthMiddleware, key_ring
from service.api.middleware.load_shedding import LoadSheddingMiddleware
from service.api.middleware.rate_limit import RateLimiter
from service.api.middleware.request_log import RequestLogMiddleware
from service.api.openapi import complete
from service.api.problems import add_problem_handlers
from service.api.routes.emotions import router
from service.api.routes.health import router as operations_router
from service.api.routes.stream import router as stream_router
from service.api.ui import router as page_router
from service.budget import Budget, mebibytes
from service.errors import TandemError
from service.inference.shadow import connect
from service.observability.metrics import Metrics
from service.observability.tracing import Tracing, create_tracing
from service.settings import Settings
from service.workers.metrics import WorkerMetrics
from service.workers.pool import WorkerPool
from service.workers.queue import WorkQueue

DESCRIPTION = (
    "Post a photo, get the emotion that every face in it shows. Labels describe what a face shows, not what a "
    "person feels. No photo is kept or logged."
)

logger = logging.getLogger("tandem.gateway")


def create_app(settings: Settings) -> FastAPI:
    """The gateway as an ASGI app; its parts are built when its lifespan begins.

    The app starts without Triton too: it is not ready then, says why, and finds Triton once it is there.
    """
    metrics = Metrics()
    tracing = create_tracing(settings.otlp_endpoint, version=__version__)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if settings.triton_url is None:
            raise ValueError("no Triton: set TANDEM_TRITON_URL, or let `tandem serve` start one")
        pool = WorkerPool(
            settings.workers,
            memory=Budget(
                settings.max_decoding_bytes,
                what="memory for decoding",
                setting="TANDEM_MAX_DECODING_BYTES",
                show=mebibytes,
            ),
            task_timeout_s=settings.request_timeout_s,
        )
        triton = connect(settings, settings.triton_url, metrics)
        await pool.start()
        metrics.registry.register(WorkerMetrics(pool.pids))
        queue = WorkQueue(pool, settings.max_waiting, metrics)
        analyzer = Analyzer(settings, triton=triton, queue=queue, metrics=metrics, tracing=tracing)
        streams = Streams(settings.max_streams)
        batches = Budget(settings.max_batches, what="batches", setting="TANDEM_MAX_BATCHES")
        uploads = Budget(
            settings.max_held_bytes, what="memory for uploads", setting="TANDEM_MAX_HELD_BYTES", show=mebibytes
        )
        app_state = AppState(settings, metrics, triton, queue, analyzer, streams, batches, uploads)
        app.state.app_state = app_state
        try:
            await triton.model_spec()
        except TandemError as error:
            logger.warning("not ready: %s", error.detail)
        try:
            yield
        finally:
            app_state.draining = True
            await streams.close()
            await queue.drain()
            await pool.close()
            await triton.close()
            await asyncio.to_thread(tracing.close)

    app = FastAPI(
        title="Tandem",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # RequestObserver does all of these
    )
    app.state.metrics = metrics
    app.include_router(router)
    if settings.operations_port is None:
        app.include_router(operations_router)
    app.include_router(stream_router)
    app.include_router(page_router)
    app.add_route("/docs", reference_page, include_in_schema=False)
    app.openapi = partial(complete, app, settings)  # type: ignore[method-assign]
    add_problem_handlers(app)
    # Inside the next one: a caller who may not ask is not told how busy the service is.
    app.add_middleware(LoadSheddingMiddleware)
    limits = RateLimiter(settings.rate_limit, settings.rate_window_s, settings.concurrent_limit)
    app.add_middleware(AuthMiddleware, keys=key_ring(settings), limits=limits)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("Authorization", "X-API-Key", "Content-Type", "X-Request-ID", "traceparent"),
            expose_headers=("X-Request-ID", "Server-Timing", "Retry-After", "RateLimit", "RateLimit-Policy"),
            max_age=3600,
        )
    # Added last, it is outermost: what the others answer has an id, a metric and a line in the log too.
    app.add_middleware(RequestLogMiddleware, metrics=metrics, tracing=tracing)
    return app


def create_operations_app(app: FastAPI) -> FastAPI:
    """The operations routes of a gateway as an app of their own, for a port that only those who run it reach."""
    operations = FastAPI(title="Tandem operations", version=__version__, docs_url=None, redoc_url=None)
    operations.state = app.state
    operations.include_router(operations_router)
    add_problem_handlers(operations)
    operations.add_middleware(RequestLogMiddleware, metrics=app.state.metrics, tracing=Tracing())
    return operations
