"""What becomes of a file on its way from bytes to crops: the answer, and what it took."""

import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from service.errors import TandemError
from service.vision.alignment import crop_faces
from service.vision.decoding import decode_photo
from service.vision.face_pipeline import FacePipeline

from .corpus import HostileFile

MAX_PIXELS = 50_000_000
"""The service's own limit."""

TEMPLATE = [(0.30, 0.39), (0.68, 0.39), (0.49, 0.60), (0.34, 0.78), (0.64, 0.78)]

MIB = 1024


@dataclass(frozen=True)
class Outcome:
    """One file's answer, CPU seconds, and MiB above what there was.

    The answer is «faces», «no faces», or the name of a problem.
    """

    file: HostileFile
    answer: str
    seconds: float
    peak_mib: float


def reader() -> Callable[[bytes], str]:
    """Decode, find, align and crop as the service does; what is no ``TandemError`` is raised."""
    finder = FacePipeline()

    def read(data: bytes) -> str:
        try:
            photo = decode_photo(data, max_pixels=MAX_PIXELS)
        except TandemError as error:
            return error.slug
        faces = finder.find_faces(photo)
        crops = crop_faces(photo, faces, template=TEMPLATE, size=(48, 48))
        if crops.shape != (len(faces), 1, 48, 48):
            raise AssertionError(f"crops of shape {crops.shape} for {len(faces)} faces")
        return "faces" if faces else "no faces"

    return read


def outcomes(files: Iterable[HostileFile], announce: Callable[[HostileFile], None]) -> Iterable[Outcome]:
    """Try each file; ``announce`` is told before each, so that a crash has a name."""
    read = reader()
    for file in files:
        announce(file)
        before = forget_peak()
        started = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # Pillow's about odd metadata: the service does not make errors of them
            answer = read(file.data)
        yield Outcome(file, answer, time.process_time() - started, (memory("VmHWM") - before) / MIB)


def forget_peak() -> int:
    """Start measuring the peak anew; the memory in use, in KiB (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])
