"""Compare the tandem with its parts: are joined features better than either alone, or than fused scores?"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.datasets.ferplus import DROPPED, argmax_labels, majority_labels
from training.datasets.prepared import PreparedSet, load_prepared
from training.evaluation.compare_features import compare_features
from training.protocols.bootstrap import interval_over_runs
from training.protocols.ferplus import score
from training.runs import train_once
from training.settings.evaluation import CompareSettings
from training.settings.stages import EmotionSettings, IdentitySettings, JointSettings, ProbeSettings
from training.stages.expression import train_emotion, train_joint, train_probe
from training.stages.identity import train_identity
from training.tables import Table, percent, percent_range
from training.trained import predict_expressions

RESULT, PAGE = "comparison.json", "comparison.md"

IDENTITY, EMOTION, FUSION = "identity features alone", "emotion network alone", "score fusion"
LONGER, FROZEN, JOINT = "emotion network, trained longer", "tandem, parts frozen", "tandem, trained jointly"
METHODS = (IDENTITY, EMOTION, LONGER, FUSION, FROZEN, JOINT)
REFERENCE = EMOTION
"""The method that gains are measured against."""

FUSION_WEIGHTS = np.linspace(0, 1, 21)
"""Candidate weights of the emotion network's probabilities; the identity classifier's have the rest."""

Probabilities = NDArray[np.float32]
"""Probabilities [rows of Valid, 8]."""


def compare(settings: CompareSettings) -> None:
    """Train every network that is not complete, score all on Valid, print the scores and write them."""
    if settings.probe:
        compare_features(settings)
        return
    valid = load_prepared(settings.data / "valid")
    predictions: dict[str, list[Probabilities]] = {method: [] for method in METHODS}
    weights: list[float] = []
    for seed in range(1, settings.seeds + 1):
        runs = train_all(settings, seed)
        for method, run in runs.items():
            predictions[method].append(predict_expressions(run, valid.crops))
        weight = fusion_weight(predictions[EMOTION][-1], predictions[IDENTITY][-1], valid)
        predictions[FUSION].append(fuse(predictions[EMOTION][-1], predictions[IDENTITY][-1], weight))
        weights.append(weight)
    result = summarize(predictions, valid)
    result |= {"fusion_weights": weights, "settings": json.loads(json.dumps(asdict(settings), default=str))}
    (settings.out / RESULT).write_text(json.dumps(result, indent=2) + "\n")
    (settings.out / PAGE).write_text(table(result).markdown())
    table(result).print()


def train_all(settings: CompareSettings, seed: int) -> dict[str, Path]:
    """Train every network of one seed; runs that are complete are skipped.

    Returns:
        The run of each method except the fusion, which has none.

    Raises:
        ValueError: A run was made with other settings.
    """
    out = settings.out / f"seed-{seed}"
    common: dict[str, Any] = {
        "seed": seed,
        "batch_size": settings.batch_size,
        "precision": settings.precision,
        "accelerator": settings.accelerator,
    }
    if settings.ema_decay is not None:
        common["ema_decay"] = settings.ema_decay
    identity, emotion = settings.identity or out / "identity", out / "emotion"
    joined = {**common, "data": settings.data, "identity": identity, "emotion": emotion}
    joined["epochs"] = settings.joint_epochs

    if settings.people:
        people = IdentitySettings(
            out=identity, data=settings.people, lfw=settings.lfw, epochs=settings.identity_epochs, **common
        )
        train_once(people, train_identity)
    probe = ProbeSettings(
        out=out / "probe", data=settings.data, identity=identity, epochs=settings.probe_epochs, **common
    )
    alone = EmotionSettings(
        out=emotion,
        data=settings.data,
        network=settings.network,
        start=settings.start,
        epochs=settings.emotion_epochs,
        **common,
    )
    # The control: trained for as many further epochs as the tandems, at the same rate, without identity features.
    longer = EmotionSettings(
        out=out / "longer",
        data=settings.data,
        network=settings.network,
        start=emotion,
        epochs=settings.joint_epochs,
        **{"learning_rate": JointSettings.learning_rate, "ema_decay": JointSettings.ema_decay, **common},
    )
    frozen = JointSettings(out=out / "frozen", identity_rate=0, emotion_rate=0, **joined)
    joint = JointSettings(out=out / "joint", **joined)
    return {
        IDENTITY: train_once(probe, train_probe),
        EMOTION: train_once(alone, train_emotion),
        LONGER: train_once(longer, train_emotion),
        FROZEN: train_once(frozen, train_joint),
        JOINT: train_once(joint, train_joint),
    }


def fuse(emotion: Probabilities, identity: Probabilities, weight: float) -> Probabilities:
    """Return the weighted mean of both (the sum rule of Kittler et al., "On Combining Classifiers", PAMI 1998)."""
    return (weight * emotion + (1 - weight) * identity).astype(np.float32)


def fusion_weight(emotion: Probabilities, identity: Probabilities, valid: PreparedSet) -> float:
    """Return the weight with the highest accuracy on Valid, the largest of several equal ones."""
    accuracies = [
        score(fuse(emotion, identity, weight), valid.arrays["votes"], valid.aligned).majority.accuracy
        for weight in FUSION_WEIGHTS
    ]
    best = np.flatnonzero(np.array(accuracies) == max(accuracies))[-1]
    return float(FUSION_WEIGHTS[best])


def summarize(predictions: Mapping[str, list[Probabilities]], valid: PreparedSet) -> dict[str, Any]:
    """Return the scores of each method for JSON: mean over seeds, standard deviation, and intervals.

    ``gain`` is the paired difference to ``REFERENCE``, by seed and row. Its interval is much narrower than that of
    a difference of means, because both methods agree on most rows.
    """
    methods: dict[str, Any] = {}
    for rule, labels in _rules(valid):
        reference = _correct(predictions[REFERENCE], labels, valid.aligned)
        for method, runs in predictions.items():
            correct = _correct(runs, labels, valid.aligned)
            of_seeds = correct.mean(axis=1)
            methods.setdefault(method, {})[rule] = {
                "rows": correct.shape[1],
                "seeds": of_seeds.tolist(),
                "mean": float(of_seeds.mean()),
                "deviation": float(of_seeds.std(ddof=1)) if len(runs) > 1 else None,
                "interval": asdict(interval_over_runs(correct)),
                "gain": float((correct - reference).mean()),
                "gain_interval": asdict(interval_over_runs(correct - reference)),
            }
    for method, runs in predictions.items():
        scores = [score(run, valid.arrays["votes"], valid.aligned).majority for run in runs]
        methods[method]["macro_f1"] = float(np.mean([each.macro_f1 for each in scores]))
        methods[method]["macro_recall"] = float(np.mean([each.macro_recall for each in scores]))
    return {"methods": methods}


def _rules(valid: PreparedSet) -> Iterator[tuple[str, NDArray[np.int64]]]:
    yield "majority", majority_labels(valid.arrays["votes"])
    yield "argmax", argmax_labels(valid.arrays["votes"])


def _correct(
    runs: list[Probabilities], labels: NDArray[np.int64], found: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return [runs, rows], 1 for a correct prediction; rows that the rule drops are left out."""
    rows = labels != DROPPED
    correct = np.stack([(run.argmax(axis=1) == labels) & found for run in runs])
    return correct[:, rows].astype(np.float64)


