"""Triton on a GPU, with the committed model: the three figures that are wanted of it.

    python tests/benchmarks/gpu.py [--out FOLDER] [--seconds 60] [--device cpu]

Starts the wheel's Triton (`tandem install-triton` puts it there) and, at once after its start, 64 clients that
send one face each; then clients that send 128 faces each, and before and after them the network alone at that
batch; then one client. The clients are spread over processes: Python's gRPC cannot fill a GPU from one.

Prints Markdown and JSON; --out writes gpu.md and gpu.json too. Triton's backend takes this environment's torch,
which must be able to use the GPU.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import tritonclient.grpc as triton_grpc

from service.triton.server import LocalTriton

ROOT = Path(__file__).parents[2]
REPOSITORY = ROOT / "model_repository"
MODEL = "tandem"
BATCH = 128
MANY, FEW = 64, 8
"""Clients that send one face, and that send ``BATCH``."""

PERCENTILES = (50, 95, 99)
Result = dict[str, Any]


def random_crops(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 1, 48, 48)).astype(np.uint8)


def client(url: str, faces: int, seconds: float, start_together: threading.Barrier) -> list[tuple[float, bool]]:
    """Closed loop of one connection: each answer's seconds, and whether it came in time. All are looked at."""
    crops = random_crops(faces)
    tensor = triton_grpc.InferInput("face", list(crops.shape), "UINT8")
    tensor.set_data_from_numpy(crops)
    latencies = []
    with triton_grpc.InferenceServerClient(url) as connection:
        connection.is_server_live()
        start_together.wait()
        ends_at = time.perf_counter() + seconds
        while time.perf_counter() < ends_at:
            start = time.perf_counter()
            answer = connection.infer(MODEL, [tensor]).as_numpy("probabilities__0")
            now = time.perf_counter()
            latencies.append((now - start, now <= ends_at))
            if answer.shape != (faces, 8) or abs(answer.sum(axis=1) - 1).max() > 1e-3:
                raise SystemExit(f"a wrong answer of shape {answer.shape}: {answer[:2]}")
    return latencies


def run_clients(url: str, clients: int, faces: int, seconds: float) -> None:
    """The process of a few clients: connects, says so, starts at a line from stdin, prints what they saw."""
    start_together = threading.Barrier(clients + 1)
    with ThreadPoolExecutor(clients) as pool:
        each = [pool.submit(client, url, faces, seconds, start_together) for _ in range(clients)]
        print("ready", flush=True)
        sys.stdin.readline()
        start_together.wait()
        print(json.dumps([answer for one in each for answer in one.result()]))


