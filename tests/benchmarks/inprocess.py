"""Measure the work on a photo without a server: each stage against its floor, or the bound set by all cores.

    python tests/benchmarks/inprocess.py PHOTO --faces N [--triton HOST:PORT] [--seconds 3]

Prints JSON. It runs in its own process, so that no other part of the benchmark shares its interpreter.
"""

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
import tritonclient.grpc as triton_grpc
from google.protobuf import text_format
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2

from service.inference.model_spec import ModelSpec
from service.vision.alignment import crop_faces, similarity_transform
from service.vision.decoding import decode_photo, open_photo
from service.vision.face_pipeline import FacePipeline, PipelineResult
from service.vision.onet import ONet
from service.vision.yunet import YuNet
from service.workers.tasks import DETAIL

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "model_repository" / "tandem"
MAX_PIXELS = 50_000_000
BATCHES = (1, 8)
"""Photos whose faces a thread passes through the network in one call."""

CORES = os.cpu_count() or 1
THREADS = (CORES, CORES + 1)
"""Numbers of threads. The bound is the best combination with ``BATCHES``."""


def load_spec() -> ModelSpec:
    """Read the specification of the committed model."""
    config = text_format.Parse((MODEL / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    return ModelSpec.from_config(config, "1")


def load_network() -> Any:
    """Load the committed model as Triton's backend does on a CPU."""
    # The backend's modules have no package inside Triton's process either.
    sys.path.insert(0, str(ROOT / "service" / "triton" / "backend"))
    from onnx_runtime import OnnxRuntime  # noqa: PLC0415

    return OnnxRuntime((MODEL / "1" / "model.onnx").read_bytes(), {"INTRA_OP_THREAD_COUNT": "1"})


class InProcess:
    """All work from a photo's bytes to the probabilities of its faces."""

    def __init__(self, photo: bytes, faces: int) -> None:
        self.photo = photo
        self.faces = faces
        self.spec = load_spec()
        self.network = load_network()
        self.pipeline = FacePipeline()

    def crops(self) -> NDArray[np.uint8]:
        """Return the crops of the photo, uint8 [faces, 1, height, width]."""
        with open_photo(self.photo, max_pixels=MAX_PIXELS) as encoded:
            found = self.pipeline.decode_and_find(encoded, min_box_side=DETAIL * max(self.spec.crop_size))
            crops = self.align(found)
        if len(crops) != self.faces:
            raise SystemExit(f"expected {self.faces} faces, found {len(crops)}")
        return crops

    def align(self, found: PipelineResult) -> NDArray[np.uint8]:
        """Cut the crops of found faces out of the pixels."""
        return crop_faces(
            found.pixels,
            found.faces,
            template=self.spec.alignment_template,
            size=self.spec.crop_size,
            divisor=found.divisor,
        )

    def classify(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probabilities [faces, labels] of crops."""
        probabilities: NDArray[np.float32] = self.network.run([[crops]])[0]
        return probabilities

    def throughput(self, thread_count: int, batch: int, seconds: float) -> float:
        """Return photos per second when each thread works on the faces of ``batch`` photos at once."""
        done = [0] * thread_count
        stop = threading.Event()

        def work(index: int) -> None:
            while not stop.is_set():
                self.classify(np.concatenate([self.crops() for _ in range(batch)]))
                done[index] += batch

        threads = [threading.Thread(target=work, args=(index,)) for index in range(thread_count)]
        for thread in threads:
            thread.start()
        time.sleep(seconds / 4)  # warm up
        before, start = sum(done), time.perf_counter()
        time.sleep(seconds)
        count, elapsed = sum(done) - before, time.perf_counter() - start
        stop.set()
        for thread in threads:
            thread.join()
        return count / elapsed


def median_ms(
    call: Callable[[], Any], clock: Callable[[], float] = time.perf_counter, seconds: float = 0.5
) -> float:
    """Return the median time of a call after three uncounted ones."""
    for _ in range(3):
        call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        start = clock()
        call()
        times.append((clock() - start) * 1000)
    return float(np.median(times))


def stage_times(work: InProcess, triton_url: str | None) -> dict[str, dict[str, float]]:
    """Return milliseconds and CPU-milliseconds per stage for all faces of the photo, and the stage's floor in ms.

    A floor is the part that cannot be avoided: libjpeg-turbo; YuNet and ONet alone, on prepared inputs; the warps
    alone; the network's share of a batch of 32 faces; an empty call to Triton.
    """
    pixels = decode_photo(work.photo, max_pixels=MAX_PIXELS)
    with open_photo(work.photo, max_pixels=MAX_PIXELS) as encoded:
        found = work.pipeline.decode_and_find(encoded, min_box_side=DETAIL * max(work.spec.crop_size))
    side = 1280 if found.size[0] * found.size[1] > 1_000_000 else 640
    detector, refiner = YuNet(), ONet()
    detections = detector.detect(found.pixels, long_side=side, threshold=0.6)
    scale = side / max(found.pixels.shape[:2])
    rows, columns = (-(-round(n * scale) // 32) * 32 for n in found.pixels.shape[:2])
    blob = np.zeros((1, 3, rows, columns), np.float32)
    heads = np.zeros((len(detections), 48, 48, 3), np.float32)
    template = work.spec.alignment_template * work.spec.crop_size[::-1]
    matrices = [similarity_transform(face.landmarks / found.divisor, template) for face in found.faces]
    crops = work.crops()
    batch = np.repeat(crops, -(-32 // len(crops)), axis=0)[:32]

    def decode() -> None:
        with open_photo(work.photo, max_pixels=MAX_PIXELS) as encoded:
            if not (found.divisor > 1 and encoded.decode_reduced(min_long_side=1280, min_area=1_000_001)):
                encoded.decode()

    def warps() -> None:
        for matrix in matrices:
            cv2.cvtColor(cv2.warpAffine(found.pixels, matrix, (48, 48), flags=cv2.INTER_CUBIC), cv2.COLOR_RGB2GRAY)

    reduced = {"min_width": pixels.shape[1] // found.divisor, "min_height": pixels.shape[0] // found.divisor}
    onet, yunet = refiner._session, detector._session
    pairs: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "decode": (decode, lambda: simplejpeg.decode_jpeg(work.photo, colorspace="RGB", **reduced)),
        "detect": (
            lambda: detector.detect(found.pixels, long_side=side, threshold=0.6),
            lambda: yunet.run(None, {"input": blob}),
        ),
        "landmarks": (
            lambda: refiner.refine(found.pixels, detections.landmarks),
            lambda: onet.run(["dense_6", "softmax_2"], {"input_3": heads}),
        ),
        "align": (lambda: work.align(found), warps),
    }
    times = {
        name: {"ms": median_ms(stage), "cpu_ms": median_ms(stage, time.process_time), "floor_ms": median_ms(floor)}
        for name, (stage, floor) in pairs.items()
    }
    network_ms = median_ms(lambda: work.classify(crops))
    times["network"] = {
        "ms": network_ms,
        "cpu_ms": median_ms(lambda: work.classify(crops), time.process_time),
        "floor_ms": median_ms(lambda: work.classify(batch)) * len(crops) / 32,
    }
    if triton_url:
        with triton_grpc.InferenceServerClient(triton_url) as client:
            tensor = triton_grpc.InferInput(work.spec.input_name, list(crops.shape), "UINT8")
            tensor.set_data_from_numpy(crops)
            call_ms = median_ms(lambda: client.infer(work.spec.name, [tensor]))
            times["gRPC and Triton"] = {"ms": call_ms - network_ms, "floor_ms": median_ms(client.is_server_live)}
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--faces", type=int, required=True, help="number of faces in the photo")
    parser.add_argument("--triton", help="host:port of an idle Triton with the committed model, to measure stages")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of the bound's measurements")
    options = parser.parse_args()
    work = InProcess(options.photo.read_bytes(), options.faces)
    if options.triton:
        print(json.dumps(stage_times(work, options.triton)))
        return
    throughputs = {
        f"{count} threads, {batch} photos": work.throughput(count, batch, options.seconds)
        for count in THREADS
        for batch in BATCHES
    }
    print(json.dumps(throughputs))


if __name__ == "__main__":
    main()
