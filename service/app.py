"""Wires the parts into an app; nothing else knows all of them."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from service import __version__
from service.analysis import EmotionReader, PhotoThreads
from service.errors import TandemError
from service.faces.pipeline import FaceFinder
from service.gateway import Gateway
from service.inference import TritonClient
from service.middleware import RequestObserver
from service.problems import add_problem_handlers
from service.reference import reference_page
from service.routes import router
from service.settings import Settings
from service.telemetry import Telemetry

DESCRIPTION = (
    "Post a photo, get the emotion that every face in it shows. Labels describe what a face shows, not what a "
    "person feels. No photo is kept or logged."
)

logger = logging.getLogger("tandem.gateway")


def create_app(settings: Settings) -> FastAPI:
    """The gateway as an ASGI app; its parts are built when its lifespan begins.

    The app starts without Triton too: it is not ready then, says why, and finds Triton once it is there.
    """
    telemetry = Telemetry()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if settings.triton_url is None:
            raise ValueError("no Triton: set TANDEM_TRITON_URL, or let `tandem serve` start one")
        finder = await asyncio.to_thread(FaceFinder)
        triton = TritonClient(
            settings.triton_url, model_name=settings.model_name, model_version=settings.model_version
        )
        threads = PhotoThreads(settings.workers, settings.max_waiting, telemetry)
        reader = EmotionReader(settings, finder=finder, triton=triton, threads=threads, telemetry=telemetry)
        gateway = Gateway(settings, telemetry, triton, threads, reader)
        app.state.gateway = gateway
        try:
            await triton.contract()
        except TandemError as error:
            logger.warning("not ready: %s", error.detail)
        try:
            yield
        finally:
            gateway.draining = True
            await threads.close()
            await triton.close()

    app = FastAPI(
        title="Tandem",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.include_router(router)
    app.add_route("/docs", reference_page, include_in_schema=False)
    add_problem_handlers(app)
    app.add_middleware(RequestObserver, telemetry=telemetry)
    return app