def load(url: str, *, clients: int, faces: int, seconds: float) -> Result:
    """Closed loop of ``clients`` in half as many processes as cores: what they saw, and Triton's mean batch."""
    processes = max(1, min(clients, (os.cpu_count() or 1) // 2))
    shares = [clients // processes + (index < clients % processes) for index in range(processes)]
    with triton_grpc.InferenceServerClient(url) as connection:
        running = [
            subprocess.Popen(
                [sys.executable, __file__, "clients", url, *map(str, (share, faces, seconds))],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for share in shares
        ]
        for process in running:
            assert process.stdout
            if process.stdout.readline() != "ready\n":
                raise SystemExit("a process of clients could not start")
        before = connection.get_inference_statistics(MODEL).model_stats[0]
        for process in running:
            assert process.stdin
            process.stdin.write("go\n")
            process.stdin.flush()
        outputs = [process.communicate()[0] for process in running]
        if any(process.returncode for process in running):
            raise SystemExit("a process of clients failed")
        after = connection.get_inference_statistics(MODEL).model_stats[0]
    answers = [answer for output in outputs for answer in json.loads(output)]
    latencies = np.array([latency for latency, _ in answers])
    return {
        "clients": clients,
        "processes": processes,
        "faces": faces,
        "seconds": seconds,
        "faces_per_s": sum(in_time for _, in_time in answers) * faces / seconds,
        "latency_ms": {f"p{p}": float(np.percentile(latencies, p)) * 1000 for p in PERCENTILES}
        | {"max": float(latencies.max()) * 1000},
        "mean_batch": (after.inference_count - before.inference_count)
        / max(1, after.execution_count - before.execution_count),
    }


def network_alone(device: str, seconds: float) -> float:
    """Faces a second of the network as the backend runs it, ``BATCH`` at once, from and to the host's memory."""
    # As in Triton's process, where both lie in one folder.
    sys.path.insert(0, str(ROOT / "service" / "triton" / "backend"))
    from batches import FixedBatches  # noqa: PLC0415
    from prepared import prepare  # noqa: PLC0415

    place = torch.device(device)
    if place.type == "cpu":
        torch.set_num_threads(1)
    path = REPOSITORY / MODEL / "1" / "model.pt"
    crops = torch.from_numpy(random_crops(BATCH))
    with torch.inference_mode():
        network = prepare(
            lambda: torch.jit.load(path, map_location=place),
            [crops[:2].to(place)],
            place,
            half=True,
            log=print_error,
        )
        batches = FixedBatches(network, [((1, 48, 48), torch.uint8)], BATCH, place, print_error)
        times = []
        ends_at = time.perf_counter() + seconds
        while time.perf_counter() < ends_at or len(times) < 5:
            start = time.perf_counter()
            batches([[crops]])
            times.append(time.perf_counter() - start)
    return BATCH / median(times)


def print_error(text: str) -> None:
    print(text, file=sys.stderr)


def measure(device: str, seconds: float) -> Result:
    """All three rows. The network alone runs in a process of its own, while Triton is idle."""

    def alone() -> float:
        command = [sys.executable, __file__, "alone", device, str(min(seconds, 5.0))]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return float(
            subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
        )

    with TemporaryDirectory() as folder:
        repository = Path(folder) / "models"
        model = repository / MODEL
        model.mkdir(parents=True)
        (model / "1").symlink_to(REPOSITORY / MODEL / "1")
        kind = "KIND_GPU" if device == "cuda" else "KIND_CPU"
        config = (REPOSITORY / MODEL / "config.pbtxt").read_text()
        (model / "config.pbtxt").write_text(f"{config}\ninstance_group [ {{ kind: {kind} }} ]\n")
        with LocalTriton(home=ROOT / ".triton", model_repository=repository, start_timeout_s=300) as triton:
            many = load(triton.grpc_url, clients=MANY, faces=1, seconds=seconds)
            bounds = [alone()]
            large = load(triton.grpc_url, clients=FEW, faces=BATCH, seconds=min(seconds, 20.0))
            bounds.append(alone())
            one = load(triton.grpc_url, clients=1, faces=1, seconds=min(seconds, 10.0))
    return {"many": many, "large": large, "one": one, "alone_faces_per_s": bounds}


def write_markdown(result: Result) -> str:
    """The goals' table, and what was measured."""
    many, large, one = result["many"], result["large"], result["one"]
    bound = median(result["alone_faces_per_s"])
    share = large["faces_per_s"] / bound
    p99, p50 = many["latency_ms"]["p99"], one["latency_ms"]["p50"]
    goals = [
        (
            f"{MANY} clients, one face each, first {many['seconds']:g} s after the start",
            "at least 5,000 faces/s, p99 under 20 ms",
            f"{many['faces_per_s']:,.0f} faces/s, p99 {p99:.1f} ms, mean batch {many['mean_batch']:.1f}",
            many["faces_per_s"] >= 5000 and p99 < 20,
        ),
        (
            f"{FEW} clients, {BATCH} faces each",
            "at least 0.85 of the network alone",
            f"{share:.2f}: {large['faces_per_s']:,.0f} of {bound:,.0f} faces/s",
            share >= 0.85,
        ),
        ("one client, one face, p50", "at most 1.2 ms", f"{p50:.2f} ms", p50 <= 1.2),
    ]
    rows = [f"| {what} | {wanted} | {found} | {'yes' if ok else '**no**'} |" for what, wanted, found, ok in goals]
    machine = result["machine"]
    return "\n".join([
        f"Triton on {machine['device']}, {machine['cores']} cores, torch {machine['torch']}, {machine['system']}; "
        f"clients in {many['processes']} processes on the same machine.",
        "",
        "| what | goal | measured | reached |",
        "| --- | --- | --- | --- |",
        *rows,
    ])  # fmt: skip


def main() -> None:
    if sys.argv[1:2] == ["clients"]:
        url, clients, faces, duration = sys.argv[2:]
        run_clients(url, int(clients), int(faces), float(duration))
        return
    if sys.argv[1:2] == ["alone"]:
        print(network_alone(sys.argv[2], float(sys.argv[3])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the 64 clients; the others take less")
    parser.add_argument("--out", type=Path, help="folder for gpu.md and gpu.json")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            f"torch {torch.__version__} finds no GPU here; --device cpu tries this command without one"
        )
    result = measure(options.device, options.seconds)
    result["machine"] = {
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "the CPU (a trial, no result)",
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "system": platform.platform(),
    }
    text = write_markdown(result)
    print(text, json.dumps(result, indent=2), sep="\n\n")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "gpu.md").write_text(text + "\n")
        (options.out / "gpu.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
