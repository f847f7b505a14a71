"""Builds the app from its parts; no other module knows all of them."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from service import __version__
from service.analyzer import Analyzer
from service.api.dependencies import AppState
from service.api.fair_places import FairPlaces
from service.api.middleware.auth import AuthMiddleware, key_ring
from service.api.middleware.load_shedding import LoadSheddingMiddleware
from service.api.middleware.methods import MethodsMiddleware, TrailingSlashMiddleware
from service.api.middleware.rate_limit import RateLimiter
from service.api.middleware.request_log import RequestLogMiddleware
from service.api.open_streams import OpenStreams
from service.api.openapi import openapi_document
from service.api.problems import add_problem_handlers
from service.api.reference import router as reference_router
from service.api.routes import batch, emotions, health, limits, model, one_form, stream
from service.api.ui import router as ui_router
from service.api.uploads.by_url import PhotoFetcher
from service.budget import Budget, FairBudget, mebibytes
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
    "person feels. Photos are neither stored nor logged."
)

logger = logging.getLogger("tandem.gateway")


def create_app(settings: Settings) -> FastAPI:
    """Create the gateway as an ASGI app. Its lifespan starts the workers and connects to Triton.

    The app also starts while Triton is unavailable. It is then not ready, says why, and reconnects by itself.

    Raises:
        ExtraMissing: A setting needs the extra otel or s3, which is not installed.
        ValueError: When the lifespan starts, there is no ``triton_url``.
    """
    metrics = Metrics()
    tracing = create_tracing(settings.otlp_endpoint, version=__version__)
    limiter = RateLimiter(
        rate=settings.rate_limit, window_s=settings.rate_window_s, concurrent=settings.concurrent_limit
    )

    fetcher = PhotoFetcher.of(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if settings.triton_url is None:
            raise ValueError("triton_url is not set (TANDEM_TRITON_URL); `tandem serve` can start a local Triton")
        decoding_memory = Budget(
            settings.max_decoding_bytes,
            what="memory for decoding",
            setting="TANDEM_MAX_DECODING_BYTES",
            show=mebibytes,
        )
        pool = WorkerPool(settings.workers, memory=decoding_memory, task_timeout_s=settings.request_timeout_s)
        triton = connect(settings, settings.triton_url, metrics)
        await pool.start()
        metrics.registry.register(WorkerMetrics(pool.pids))
        queue = WorkQueue(pool, settings.max_waiting, metrics)
        app_state = app.state.app_state = AppState(
            settings=settings,
            metrics=metrics,
            triton=triton,
            queue=queue,
            analyzer=Analyzer(settings, triton=triton, queue=queue, metrics=metrics, tracing=tracing),
            limiter=limiter,
            streams=OpenStreams(settings.max_streams),
            batches=FairPlaces(settings.max_batches, what="batches", setting="TANDEM_MAX_BATCHES"),
            uploads=FairBudget(
                settings.max_held_bytes, what="memory for uploads", setting="TANDEM_MAX_HELD_BYTES", show=mebibytes
            ),
            fetcher=fetcher,
        )
        try:
            await triton.model_spec()
        except TandemError as error:
            logger.warning("not ready: %s", error.detail)
        try:
            yield
        finally:
            app_state.draining = True
            await app_state.streams.close()
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
        redirect_slashes=False,  # the address of a redirection would be made of the caller's Host header
        telemetry={"tracing": False, "metrics": False, "logs": False},  # RequestLogMiddleware does all of these
    )
    app.state.metrics = metrics
    app.include_router(emotions.router)
    app.include_router(batch.router)
    app.include_router(one_form.router)
    app.include_router(model.router)
    app.include_router(limits.router)
    if settings.operations_port is None:
        app.include_router(health.router)
    app.include_router(stream.router)
    app.include_router(ui_router)
    app.include_router(reference_router)
    app.openapi = partial(openapi_document, app, settings)  # type: ignore[method-assign]
    add_problem_handlers(app)
    # Middleware that is added later is further outside. A caller without a key must not learn about the load.
    app.add_middleware(MethodsMiddleware)
    app.add_middleware(LoadSheddingMiddleware)
    app.add_middleware(AuthMiddleware, keys=key_ring(settings), limiter=limiter)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("Authorization", "X-API-Key", "Content-Type", "X-Request-ID", "traceparent"),
            expose_headers=("X-Request-ID", "Server-Timing", "Retry-After", "RateLimit", "RateLimit-Policy"),
            max_age=3600,
        )
    app.add_middleware(TrailingSlashMiddleware)
    # Outermost, so that answers of the other middleware also have an id, metrics and a line in the log.
    app.add_middleware(
        RequestLogMiddleware, metrics=metrics, tracing=tracing, request_timeout_s=settings.request_timeout_s
    )
    return app


def create_operations_app(app: FastAPI) -> FastAPI:
    """Create an app with the health routes of a gateway, for a port that only operators can reach."""
    operations = FastAPI(
        title="Tandem operations", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    operations.state = app.state
    operations.include_router(health.router)
    add_problem_handlers(operations)
    operations.add_middleware(MethodsMiddleware)
    operations.add_middleware(TrailingSlashMiddleware)
    operations.add_middleware(RequestLogMiddleware, metrics=app.state.metrics, tracing=Tracing())
    return operations
