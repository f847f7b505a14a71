"""How often labels change in a slow zoom over one still photo, by the smoothing of the stream.

    python tests/benchmarks/flicker.py photo.jpg --url http://127.0.0.1:8080 --plot docs/smoothing.png

The film is made in memory and sent to ``WS /v1/stream`` once for each weight. Nothing in it moves, so every change
of a label is an error. The plot shows the face whose label changes most often without smoothing.
"""

import argparse
import json
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from websockets.sync.client import connect

from service.vision.drawing import COLORS
from service.vision.quality import MIN_MARGIN

FRAMES = 50
ZOOM = 1.3
LONG_SIDE = 960
WEIGHTS = (0.0, 0.5, 0.8, 0.9, 0.95)
SHOWN = (0.0, 0.8)
"""The weights whose probabilities are plotted."""


def zoom(photo: Path) -> Iterator[NDArray[np.uint8]]:
    """Yield frames that show less and less of a photo around its center."""
    with Image.open(photo) as image:
        pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    height, width = pixels.shape[:2]
    fit = LONG_SIDE / max(height, width)
    size = (round(width * fit), round(height * fit))
    for number in range(FRAMES):
        scale = fit * ZOOM ** (number / (FRAMES - 1))
        shift = [(side - scale * full) / 2 for side, full in zip(size, (width, height), strict=True)]
        matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
        flags = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        yield np.asarray(cv2.warpAffine(pixels, matrix, size, flags=flags), np.uint8)


def stream(url: str, frames: list[bytes], weight: float) -> dict[int, list[dict[str, Any]]]:
    """Return the sightings of each face by its track, from a stream with a weight."""
    tracks: dict[int, list[dict[str, Any]]] = {}
    with connect(f"{url.replace('http', 'ws', 1)}/v1/stream?track=true&smooth={weight}") as socket:
        for frame in frames:
            socket.send(frame)
            for face in json.loads(socket.recv(timeout=60))["faces"]:
                tracks.setdefault(face["track"], []).append(face)
    return tracks


def changes(sightings: list[dict[str, Any]]) -> int:
    """Return how often a face's label changed."""
    return sum(a["emotion"] != b["emotion"] for a, b in pairwise(sightings))


def frames_to_follow(weight: float) -> int:
    """Return after how many frames the label follows an expression that changes at once and for good."""
    # The former probability is weight^n, and that of the new label must lead it by MIN_MARGIN.
    return 1 if weight == 0 else math.ceil(math.log((1 - MIN_MARGIN) / 2) / math.log(weight))


def plot(path: Path, results: dict[float, list[dict[str, Any]]]) -> None:
    """Plot one face: its two likeliest probabilities, and its label in each frame for each weight."""
    labels = list(results[0.0][0]["emotions"])
    colors = dict(zip(labels, COLORS, strict=True))
    mean = {label: np.mean([face["emotions"][label] for face in results[0.0]]) for label in labels}
    two = sorted(labels, key=lambda label: -mean[label])[:2]
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    for weight, style in zip(SHOWN, (":", "-"), strict=True):
        for label in two:
            values = [face["emotions"][label] for face in results[weight]]
            above.plot(values, style, color=colors[label], label=f"{label}, smooth={weight:g}")
    above.set(ylabel="probability", title="One face in a slow zoom over a still photo")
    above.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    for row, sightings in enumerate(results.values()):
        for number, face in enumerate(sightings):
            below.broken_barh([(number - 0.5, 1)], (row - 0.4, 0.8), color=colors[face["emotion"]])
    names = [
        f"smooth={weight:g}: {changes(sightings)} change{'' if changes(sightings) == 1 else 's'}"
        for weight, sightings in results.items()
    ]
    below.set(xlabel="frame", yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    shown = {face["emotion"] for sightings in results.values() for face in sightings}
    below.legend(
        handles=[Patch(color=colors[label], label=label) for label in labels if label in shown],
        loc="upper left",
        bbox_to_anchor=(1, 1),
        fontsize="small",
        title="label",
    )
    above.margins(x=0)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    frames = [
        simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=95, colorsubsampling="444")
        for pixels in zoom(arguments.photo)
    ]
    results = {weight: stream(arguments.url, frames, weight) for weight in WEIGHTS}
    print("| `smooth` | changes of a label | frames until a label follows a change |")
    print("|---|---|---|")
    for weight, tracks in results.items():
        print(f"| {weight:g} | {sum(map(changes, tracks.values()))} | {frames_to_follow(weight)} |")
    worst = max(results[0.0], key=lambda track: changes(results[0.0][track]))
    print(f"\n{len(frames)} frames, {len(results[0.0])} faces; the plot shows face {worst}")
    if arguments.plot:
        plot(arguments.plot, {weight: tracks[worst] for weight, tracks in results.items()})


if __name__ == "__main__":
    main()
