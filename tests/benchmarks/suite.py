"""Benchmark the service against what the machine allows, and write Markdown, JSON and plots.

    python tests/benchmarks/suite.py [--quick] [--baseline COMMIT] [--out tests/benchmarks]

For each photo: what it costs in CPU time by part; its stages alone against their floors; the bound, which is the
same work in one process without a server, on all cores; a closed loop with 1 to 256 clients; an open loop at 0.8
of the peak throughput and at twice the peak. The load generator runs in its own process. --baseline measures
another commit alternately with this checkout, so that both see the same machine. Other work on the machine
distorts the results: trust ratios, and check the range.

RESULTS.md, results.json and the plots are written to --out. The section "What was tried" of RESULTS.md is
maintained by hand, and copied from this folder.
"""

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from checkout import ROOT, Service, served, worktree_of
from processor import processor_kind
from report import OVERLOAD, plot, write_markdown
from workloads import FACES, WORKLOADS

HERE = Path(__file__).parent
CLIENTS = {
    "one face": (1, 2, 4, 8, 16, 32, 64, 128, 256),
    "six faces": (1, 8, 32, 256),
    "12 Mpx": (1, 8, 32, 256),
}
QUICK_CLIENTS = (1, 32)
OPEN_CLIENTS = 256
OPEN_SHARES = (0.8, OVERLOAD)
"""Arrival rates of the open loop, as multiples of the closed loop's best throughput."""

PACKAGES = ("onnxruntime", "opencv-python-headless", "simplejpeg", "uvicorn", "fastapi", "torch", "tritonclient")

Run = dict[str, Any]


def python(script: str, *arguments: str) -> Any:
    """Run a script of this folder, and return the JSON that it prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(HERE / script), *arguments]
    result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout)


def load(service: Service, photo: Path, faces: int, *, clients: int, rate: float | None, seconds: float) -> Run:
    """Run the load generator once, and add the CPU time, memory and batches that the service used."""
    arguments = [service.url, str(photo), f"--faces={faces}", f"--clients={clients}", f"--seconds={seconds}"]
    if rate is not None:
        arguments.append(f"--rate={rate}")
    before, (faces_before, batches_before) = service.usage(), service.batches()
    started = time.perf_counter()
    result: Run = python("load.py", *arguments)
    elapsed = time.perf_counter() - started
    after, (faces_after, batches) = service.usage(), service.batches()
    photos = max(1.0, (faces_after - faces_before) / faces)  # includes the warm-up, as the CPU seconds do
    used = {name: after[name].cpu_s - before[name].cpu_s for name in after}
    return {
        **result,
        "cpu_ms": {name: seconds / photos * 1000 for name, seconds in used.items()}
        | {"client": result["client_cpu_s"] / photos * 1000},
        "cores": sum(used.values()) / elapsed,
        "memory_before": sum(each.memory for each in before.values()),
        "memory": sum(each.memory for each in after.values()),
        "mean_batch": (faces_after - faces_before) / max(1, batches - batches_before),
    }


def measure(
    service: Service,
    photos: dict[str, Path],
    clients: dict[str, Sequence[int]],
    seconds: float,
    peaks: dict[str, float],
) -> list[Run]:
    """Run closed loops, then open ones. ``peaks`` keeps each photo's best throughput for later repeats."""
    runs = []
    for name, photo in photos.items():
        for count in clients[name]:
            run = load(service, photo, FACES[name], clients=count, rate=None, seconds=seconds)
            runs.append({"photo": name, "loop": "closed", **run})
        peaks.setdefault(name, max(run["throughput"] for run in runs if run["photo"] == name))
        for share in OPEN_SHARES:
            rate = peaks[name] * share
            run = load(service, photo, FACES[name], clients=OPEN_CLIENTS, rate=rate, seconds=2 * seconds)
            runs.append({"photo": name, "loop": "open", "share": share, **run})
    return runs


def machine() -> dict[str, Any]:
    """Describe the machine, the versions and the commit."""
    names = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")]  # fmt: skip
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return {
        "processor": names[0] if names else platform.machine(),
        "processor_kind": processor_kind(Path("/proc/cpuinfo").read_text()),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "commit": commit.stdout.strip(),
        "load_before": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "benchmarks", help="output folder")
    parser.add_argument("--baseline", metavar="COMMIT", help="commit to compare this checkout with")
    parser.add_argument(
        "--quick", action="store_true", help="1 and 32 clients, one repeat, one second per closed loop"
    )
    parser.add_argument("--repeats", type=int, default=3, help="runs of everything (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="length of a closed loop; open ones take twice as long"
    )
    parser.add_argument("--clients", type=int, nargs="+", help="numbers of clients, the same for each photo")
    parser.add_argument(
        "--photos", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS), help="photos to send"
    )
    options = parser.parse_args()
    if options.quick:
        options.repeats, options.seconds, options.clients = 1, 1.0, QUICK_CLIENTS
    clients = dict.fromkeys(WORKLOADS, options.clients) if options.clients else CLIENTS
    results: dict[str, Any] = {"machine": machine(), "repeats": options.repeats, "seconds": options.seconds}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sides = {"this": ROOT}
        if options.baseline:
            sides["baseline"] = stack.enter_context(worktree_of(options.baseline))
            results["baseline"] = options.baseline
        photos = {name: folder / f"{name.replace(' ', '-')}.jpg" for name in options.photos}
        for name, path in photos.items():
            path.write_bytes(WORKLOADS[name]())
        with served(ROOT) as service:
            results["stages"] = {
                name: python("inprocess.py", str(path), f"--faces={FACES[name]}", f"--triton={service.triton_url}")
                for name, path in photos.items()
            }
        results["bound"], results["runs"] = {name: [] for name in photos}, []
        peaks: dict[str, dict[str, float]] = {side: {} for side in sides}
        for repeat in range(options.repeats):
            for name, path in photos.items():
                groups = python(
                    "inprocess.py", str(path), f"--faces={FACES[name]}", f"--seconds={options.seconds}"
                )
                results["bound"][name].append(max(groups.values()))
            for side, checkout in sides.items():
                with served(checkout) as service:
                    runs = measure(service, photos, clients, options.seconds, peaks[side])
                results["runs"] += [{"side": side, "repeat": repeat, **run} for run in runs]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    plot(results, options.out)
    text = write_markdown(results, tried=(HERE / "RESULTS.md").read_text())
    (options.out / "RESULTS.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
