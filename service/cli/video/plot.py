"""Plot the emotions of each face of a video over time (matplotlib)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from service.vision.drawing import COLORS

SUFFIXES = (".png", ".svg", ".pdf")

MAX_FACES = 8
"""Panels in a plot; faces in the most frames come first."""

PANEL_WIDTH, PANEL_HEIGHT = 10.0, 1.8
"""Inches."""


@dataclass
class EmotionTimeline:
    """The times in seconds at which one face was seen, and its probabilities at each."""

    times: list[float] = field(default_factory=list)
    emotions: list[list[float]] = field(default_factory=list)


def plot_timelines(
    timelines: Mapping[int, EmotionTimeline], labels: Sequence[str], step_s: float, path: Path, kind: str
) -> None:
    """Write a figure with one panel per face: its probabilities, stacked, over time.

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
    panels = figure.subplots(panel_count, sharex=True, squeeze=False)[:, 0]
    for panel, number in zip(panels, sorted(longest), strict=False):
        times, emotions = with_gaps(timelines[number], step_s)
        # A step function: nothing is known about the time between two frames.
        panel.stackplot(times, *emotions.T, colors=COLORS, step="post", labels=labels)
        panel.set(title=f"face {number}", ylabel="probability", ylim=(0, 1))
    panels[-1].set_xlabel("seconds")
    if longest:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(labels))
    else:
        panels[0].text(0.5, 0.5, "no face found", ha="center", va="center", transform=panels[0].transAxes)
    if len(timelines) > len(longest):
        figure.suptitle(f"{len(longest)} of {len(timelines)} faces: those seen longest")
    figure.savefig(path, format=kind, dpi=120)


def with_gaps(timeline: EmotionTimeline, step_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Return times [N] and probabilities [N, labels] of a step function, with NaN where the face is absent.

    Frames at most 1.5 steps apart form a run, which lasts one step beyond its last frame.
    """
    times: list[float] = []
    emotions: list[list[float]] = []
    for index, (time, values) in enumerate(zip(timeline.times, timeline.emotions, strict=True)):
        times.append(time)
        emotions.append(values)
        last = index + 1 == len(timeline.times)
        if last or timeline.times[index + 1] - time > 1.5 * step_s:
            times += [time + step_s, time + step_s]
            emotions += [values, [np.nan] * len(values)]
    return np.asarray(times), np.asarray(emotions)
