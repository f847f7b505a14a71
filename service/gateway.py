"""The parts of a running gateway, for its routes to use."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from service.analysis import EmotionReader, PhotoThreads
from service.frames import Streams
from service.inference import TritonClient
from service.places import Places
from service.settings import Settings
from service.telemetry import Telemetry


@dataclass
class Gateway:
    """Built by the app at its start; only ``draining`` ever changes, once, when the service is told to stop."""

    settings: Settings
    telemetry: Telemetry
    triton: TritonClient
    threads: PhotoThreads
    reader: EmotionReader
    streams: Streams
    batches: Places
    draining: bool = False


def gateway_of(connection: HTTPConnection) -> Gateway:
    """The parts that the app built at its start."""
    gateway: Gateway = connection.app.state.gateway
    return gateway


GatewayParts = Annotated[Gateway, Depends(gateway_of)]
"""How a route asks for them."""
