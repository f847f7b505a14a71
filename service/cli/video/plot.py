"""A plot of the emotions that each face of a video shows over time (matplotlib)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from service.vision.drawing import COLORS

SUFFIXES = (".png", ".svg", ".pdf")

MAX_FACES = 8
"""Faces that are drawn: those that are seen longest."""

WIDTH, HEIGHT = 10.0, 1.8
"""Inches of a face's panel."""


@dataclass
class EmotionTimeline:
    """What one face shows over time: the seconds at which it was seen, and its probabilities then."""

    times: list[float] = field(default_factory=list)
    emotions: list[list[float]] = field(default_factory=list)


def plot(
    courses: Mapping[int, EmotionTimeline], labels: Sequence[str], step_s: float, path: Path, kind: str
) -> None:
    """Write a picture with a panel for each face: its probabilities, stacked, over time.

    Args:
        courses: by the face's number.
        labels: the emotions, in the order of the probabilities.
        step_s: seconds between two frames that were read; a face that is away for longer leaves a gap.
        path: of the file.
        kind: «png», «svg» or «pdf».
    """
    longest = sorted(courses, key=lambda number: len(courses[number].times), reverse=True)[:MAX_FACES]
    figure = Figure(figsize=(WIDTH, HEIGHT * max(1, len(longest)) + 1.2), layout="constrained")
    panels = figure.subplots(max(1, len(longest)), sharex=True, squeeze=False)[:, 0]
    for panel, number in zip(panels, sorted(longest), strict=False):
        times, emotions = with_gaps(courses[number], step_s)
        # Between two frames a face keeps what it showed at the first: nothing is known of the time between.
        panel.stackplot(times, *emotions.T, colors=COLORS, step="post", labels=labels)
        panel.set(title=f"face {number}", ylabel="probability", ylim=(0, 1))
    panels[-1].set_xlabel("seconds")
    if longest:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(labels))
    else:
        panels[0].text(0.5, 0.5, "no face found", ha="center", va="center", transform=panels[0].transAxes)
    if len(courses) > len(longest):
        figure.suptitle(f"the {len(longest)} of {len(courses)} faces that are seen longest")
    figure.savefig(path, format=kind, dpi=120)


def with_gaps(course: EmotionTimeline, step_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Times [N] and probabilities [N, labels] of a step function, with NaN where the face is away.

    Each run of frames, none further than 1.5 steps from the one before, lasts one step beyond its last frame.
    """
    times: list[float] = []
    emotions: list[list[float]] = []
    for index, (time, values) in enumerate(zip(course.times, course.emotions, strict=True)):
        times.append(time)
        emotions.append(values)
        last = index + 1 == len(course.times)
        if last or course.times[index + 1] - time > 1.5 * step_s:
            times += [time + step_s, time + step_s]
            emotions += [values, [np.nan] * len(values)]
    return np.asarray(times), np.asarray(emotions)
