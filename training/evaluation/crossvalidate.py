"""Cross-validate on CK+, in folds by person: the network of each fold is trained on everybody else."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.datasets.ferplus import EMOTIONS, majority_labels
from training.datasets.prepared import Crops, PreparedSet, load_prepared, write_prepared
from training.evaluation.probe import predict_linearly
from training.networks.inference import predict
from training.protocols.breakdown import NO_FACE, confusion_matrix
from training.protocols.folds import check_disjoint, folds_by_person
from training.runs import is_complete, load_backbone, load_identity, load_settings, predict_expressions
from training.settings.evaluation import CrossvalidateSettings
from training.settings.stages import EmotionSettings, JointSettings
from training.stages.expression import train_emotion, train_joint
from training.tables import Table, percent

RESULT = "crossvalidation.json"


def crossvalidate(settings: CrossvalidateSettings) -> None:
    """Train and test every fold, print the scores and write them; folds that are complete are skipped.

    The last epoch of each fold counts, because choosing one on the test set would bias the score.

    Raises:
        ValueError: The set has no subjects, or fewer than folds.
    """
    prepared = load_prepared(settings.data)
    if "subjects" not in prepared.arrays:
        raise ValueError(f"{settings.data} has no subjects; prepare it with --kind ckplus")
    subjects = prepared.arrays["subjects"]
    folds = folds_by_person(subjects, settings.folds)
    labels = majority_labels(prepared.arrays["votes"])
    predicted = np.full(len(labels), NO_FACE)
    features = _frozen_features(settings, prepared) if settings.probe else None
    for fold in range(settings.folds):
        held_out = folds == fold
        check_disjoint(subjects[~held_out], subjects[held_out])
        if features is None:
            run = _train_fold(settings, settings.out / f"fold-{fold + 1:02d}", prepared, held_out)
            answers = predict_expressions(run, prepared.crops[held_out]).argmax(axis=1)
        else:
            answers = predict_linearly(features[~held_out], labels[~held_out], features[held_out])
        predicted[held_out] = np.where(prepared.aligned[held_out], answers, NO_FACE)
    result = summarize(labels, predicted, folds, len(np.unique(subjects)))
    result["probe"] = settings.probe
    settings.out.mkdir(parents=True, exist_ok=True)
    (settings.out / RESULT).write_text(json.dumps(result, indent=2) + "\n")
    table(result).print()


def _frozen_features(settings: CrossvalidateSettings, prepared: PreparedSet) -> NDArray[np.float32]:
    """Return the features [n, features] of ``start`` and ``identity``, joined if both are given."""
    networks = [load_backbone(settings.start)] if settings.start else []
    networks += [load_identity(settings.identity)] if settings.identity else []
    return np.concatenate([predict(network, prepared.crops) for network in networks], axis=1)


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
    for name, rows in (("train", ~held_out), ("valid", held_out)):
        crops = Crops(prepared.crops[rows], prepared.arrays["outcomes"][rows])
        arrays = {key: prepared.arrays[key][rows] for key in ("votes", "subjects", "files")}
        write_prepared(out / "data" / name, settings.data, crops, None, arrays, {})
    common: dict[str, Any] = {
        "data": out / "data",
        "batch_size": settings.batch_size,
        "seed": settings.seed,
        "precision": settings.precision,
        "accelerator": settings.accelerator,
        "keep": "last",
    }
    if not is_complete(out / "emotion"):
        train_emotion(
            EmotionSettings(
                out=out / "emotion",
                network=settings.network or _network_of(settings.start),
                start=settings.start,
                epochs=settings.epochs,
                learning_rate=settings.learning_rate,
                ema_decay=settings.ema_decay,
                **common,
            )
        )
    if not settings.identity:
        return out / "emotion"
    if not is_complete(out / "joint"):
        train_joint(
            JointSettings(
                out=out / "joint",
                identity=settings.identity,
                emotion=out / "emotion",
                epochs=settings.joint_epochs,
                ema_decay=settings.ema_decay,
                **common,
            )
        )
    return out / "joint"


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
