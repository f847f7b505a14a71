"""How long a lone client waits for one face, and where the time goes.

    python tests/benchmarks/latency.py [--url http://127.0.0.1:8080] [--requests 300] [--json OUT]

Without --url a service with a local Triton is started for the benchmark. The photo is scikit-image's astronaut on
a plain 640x480 ground, as a JPEG; the steps are the service's own figures out of the Server-Timing header, and the
rest is what remains of the time that the client measured: HTTP both ways, reading the upload, writing the answer.
"""

import argparse
import contextlib
import io
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from skimage import data

STEP = re.compile(r"(\w+);dur=([\d.]+)")


def photo() -> bytes:
    """One face in 640x480, as a JPEG of about 60 kB."""
    ground = Image.new("RGB", (640, 480), (96, 110, 120))
    ground.paste(Image.fromarray(data.astronaut()).crop((0, 0, 512, 480)), (64, 0))
    buffer = io.BytesIO()
    ground.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@contextlib.contextmanager
def service() -> Iterator[str]:
    """A service of its own on a free port; its address."""
    command = [sys.executable, "-m", "service.cli", "serve", "--port", "0", "--log-level", "error"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout
        line = process.stdout.readline()
        found = re.search(r"http://\S+", line)
        if not found:
            raise SystemExit(f"the service did not start: {line or 'see `tandem serve`'}")
        yield found.group()
    finally:
        process.terminate()
        process.wait(30)


def measure(url: str, requests: int) -> dict[str, np.ndarray]:
    """Milliseconds of each request: in all, each step, and the rest."""
    body = photo()
    rows: list[dict[str, float]] = []
    with httpx.Client(base_url=url, timeout=30) as client:
        for index in range(requests + 20):
            start = time.perf_counter()
            response = client.post("/v1/emotions", content=body, headers={"Content-Type": "image/jpeg"})
            total = (time.perf_counter() - start) * 1000
            response.raise_for_status()
            if len(response.json()["faces"]) != 1:
                raise SystemExit(f"expected one face: {response.text}")
            steps = {name: float(value) for name, value in STEP.findall(response.headers["Server-Timing"])}
            if index >= 20:  # the first ones warm everything up
                rows.append({"total": total, **steps, "rest": total - sum(steps.values())})
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a running service")
    parser.add_argument("--requests", type=int, default=300, help="requests to measure (default: 300)")
    parser.add_argument("--json", help="file for the figures")
    options = parser.parse_args()
    with contextlib.nullcontext(options.url) if options.url else service() as url:
        figures = measure(url, options.requests)
    quantiles = {name: np.percentile(values, [50, 95, 99]).tolist() for name, values in figures.items()}
    table = Table(
        "step", "p50 ms", "p95 ms", "p99 ms", title=f"one client, one face, 640x480, {options.requests} requests"
    )
    for name, values in quantiles.items():
        table.add_row(name, *(f"{value:.2f}" for value in values))
    Console().print(table)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load before and during: {load}")
    if options.json:
        with open(options.json, "w") as file:
            json.dump(
                {"milliseconds": quantiles, "requests": options.requests, "cores": os.cpu_count()}, file, indent=2
            )


if __name__ == "__main__":
    main()
