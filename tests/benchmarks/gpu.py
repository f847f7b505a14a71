"""Benchmark Triton on a GPU with the committed model against its three goals.

    python tests/benchmarks/gpu.py [--out FOLDER] [--seconds 60] [--device cpu]

Starts the Triton that `tandem install-triton` installed. As soon as it is ready, 64 clients send one face each;
then 8 clients send 128 faces each, with the network alone at that batch size before and after; then one client
sends one face. The clients run in several processes, because gRPC in one Python process cannot saturate a GPU.

Prints Markdown and JSON; --out also writes gpu.md and gpu.json. Triton's backend uses this environment's torch,
which must support the GPU.
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
"""Number of clients that send one face each, and of those that send ``BATCH`` faces each."""

PERCENTILES = (50, 95, 99)
Result = dict[str, Any]


def random_crops(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 1, 48, 48)).astype(np.uint8)


def client(url: str, faces: int, seconds: float, start_together: threading.Barrier) -> list[tuple[float, bool]]:
    """Run a closed loop on one connection; return each answer's seconds and whether it came in time."""
    crops = random_crops(faces)
    tensor = triton_grpc.InferInput("face", list(crops.shape), "UINT8")
    tensor.set_data_from_numpy(crops)
    latencies = []
    with triton_grpc.InferenceServerClient(url) as connection:
        connection.is_server_live()
        start_together.wait()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            start = time.perf_counter()
            answer = connection.infer(MODEL, [tensor]).as_numpy("probabilities__0")
            now = time.perf_counter()
            latencies.append((now - start, now <= end))
            if answer.shape != (faces, 8) or abs(answer.sum(axis=1) - 1).max() > 1e-3:
                raise SystemExit(f"wrong answer of shape {answer.shape}: {answer[:2]}")
    return latencies


def run_clients(url: str, clients: int, faces: int, seconds: float) -> None:
    """Run some clients in this process: connect, print "ready", start at a line on stdin, print the answers."""
    start_together = threading.Barrier(clients + 1)
    with ThreadPoolExecutor(clients) as pool:
        futures = [pool.submit(client, url, faces, seconds, start_together) for _ in range(clients)]
        print("ready", flush=True)
        sys.stdin.readline()
        start_together.wait()
        print(json.dumps([answer for future in futures for answer in future.result()]))


def load(url: str, *, clients: int, faces: int, seconds: float) -> Result:
    """Run a closed loop with clients spread over half as many processes as cores."""
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
                raise SystemExit("a client process could not start")
        before = connection.get_inference_statistics(MODEL).model_stats[0]
        for process in running:
            assert process.stdin
            process.stdin.write("go\n")
            process.stdin.flush()
        outputs = [process.communicate()[0] for process in running]
        if any(process.returncode for process in running):
            raise SystemExit("a client process failed")
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
    """Return the faces per second of the network as the backend runs it.

    Batches of ``BATCH`` faces are copied from and to host memory.
    """
    # The backend's modules import each other by their bare names, as in Triton's process.
    sys.path.insert(0, str(ROOT / "service" / "triton" / "backend"))
    from torchscript_runtime import TorchScriptRuntime  # noqa: PLC0415

    parameters = {"INTRA_OP_THREAD_COUNT": "1", "PAD_BATCHES": "true"}
    content = (REPOSITORY / MODEL / "1" / "model.pt").read_bytes()
    runtime = TorchScriptRuntime(content, parameters, gpu=0 if device == "cuda" else None, log=print_error)
    runtime.prepare([((1, 48, 48), "uint8")], BATCH)
    crops = torch.from_numpy(random_crops(BATCH))
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        runtime.run([[crops]])
        times.append(time.perf_counter() - start)
    return BATCH / median(times)


def print_error(text: str) -> None:
    print(text, file=sys.stderr)


def measure(device: str, seconds: float) -> Result:
    """Measure all three goals. The network alone runs in its own process while Triton is idle."""

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
        with LocalTriton(
            home=ROOT / ".triton", model_repository=repository, runtime="torchscript", start_timeout_s=300
        ) as triton:
            many = load(triton.grpc_url, clients=MANY, faces=1, seconds=seconds)
            bounds = [alone()]
            large = load(triton.grpc_url, clients=FEW, faces=BATCH, seconds=min(seconds, 20.0))
            bounds.append(alone())
            one = load(triton.grpc_url, clients=1, faces=1, seconds=min(seconds, 10.0))
    return {"many": many, "large": large, "one": one, "alone_faces_per_s": bounds}


def write_markdown(result: Result) -> str:
    """Return the table of goals, measurements and verdicts."""
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
    parser.add_argument(
        "--seconds",
        type=float,
        default=60.0,
        help="length of the run with 64 clients; the others are shorter (default: %(default)g)",
    )
    parser.add_argument("--out", type=Path, help="output folder for gpu.md and gpu.json")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"torch {torch.__version__} finds no GPU; --device cpu tries this command without one")
    result = measure(options.device, options.seconds)
    result["machine"] = {
        "device": torch.cuda.get_device_name()
        if options.device == "cuda"
        else "the CPU (a trial run, not a result)",
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
