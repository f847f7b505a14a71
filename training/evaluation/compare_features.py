"""Compare the features of trained networks by linear classifiers: do both together hold more than either alone?"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from training.datasets.ferplus import DROPPED, majority_labels
from training.datasets.prepared import load_prepared
from training.evaluation.probe import EMOTION, TANDEM, fit_linearly, read_features
from training.evaluation.robustness import paste_faces
from training.evaluation.robustness_photos import CONDITIONS
from training.protocols.bootstrap import interval_over_runs
from training.protocols.readings import choosing_half
from training.settings.evaluation import CompareSettings
from training.tables import Table, percent, percent_range

RESULT, PAGE = "features.json", "features.md"
CHOOSING, REPORTING = "Valid, the half to choose on", "Valid, the half to report"


@dataclass(frozen=True, eq=False)
class Tested:
    """Crops [n, C, H, W], their labels [n], and whether a face was found [n]; an answer without one is wrong."""

    crops: NDArray[np.uint8]
    labels: NDArray[np.int64]
    found: NDArray[np.bool_]


def compare_features(settings: CompareSettings) -> None:
    """Fit classifiers for each seed, score them on both halves of Valid and in photos, and write the scores."""
    train = load_prepared(settings.data / "train")
    labels = majority_labels(train.arrays["votes"])
    rows = (labels != DROPPED) & train.aligned
    print(f"Reading the features of {rows.sum():,} images of Train", flush=True)
    labels, known = labels[rows], read_features(settings.identity, settings.start, train.crops[rows])
    classifiers = []
    for seed in tqdm(range(1, settings.seeds + 1), "classifiers", unit=" seeds"):
        drawn = np.random.default_rng(seed).integers(0, len(labels), len(labels))
        classifiers.append({name: fit_linearly(each[drawn], labels[drawn]) for name, each in known.items()})
    sets: dict[str, Any] = {}
    for place, tested in _test_sets(settings):
        features = read_features(settings.identity, settings.start, tested.crops)
        correct = {
            name: np.stack([(of_seed[name](each) == tested.labels) & tested.found for of_seed in classifiers])
            for name, each in features.items()
        }
        sets[place] = {"faces_found": float(tested.found.mean()), **summarize(correct)}
    result = {
        "sets": sets,
        "trained_on": len(labels),
        "settings": json.loads(json.dumps(asdict(settings), default=str)),
    }
    settings.out.mkdir(parents=True, exist_ok=True)
    (settings.out / RESULT).write_text(json.dumps(result, indent=2) + "\n")
    (settings.out / PAGE).write_text(table(result).markdown())
    table(result).print()


def _test_sets(settings: CompareSettings) -> Iterator[tuple[str, Tested]]:
    valid = load_prepared(settings.data / "valid")
    labels, half = majority_labels(valid.arrays["votes"]), choosing_half(valid)
    for place, of_half in ((CHOOSING, half), (REPORTING, ~half)):
        rows = of_half & (labels != DROPPED)
        yield place, Tested(valid.crops[rows], labels[rows], valid.aligned[rows])
    if settings.photos:
        labels, crops, found = paste_faces(settings.photos, "valid", settings.limit, settings.workers, valid.shape)
        for index, condition in enumerate(CONDITIONS):
            yield condition, Tested(np.ascontiguousarray(crops[:, index]), labels, found[:, index])


def summarize(correct: Mapping[str, NDArray[np.bool_]]) -> dict[str, Any]:
    """Return for JSON the accuracy of each kind of features, and what both joined gain over emotion features.

    Args:
        correct: Whether the answer to each image is right, [seeds, images], by kind of features.
    """
    values = {name: each.astype(np.float64) for name, each in correct.items()}
    gain = values[TANDEM] - values[EMOTION]  # paired, by seed and image
    return {
        "images": gain.shape[1],
        "features": {
            name: {"accuracy": float(each.mean()), "interval": asdict(interval_over_runs(each))}
            for name, each in values.items()
        },
        "gain": float(gain.mean()),
        "gain_interval": asdict(interval_over_runs(gain)),
    }


def table(result: Mapping[str, Any]) -> Table:
    """Tabulate the sets."""
    rows = []
    for place, figures in result["sets"].items():
        kinds = figures["features"].values()
        shown = [f"{percent(each['accuracy'])} ({percent_range(**each['interval'])})" for each in kinds]
        gain = f"{100 * figures['gain']:+.2f} ({percent_range(**figures['gain_interval'])})"
        rows.append((place, f"{figures['images']:,}", percent(figures["faces_found"]), *shown, gain))
    kinds = next(iter(result["sets"].values()))["features"]
    return Table(
        "Frozen features, FER+ by majority, linear classifiers",
        (
            "images",
            "number",
            "faces found %",
            *(f"{name} % (95 %)" for name in kinds),
            f"gain over {EMOTION} (95 %)",
        ),
        tuple(rows),
        f"{result['settings']['seeds']} seed(s), each with classifiers fitted to another bootstrap sample of "
        f"{result['trained_on']:,} images of Train. Intervals are from the bootstrap over images and seeds; gains "
        "are paired by image. Images without a found face count as wrong.",
    )
