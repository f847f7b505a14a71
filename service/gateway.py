"""The parts of a running gateway, for its routes to use."""

from dataclasses import dataclass

from service.analysis import EmotionReader, PhotoThreads
from service.inference import TritonClient
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
    draining: bool = False
