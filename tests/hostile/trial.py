"""Process a file from bytes to crops, and measure the answer, the time and the memory."""

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
"""The service's default limit."""

TEMPLATE = [(0.30, 0.39), (0.68, 0.39), (0.49, 0.60), (0.34, 0.78), (0.64, 0.78)]

KIB_PER_MIB = 1024


@dataclass(frozen=True)
class Outcome:
    """A file's answer, CPU seconds, and peak memory above the memory before.

    The answer is "faces", "no faces", or the slug of a problem.
    """

    file: HostileFile
    answer: str
    seconds: float
    peak_mib: float


def make_reader() -> Callable[[bytes], str]:
    """Make a function that decodes, finds and crops like the service; it raises all but ``TandemError``."""
    pipeline = FacePipeline()

    def read(photo: bytes) -> str:
        try:
            pixels = decode_photo(photo, max_pixels=MAX_PIXELS)
        except TandemError as error:
            return error.slug
        faces = pipeline.find_faces(pixels)
        crops = crop_faces(pixels, faces, template=TEMPLATE, size=(48, 48))
        if crops.shape != (len(faces), 1, 48, 48):
            raise AssertionError(f"crops of shape {crops.shape} for {len(faces)} faces")
        return "faces" if faces else "no faces"

    return read


def outcomes(files: Iterable[HostileFile], announce: Callable[[HostileFile], None]) -> Iterable[Outcome]:
    """Process each file; ``announce`` is called before each, so that a crash can be attributed."""
    read = make_reader()
    for file in files:
        announce(file)
        before = reset_peak()
        started = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about odd metadata; the service ignores that
            answer = read(file.data)
        yield Outcome(file, answer, time.process_time() - started, (memory("VmHWM") - before) / KIB_PER_MIB)


def reset_peak() -> int:
    """Reset this process's peak memory (proc(5), clear_refs) and return its current memory, in KiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def memory(field: str) -> int:
    """Read a field of /proc/self/status, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])
