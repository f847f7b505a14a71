"""The parts of a running gateway, for its routes to use."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from service.analyzer import Analyzer
from service.api.admission import Streams
from service.budget import Budget
from service.inference.client import TritonClient
from service.observability.metrics import Metrics
from service.settings import Settings
from service.workers.queue import WorkQueue


@dataclass
class Gateway:
    """Built by the app at its start; only ``draining`` ever changes, once, when the service is told to stop."""

    settings: Settings
    metrics: Metrics
    triton: TritonClient
    queue: WorkQueue
    analyzer: Analyzer
    streams: Streams
    batches: Budget
    uploads: Budget
    draining: bool = False


def gateway_of(connection: HTTPConnection) -> Gateway:
    """The parts that the app built at its start."""
    gateway: Gateway = connection.app.state.gateway
    return gateway


async def _parts_of(connection: HTTPConnection) -> Gateway:
    return gateway_of(connection)  # what is not async FastAPI calls in a thread, for each request


GatewayParts = Annotated[Gateway, Depends(_parts_of)]
"""How a route asks for them."""


async def _upload_budget_of(gateway: GatewayParts) -> AsyncIterator[Budget]:
    with gateway.uploads.part() as memory:
        yield memory


UploadBudget = Annotated[Budget, Depends(_upload_budget_of)]
"""This request's part of the memory for uploads; released once the whole answer has been sent."""
