"""Plot the emotions of each face of a video over time (matplotlib)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from service.cli.video.timeline import FaceTimeline
from service.vision.drawing import COLORS

SUFFIXES = (".png", ".svg", ".pdf")

MAX_FACES = 8
"""Panels in a plot; faces in the most frames come first."""

PANEL_WIDTH, PANEL_HEIGHT = 10.0, 1.8
"""Inches."""

DOUBTFUL: Final[dict[str, Any]] = {"facecolor": "none", "edgecolor": "black", "hatch": "///", "linewidth": 0}
"""How spans are drawn in which a label cannot be relied on, beside a black strip above them."""

STRIP = (1.02, 0.08)
"""Bottom and height of that strip."""


def plot_timelines(
    timelines: Mapping[int, FaceTimeline], labels: Sequence[str], step_s: float, path: Path, kind: str
) -> None:
    """Write a figure with one panel per face: its picture, and its probabilities, stacked, over time.

    Args:
        timelines: by face number.
        labels: names of the emotions, in the order of the probabilities.
        step_s: seconds between two analyzed frames; a face that is absent for longer leaves a gap.
        path: output file.
        kind: "png", "svg" or "pdf".
    """
    longest = sorted(timelines, key=lambda number: len(timelines[number].times), reverse=True)[:MAX_FACES]
    panel_count = max(1, len(longest))
    figure = Figure(figsize=(PANEL_WIDTH, PANEL_HEIGHT * panel_count + 1.2), layout="constrained")
    axes = figure.subplots(panel_count, 2, squeeze=False, width_ratios=(1, 9))
    panels = axes[:, 1]
    for picture, panel in axes:
        picture.set_axis_off()
        panel.sharex(panels[0])
        panel.tick_params(labelbottom=panel is panels[-1])
    for (picture, panel), number in zip(axes, sorted(longest), strict=False):
        timeline = timelines[number]
        if timeline.picture is not None:
            picture.imshow(timeline.picture)
        times, probabilities = with_gaps(timeline, step_s)
        # A step function: nothing is known about the time between two frames.
        panel.stackplot(times, *probabilities.T, colors=COLORS, step="post", labels=labels)
        doubtful = timeline.doubtful_spans(step_s)
        panel.broken_barh(doubtful, (0, 1), alpha=0.35, **DOUBTFUL)
        panel.broken_barh(doubtful, STRIP, facecolor="black", clip_on=False)
        panel.set_title(f"face {number}", pad=16)  # above the strip
        panel.set(ylabel="probability", ylim=(0, 1))
        panel.margins(x=0)
    panels[-1].set_xlabel("seconds")
    if longest:
        handles, names = panels[0].get_legend_handles_labels()
        marks = [*handles, Patch(**DOUBTFUL)], [*names, "doubtful (hatched, black bar above)"]
        figure.legend(*marks, loc="outside lower center", ncols=min(len(names) + 1, 5))
    else:
        panels[0].text(0.5, 0.5, "no face found", ha="center", va="center", transform=panels[0].transAxes)
    if len(timelines) > len(longest):
        figure.suptitle(f"{len(longest)} of {len(timelines)} faces: those seen longest")
    figure.savefig(path, format=kind, dpi=120)


def with_gaps(timeline: FaceTimeline, step_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Return times [N] and probabilities [N, labels] of a step function, with NaN where the face is absent.

    Each span of sightings lasts one step beyond its last one.
    """
    times: list[float] = []
    probabilities: list[list[float]] = []
    for span in timeline.spans(step_s):
        end_s, last = timeline.times[span][-1] + step_s, timeline.probabilities[span][-1]
        times += [*timeline.times[span], end_s, end_s]
        probabilities += [*timeline.probabilities[span], last, [np.nan] * len(last)]
    return np.asarray(times), np.asarray(probabilities)