def table(result: Mapping[str, Any]) -> Table:
    """Tabulate the methods."""
    rows = []
    for method, figures in result["methods"].items():
        major, top = figures["majority"], figures["argmax"]
        spread = "" if major["deviation"] is None else f" ± {percent(major['deviation'])}"
        gain = f"{100 * major['gain']:+.2f} ({percent_range(**major['gain_interval'])})"
        rows.append(
            (
                method,
                f"{percent(major['mean'])}{spread}",
                percent_range(**major["interval"]),
                "" if method == REFERENCE else gain,
                f"{percent(top['mean'])} ({percent_range(**top['interval'])})",
                percent(figures["macro_f1"]),
            )
        )
    first = next(iter(result["methods"].values()))
    return Table(
        "The parts against the whole, FER+ Valid",
        ("method", "majority %", "95 %", f"gain over {REFERENCE}", "argmax % (95 %)", "macro F1 %"),
        tuple(rows),
        f"{len(first['majority']['seeds'])} seed(s); {first['majority']['rows']:,} rows by majority, "
        f"{first['argmax']['rows']:,} by argmax. Intervals are from the bootstrap over rows and seeds; ± is the "
        "standard deviation over seeds. All epochs, and the weights of the fusion "
        f"({', '.join(f'{weight:.2f}' for weight in result['fusion_weights'])}), were chosen on Valid. "
        f'The tandems start from the emotion network; "{LONGER}" has seen as many epochs as they have.',
    )
