"""What routes and middleware use of the running service."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from starlette.applications import Starlette
from starlette.requests import HTTPConnection

from service.analyzer import Analyzer
from service.api.fair_places import FairPlaces
from service.api.middleware.rate_limit import RateLimiter
from service.api.open_streams import OpenStreams
from service.api.uploads.by_url import PhotoFetcher
from service.budget import Budget, FairBudget
from service.inference.client import TritonClient
from service.observability.metrics import Metrics
from service.observability.request_context import RequestContext
from service.settings import Settings
from service.workers.queue import WorkQueue


@dataclass
class AppState:
    """Everything the app builds at startup. Only ``draining`` changes: once, when the service is told to stop."""

    settings: Settings
    metrics: Metrics
    triton: TritonClient
    queue: WorkQueue
    analyzer: Analyzer
    limiter: RateLimiter
    streams: OpenStreams
    batches: FairPlaces
    uploads: FairBudget
    fetcher: PhotoFetcher | None
    draining: bool = False


def app_state_of(app: Starlette) -> AppState:
    """Return the state of an app that has started."""
    app_state: AppState = app.state.app_state
    return app_state


async def _app_state(connection: HTTPConnection) -> AppState:
    return app_state_of(connection.app)  # async, because FastAPI calls other dependencies in a thread


AppStateDep = Annotated[AppState, Depends(_app_state)]


async def _upload_budget(connection: HTTPConnection, app_state: AppStateDep) -> AsyncIterator[Budget]:
    with app_state.uploads.part(RequestContext.of(connection.scope).caller) as memory:
        yield memory


UploadBudget = Annotated[Budget, Depends(_upload_budget)]
"""This request's part of the memory for uploads; released once the whole answer has been sent."""
