"""Cross-validate on CK+, in folds by person: the network of each fold is trained on everybody else."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.datasets.ferplus import EMOTIONS, majority_labels
from training.datasets.prepared import Crops, PreparedSet, load_prepared, write_prepared
from training.evaluation.probe import EMOTION, fit_linearly, read_features
from training.protocols.bootstrap import interval
from training.protocols.breakdown import NO_FACE, confusion_matrix
from training.protocols.folds import check_disjoint, folds_by_person
from training.runs import SETTINGS, load_settings, train_once
from training.settings.evaluation import CrossvalidateSettings
from training.settings.stages import EmotionSettings, JointSettings
from training.stages.expression import train_emotion, train_joint
from training.tables import Table, percent, percent_range
from training.trained import predict_expressions

RESULT = "crossvalidation.json"
NETWORK = "network"
"""The name of what is trained without ``probe``."""


def crossvalidate(settings: CrossvalidateSettings) -> None:
    """Train and test every fold, print the scores and write them; folds that are complete are skipped.

    The last epoch of each fold counts, because choosing one on the test set would bias the score.

    Raises:
        ValueError: The set has no subjects, or fewer than folds, or a fold was begun with other images or
            settings.
    """
    prepared = load_prepared(settings.data)
    if "subjects" not in prepared.arrays:
        raise ValueError(f"{settings.data} has no subjects; prepare it with --kind ckplus")
    subjects = prepared.arrays["subjects"]
    folds = folds_by_person(subjects, settings.folds)
    labels = majority_labels(prepared.arrays["votes"])
    features = read_features(settings.identity, settings.start, prepared.crops) if settings.probe else {}
    predicted = {name: np.full(len(labels), NO_FACE) for name in features or (NETWORK,)}
    for fold in range(settings.folds):
        held_out = folds == fold
        check_disjoint(subjects[~held_out], subjects[held_out])
        if settings.probe:
            answers = {
                name: fit_linearly(each[~held_out], labels[~held_out])(each[held_out])
                for name, each in features.items()
            }
        else:
            run = _train_fold(settings, settings.out / f"fold-{fold + 1:02d}", prepared, held_out)
            answers = {NETWORK: predict_expressions(run, prepared.crops[held_out]).argmax(axis=1)}
        for name, each in answers.items():
            predicted[name][held_out] = np.where(prepared.aligned[held_out], each, NO_FACE)
    *_, whole = predicted.values()
    result = summarize(labels, whole, folds, len(np.unique(subjects)))
    result["probe"] = settings.probe
    if settings.probe:
        result["features"] = compare_by_person(
            {name: each == labels for name, each in predicted.items()}, subjects
        )
    settings.out.mkdir(parents=True, exist_ok=True)
    (settings.out / RESULT).write_text(json.dumps(result, indent=2) + "\n")
    table(result).print()
    if settings.probe:
        features_table(result).print()


def compare_by_person(correct: Mapping[str, NDArray[np.bool_]], subjects: NDArray[np.str_]) -> dict[str, Any]:
    """Return for JSON the accuracy of each kind of features, and its gain over emotion features.

    Intervals are over people, because the images of one are alike.

    Args:
        correct: Whether the answer to each image is right, [n], by kind of features.
        subjects: Name of the person in each image, [n].
    """
    people, indices = np.unique(subjects, return_inverse=True)
    images = np.bincount(indices)

    def over_people(values: NDArray[np.float64]) -> dict[str, float]:
        sums = np.bincount(indices, values)
        return asdict(interval(len(people), lambda drawn: float(sums[drawn].sum() / images[drawn].sum())))

    figures: dict[str, Any] = {}
    for name, each in correct.items():
        values = each.astype(np.float64)
        figures[name] = {"accuracy": float(values.mean()), "interval": over_people(values)}
        if EMOTION in correct and name != EMOTION:
            gain = values - correct[EMOTION]
            figures[name] |= {"gain": float(gain.mean()), "gain_interval": over_people(gain)}
    return figures


def _network_of(start: Path | None) -> str:
    return (
        str(load_settings(start, "identity", "emotion")["network"])
        if start and start.is_dir()
        else EmotionSettings.network
    )


def _train_fold(
    settings: CrossvalidateSettings, out: Path, prepared: PreparedSet, held_out: NDArray[np.bool_]
) -> Path:
    """Train one fold and return the run to test."""
    begun = (out / "emotion" / SETTINGS).is_file()
    for name, rows in (("train", ~held_out), ("valid", held_out)):
        folder = out / "data" / name
        if not begun:
            crops = Crops(prepared.crops[rows], prepared.arrays["outcomes"][rows])
            arrays = {key: prepared.arrays[key][rows] for key in ("votes", "subjects", "files")}
            write_prepared(folder, settings.data, crops, None, arrays, {})
        elif not np.array_equal(load_prepared(folder).crops, prepared.crops[rows]):
            # A network that was trained on other folds may have seen those it is tested on.
            raise ValueError(
                f"{folder} holds other images than this fold of {settings.folds}; choose another --out"
            )
    common: dict[str, Any] = {
        "data": out / "data",
        "batch_size": settings.batch_size,
        "seed": settings.seed,
        "precision": settings.precision,
        "accelerator": settings.accelerator,
        "keep": "last",
    }
    emotion = EmotionSettings(
        out=out / "emotion",
        network=settings.network or _network_of(settings.start),
        start=settings.start,
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        ema_decay=settings.ema_decay,
        **common,
    )
    trained = train_once(emotion, train_emotion)
    if not settings.identity:
        return trained
    joint = JointSettings(
        out=out / "joint",
        identity=settings.identity,
        emotion=trained,
        epochs=settings.joint_epochs,
        ema_decay=settings.ema_decay,
        **common,
    )
    return train_once(joint, train_joint)


def summarize(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], folds: NDArray[np.int64], subjects: int
) -> dict[str, Any]:
    """Return the scores for JSON: accuracy by fold, mean, standard deviation, and confusion matrix."""
    accuracies = [float((labels == predicted)[folds == fold].mean()) for fold in range(int(folds.max()) + 1)]
    return {
        "images": len(labels),
        "subjects": subjects,
        "accuracies": accuracies,
        "mean": float(np.mean(accuracies)),
        "deviation": float(np.std(accuracies, ddof=1)),
        "confusion": confusion_matrix(labels, predicted).tolist(),
        "emotions": [EMOTIONS[index] for index in np.unique(labels)],
    }


def features_table(result: Mapping[str, Any]) -> Table:
    """Tabulate the kinds of features."""
    rows = []
    for name, figures in result["features"].items():
        bounds = percent_range(**figures["interval"])
        gain = ""
        if "gain" in figures:
            gain = f"{100 * figures['gain']:+.2f} ({percent_range(**figures['gain_interval'])})"
        rows.append((name, percent(figures["accuracy"]), bounds, gain))
    return Table(
        "CK+: frozen features, linear classifiers",
        ("features", "accuracy % of all images", "95 %", f"gain over {EMOTION} (95 %)"),
        tuple(rows),
        "Intervals are from the bootstrap over people; gains are paired by image.",
    )


def table(result: dict[str, Any]) -> Table:
    """Tabulate the folds and their mean."""
    folds = [(f"fold {index}", percent(value), "") for index, value in enumerate(result["accuracies"], start=1)]
    return Table(
        "CK+: folds by person" + (", linear probe" if result.get("probe") else ""),
        ("fold", "accuracy %", "deviation"),
        (*folds, ("mean", percent(result["mean"]), percent(result["deviation"]))),
        f"{result['images']:,} images of {result['subjects']} subjects, {len(result['emotions'])} emotions; "
        "nobody is in both the training and the test set of a fold. "
        + (
            "Only a linear classifier is trained, on frozen features. "
            if result.get("probe")
            else "The last epoch counts. "
        )
        + "Images without a found face count as wrong.",
    )
