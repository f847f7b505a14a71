"""Memory under overload: as many requests as one hour at peak throughput, sent at twice the peak rate.

    python tests/benchmarks/hour.py [--hours 1] [--json OUT]

Measures the peak with 32 clients, then posts photos of one face over 256 connections at twice the peak, one minute
at a time. Prints after each minute how many were answered and refused, and the memory of gateway and Triton
together. The requests of one hour take half an hour.
"""

import argparse
import json
import math
import tempfile
from pathlib import Path

import numpy as np
from checkout import ROOT, served
from suite import OPEN_CLIENTS, OVERLOAD, load
from tqdm import tqdm
from workloads import FACES, WORKLOADS

PHOTO = "one face"
PART_S = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=1.0, help="hours at the peak (default: %(default)g)")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()
    with tempfile.NamedTemporaryFile(suffix=".jpg") as file, served(ROOT) as service:
        photo = Path(file.name)
        photo.write_bytes(WORKLOADS[PHOTO]())
        peak = load(service, photo, FACES[PHOTO], clients=32, rate=None, seconds=5.0)["throughput"]
        rate = OVERLOAD * peak
        parts = []
        for _ in tqdm(range(math.ceil(options.hours * 3600 * peak / (rate * PART_S))), unit="min"):
            run = load(service, photo, FACES[PHOTO], clients=OPEN_CLIENTS, rate=rate, seconds=PART_S)
            part = {name: run[name] for name in ("answered", "refused", "broken")} | {"mb": run["memory"] / 1e6}
            tqdm.write(
                f"{part['answered']} answered, {part['refused']} refused, {part['mb']:.0f} MB"
                + (f", broken: {part['broken']}" if part["broken"] else "")
            )
            parts.append(part)
    half = [part["mb"] for part in parts[len(parts) // 2 :]]
    slope = float(np.polyfit(np.arange(len(half)), half, 1)[0]) if len(half) > 1 else 0.0
    requests = sum(part["answered"] + part["refused"] for part in parts)
    print(
        f"peak {peak:.0f}/s; {requests} requests at {rate:.0f}/s; "
        f"{parts[0]['mb']:.0f} MB after the first minute, {parts[-1]['mb']:.0f} MB after the last, at most "
        f"{max(part['mb'] for part in parts):.0f}; {slope:+.2f} MB a minute in the second half"
    )
    if options.json:
        options.json.write_text(json.dumps({"peak": peak, "rate": rate, "parts": parts}, indent=1) + "\n")


if __name__ == "__main__":
    main()
