"""The same work without a server: the steps alone against their floors, and the bound that all cores set.

    python tests/benchmarks/inprocess.py PHOTO --faces N [--triton HOST:PORT] [--seconds 3]

Prints JSON. A process of its own, so that nothing else of the benchmark shares its interpreter.
"""

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
import torch
import tritonclient.grpc as triton_grpc
from google.protobuf import text_format
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2

from service.inference.model_spec import ModelSpec
from service.triton.backend.optimize import prepare
from service.vision.alignment import crop_faces, similarity_transform
from service.vision.decoding import decode_photo, open_photo
from service.vision.face_pipeline import FacePipeline, PipelineResult
from service.vision.onet import ONet
from service.vision.yunet import YuNet
from service.workers.tasks import DETAIL

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "model_repository" / "tandem"
MAX_PIXELS = 50_000_000
GROUPS = (1, 8)
"""Photos whose faces a thread reads with one call of the network."""
CORES = os.cpu_count() or 1
THREADS = (CORES, CORES + 1)
"""The bound is the best of these, with either of the groups."""


def load_contract() -> ModelSpec:
    """What the committed model states."""
    config = text_format.Parse((MODEL / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    return ModelSpec.from_config(config, "1")


def load_network() -> torch.jit.ScriptModule:
    """The committed model, prepared as Triton's backend does."""
    torch.set_num_threads(1)
    sample = [torch.zeros(2, 1, *load_contract().crop_size, dtype=torch.uint8)]

    def load() -> torch.jit.ScriptModule:
        return torch.jit.load(MODEL / "1" / "model.pt")  # type: ignore[no-any-return, no-untyped-call]

    return prepare(load, sample, torch.device("cpu"), half=True, log=partial(print, file=sys.stderr))


class InProcess:
    """Everything that is between a photo's bytes and the probabilities of its faces."""

    def __init__(self, photo: bytes, faces: int) -> None:
        self.photo = photo
        self.faces = faces
        self.contract = load_contract()
        self.network = load_network()
        self.finder = FacePipeline()

    def crops(self) -> NDArray[np.uint8]:
        """The crops of one photo, uint8 [faces, 1, height, width]."""
        with open_photo(self.photo, max_pixels=MAX_PIXELS) as encoded:
            found = self.finder.decode_and_find(encoded, min_box_side=DETAIL * max(self.contract.crop_size))
            crops = self.cut(found)
        if len(crops) != self.faces:
            raise SystemExit(f"expected {self.faces} faces, found {len(crops)}")
        return crops

    def cut(self, found: PipelineResult) -> NDArray[np.uint8]:
        """The crops of what was found."""
        return crop_faces(
            found.pixels,
            found.faces,
            template=self.contract.alignment_template,
            size=self.contract.crop_size,
            divisor=found.divisor,
        )

    def read(self, crops: NDArray[np.uint8]) -> torch.Tensor:
        """Their probabilities."""
        with torch.inference_mode():
            return self.network(torch.from_numpy(crops))  # type: ignore[no-any-return]

    def throughput(self, count: int, group: int, seconds: float) -> float:
        """Photos a second with ``count`` threads, each reading the faces of ``group`` photos at once."""
        done = [0] * count
        stop = threading.Event()

        def work(index: int) -> None:
            while not stop.is_set():
                self.read(np.concatenate([self.crops() for _ in range(group)]))
                done[index] += group

        threads = [threading.Thread(target=work, args=(index,)) for index in range(len(done))]
        for thread in threads:
            thread.start()
        time.sleep(seconds / 4)  # warm
        before, start = sum(done), time.perf_counter()
        time.sleep(seconds)
        count, elapsed = sum(done) - before, time.perf_counter() - start
        stop.set()
        for thread in threads:
            thread.join()
        return count / elapsed


def median_ms(step: Callable[[], Any], seconds: float = 0.5) -> float:
    """Median wall time, after three calls that are not counted."""
    for _ in range(3):
        step()
    times: list[float] = []
    ends_at = time.perf_counter() + seconds
    while time.perf_counter() < ends_at or len(times) < 5:
        start = time.perf_counter()
        step()
        times.append((time.perf_counter() - start) * 1000)
    return float(np.median(times))


def step_times(work: InProcess, triton_url: str | None) -> dict[str, dict[str, float]]:
    """Milliseconds of each step alone, for all faces of the photo, and of what of it cannot be left out.

    The floors: libjpeg-turbo; the networks of detector and landmarks alone, on ready inputs; the warps alone;
    the network's share of a batch of 32 faces; an empty call to Triton.
    """
    pixels = decode_photo(work.photo, max_pixels=MAX_PIXELS)
    with open_photo(work.photo, max_pixels=MAX_PIXELS) as encoded:
        found = work.finder.decode_and_find(encoded, min_box_side=DETAIL * max(work.contract.crop_size))
    side = 1280 if found.size[0] * found.size[1] > 1_000_000 else 640
    detector, refiner = YuNet(), ONet()
    detections = detector.detect(found.pixels, long_side=side, threshold=0.6)
    scale = side / max(found.pixels.shape[:2])
    rows, columns = (-(-round(n * scale) // 32) * 32 for n in found.pixels.shape[:2])
    blob = np.zeros((1, 3, rows, columns), np.float32)
    heads = np.zeros((len(detections), 48, 48, 3), np.float32)
    template = work.contract.alignment_template * work.contract.crop_size[::-1]
    matrices = [similarity_transform(face.landmarks / found.divisor, template) for face in found.faces]
    crops = work.crops()
    batch = np.repeat(crops, -(-32 // len(crops)), axis=0)[:32]

    def decode() -> None:
        with open_photo(work.photo, max_pixels=MAX_PIXELS) as encoded:
            if not (found.divisor > 1 and encoded.decode_reduced(longer_side=1280, area=1_000_001)):
                encoded.decode()

    def warps() -> None:
        for matrix in matrices:
            cv2.cvtColor(cv2.warpAffine(found.pixels, matrix, (48, 48), flags=cv2.INTER_CUBIC), cv2.COLOR_RGB2GRAY)

    least = {"min_width": pixels.shape[1] // found.divisor, "min_height": pixels.shape[0] // found.divisor}
    onet, yunet = refiner._session, detector._session
    pairs: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "decode": (decode, lambda: simplejpeg.decode_jpeg(work.photo, colorspace="RGB", **least)),
        "detect": (
            lambda: detector.detect(found.pixels, long_side=side, threshold=0.6),
            lambda: yunet.run(None, {"input": blob}),
        ),
        "landmarks": (
            lambda: refiner.refine(found.pixels, detections.landmarks),
            lambda: onet.run(["dense_6", "softmax_2"], {"input_3": heads}),
        ),
        "align": (lambda: work.cut(found), warps),
    }
    times = {name: {"ms": median_ms(step), "floor_ms": median_ms(floor)} for name, (step, floor) in pairs.items()}
    network_ms = median_ms(lambda: work.read(crops))
    times["network"] = {"ms": network_ms, "floor_ms": median_ms(lambda: work.read(batch)) * len(crops) / 32}
    if triton_url:
        with triton_grpc.InferenceServerClient(triton_url) as client:
            tensor = triton_grpc.InferInput(work.contract.input_name, list(crops.shape), "UINT8")
            tensor.set_data_from_numpy(crops)
            call_ms = median_ms(lambda: client.infer(work.contract.name, [tensor]))
            times["gRPC and Triton"] = {"ms": call_ms - network_ms, "floor_ms": median_ms(client.is_server_live)}
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--faces", type=int, required=True, help="faces in the photo")
    parser.add_argument("--triton", help="host:port of a Triton that serves the committed model and is idle")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of the bound's measurement")
    options = parser.parse_args()
    work = InProcess(options.photo.read_bytes(), options.faces)
    if options.triton:
        print(json.dumps(step_times(work, options.triton)))
        return
    reached = {
        f"{count} threads, {group} photos": work.throughput(count, group, options.seconds)
        for count in THREADS
        for group in GROUPS
    }
    print(json.dumps(reached))


if __name__ == "__main__":
    main()
