"""The plots of the report, as PNG files."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from training.datasets.ferplus import EMOTIONS
from training.protocols.breakdown import Breakdown
from training.protocols.lfw import FALSE_ACCEPTS, roc
from training.report.curves import Curve

DPI = 110
BLUE, ORANGE, GRAY = "#1f5fa8", "#d1742a", "#8a8a8a"


def draw_curves(runs: Mapping[str, Mapping[str, Curve]]) -> bytes:
    """Draw the training loss and the scores on held-out data; a column for each run."""
    figure = Figure(figsize=(3.6 * len(runs), 5.2), layout="constrained")
    grid = figure.subplots(2, len(runs), squeeze=False, sharex="col")
    for column, (name, curves) in enumerate(runs.items()):
        upper, lower = grid[:, column]
        upper.set_title(name)
        if "loss" in curves:
            _draw(upper, "training loss", curves["loss"])
        for label, key in (
            ("Valid, majority", "valid_majority"),
            ("Valid, argmax", "valid_argmax"),
            ("LFW View 1", "lfw_accuracy"),
        ):
            if key in curves:
                _draw(lower, label, {epoch: 100 * value for epoch, value in curves[key].items()})
        upper.set_ylabel("loss")
        lower.set_ylabel("accuracy %")
        lower.set_xlabel("epoch")
        lower.xaxis.get_major_locator().set_params(integer=True)
        for axes in (upper, lower):
            axes.grid(alpha=0.3)
            if axes.lines:
                axes.legend(fontsize=8)
            else:
                axes.text(0.5, 0.5, "nothing logged", ha="center", color=GRAY, transform=axes.transAxes)
    return _png(figure)


def _draw(axes: Axes, label: str, curve: Curve) -> None:
    epochs = sorted(curve)
    marker = "o" if len(epochs) < 3 else None  # short lines are hard to see
    axes.plot([epoch + 1 for epoch in epochs], [curve[epoch] for epoch in epochs], label=label, marker=marker)


def draw_confusion(detail: Breakdown) -> bytes:
    """Draw the confusion matrix in percent of each label, with counts."""
    counts = np.array(detail.confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(7.4, 6.0), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
    for row, column in np.ndindex(counts.shape):
        if counts[row, column]:
            ink = "white" if shares[row, column] > 0.55 else "black"
            text = f"{100 * shares[row, column]:.0f}\n({counts[row, column]:,})"
            axes.text(column, row, text, ha="center", va="center", fontsize=7.5, color=ink)
    axes.set_xticks(range(len(EMOTIONS) + 1), [*EMOTIONS, "no face"], rotation=40, ha="right")
    axes.set_yticks(range(len(EMOTIONS)), EMOTIONS)
    axes.set_xlabel("prediction")
    axes.set_ylabel("label by majority")
    figure.colorbar(image, ax=axes, label="% of the label", shrink=0.8)
    return _png(figure)


def draw_reliability(detail: Breakdown) -> bytes:
    """Draw accuracy over confidence, and the number of predictions in each bin."""
    figure = Figure(figsize=(4.8, 5.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    bins = detail.reliability
    left, width = [each.low for each in bins], [each.high - each.low for each in bins]
    upper.bar(
        left, [each.accuracy for each in bins], width, align="edge", color=BLUE, edgecolor="white", alpha=0.85
    )
    upper.plot([0, 1], [0, 1], color=GRAY, linestyle="--", label="perfect calibration")
    upper.plot(
        [each.confidence for each in bins],
        [each.accuracy for each in bins],
        "o",
        color=ORANGE,
        markersize=4,
        label="mean confidence of the bin",
    )
    upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    upper.legend(fontsize=8, loc="upper left")
    upper.grid(alpha=0.3)
    lower.bar(left, [each.count for each in bins], width, align="edge", color=GRAY, edgecolor="white")
    lower.set(ylabel="predictions", xlabel="confidence", yscale="log")
    return _png(figure)


def draw_recall(detail: Breakdown) -> bytes:
    """Draw the recall of each emotion with Wilson's 95 % interval, which is wide for rare emotions."""
    counts = np.array(detail.confusion)
    of_class = counts.sum(axis=1)
    present = np.flatnonzero(of_class)
    recall = np.diag(counts)[present] / of_class[present]
    low, high = wilson(recall, of_class[present])
    figure = Figure(figsize=(6.6, 3.4), layout="constrained")
    axes = figure.subplots()
    places = range(len(present))
    axes.barh(places, 100 * recall, color=BLUE, alpha=0.85)
    errors = 100 * np.clip(np.stack([recall - low, high - recall]), 0, None)
    axes.errorbar(100 * recall, places, xerr=errors, fmt="none", ecolor="black", capsize=3, linewidth=1)
    axes.set_yticks(places, [f"{EMOTIONS[index]} (n = {of_class[index]:,})" for index in present])
    axes.invert_yaxis()
    axes.set(xlabel="recall %, with 95 % interval", xlim=(0, 100))
    axes.grid(axis="x", alpha=0.3)
    return _png(figure)


def wilson(
    shares: NDArray[np.float64], counts: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return Wilson's 95 % interval of proportions [n] of counts [n] (JASA 22, 1927)."""
    z = 1.959964
    middle = (shares + z**2 / (2 * counts)) / (1 + z**2 / counts)
    half = z / (1 + z**2 / counts) * np.sqrt(shares * (1 - shares) / counts + z**2 / (4 * counts**2))
    return middle - half, middle + half


def draw_roc(similarities: NDArray[np.float32], same: NDArray[np.bool_]) -> bytes:
    """Draw the true accept rate over the false accept rate, on a logarithmic scale."""
    mismatched, matched = roc(similarities, same)
    figure = Figure(figsize=(5.0, 4.2), layout="constrained")
    axes = figure.subplots()
    smallest = 0.5 / (~same).sum()
    axes.plot(np.maximum(mismatched, smallest), matched, color=BLUE, drawstyle="steps-post")
    axes.axvline(FALSE_ACCEPTS, color=GRAY, linestyle="--", label=f"FAR {FALSE_ACCEPTS:g}")
    axes.set(
        xscale="log",
        xlim=(min(smallest, FALSE_ACCEPTS / 2), 1),
        ylim=(0, 1.01),
        xlabel="false accept rate (FAR)",
        ylabel="true accept rate (TAR)",
    )
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8, loc="lower right")
    return _png(figure)


def draw_comparison(
    methods: Sequence[str], means: Sequence[float], low: Sequence[float], high: Sequence[float]
) -> bytes:
    """Draw the accuracy of each method, in percent, with its interval."""
    figure = Figure(figsize=(6.6, 2.8), layout="constrained")
    axes = figure.subplots()
    places = range(len(methods))
    below = np.array(means) - np.array(low)
    above = np.array(high) - np.array(means)
    axes.errorbar(means, places, xerr=np.clip([below, above], 0, None), fmt="o", color=BLUE, capsize=4)
    axes.set_yticks(places, methods)
    axes.invert_yaxis()
    axes.set_xlabel("Valid, majority %, with 95 % interval")
    axes.grid(axis="x", alpha=0.3)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    return file.getvalue()
