"""Score the network of an identity run on LFW: View 1, View 2, or both."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training.datasets.prepared import MANIFEST, PreparedSet, load_prepared
from training.networks.inference import extract_features
from training.protocols.lfw import (
    FALSE_ACCEPTS,
    View1Score,
    View2Score,
    accuracy_at,
    best_threshold,
    pair_similarities,
    score_view2,
)
from training.runs import check_crop, load_settings
from training.settings.evaluation import VerifySettings
from training.tables import Table, percent
from training.trained import load_identity


@dataclass(frozen=True, eq=False)
class Verification:
    """Scores of the prepared views, and the similarities and labels [pairs] of the last one, for a ROC curve."""

    view1: View1Score | None
    view2: View2Score | None
    similarities: NDArray[np.float32]
    same: NDArray[np.bool_]

    def as_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        return {
            "view1": asdict(self.view1) if self.view1 else None,
            "view2": asdict(self.view2) if self.view2 else None,
        }

    def table(self) -> Table:
        """Tabulate the views."""
        rows = []
        if self.view1:
            rows.append(("View 1 (dev-test)", f"{self.view1.pairs:,}", percent(self.view1.accuracy), "", ""))
        if self.view2:
            two = self.view2
            shown = (percent(two.mean), percent(two.standard_error), percent(two.true_accepts))
            rows.append((f"View 2 ({len(two.accuracies)} folds)", f"{two.pairs:,}", *shown))
        return Table(
            "LFW: the identity network",
            ("view", "pairs", "accuracy %", "standard error", f"TAR % at FAR {FALSE_ACCEPTS:g}"),
            tuple(rows),
            "Cosine between features of one crop and its mirror image. View 1: the threshold comes "
            "from dev-train, and the epoch was chosen on this view. View 2: the threshold of each fold comes from "
            "the others.",
        )


def verify(settings: VerifySettings) -> None:
    """Score a run, print the scores and write them to a file if one is given."""
    verification = verify_run(settings.run, settings.data)
    verification.table().print()
    if settings.out:
        settings.out.write_text(json.dumps(verification.as_dict(), indent=2) + "\n")


def verify_run(run: Path, data: Path) -> Verification:
    """Score an identity run on prepared LFW.

    Raises:
        FileNotFoundError: The run is not complete, or neither view is prepared.
        ValueError: The run is of another stage.
    """
    network = load_identity(run)
    sets = {
        name: load_prepared(data / name)
        for name in ("dev-train", "dev-test", "view2")
        if (data / name / MANIFEST).is_file()
    }
    for each in sets.values():
        check_crop(run, load_settings(run, "identity"), each.shape)
    view1: View1Score | None = None
    view2: View2Score | None = None
    similarities, same = np.empty(0, np.float32), np.empty(0, bool)
    if {"dev-train", "dev-test"} <= sets.keys():
        threshold = best_threshold(_similarities(network, sets["dev-train"]), sets["dev-train"].arrays["same"])
        similarities, same = _similarities(network, sets["dev-test"]), sets["dev-test"].arrays["same"]
        view1 = View1Score(len(same), accuracy_at(threshold, similarities, same), threshold)
    if "view2" in sets:
        similarities, same = _similarities(network, sets["view2"]), sets["view2"].arrays["same"]
        view2 = score_view2(similarities, same, sets["view2"].arrays["folds"])
    if not (view1 or view2):
        raise FileNotFoundError(
            f"{data} holds neither View 1 nor View 2 of LFW; create them with `training prepare --kind lfw`"
        )
    return Verification(view1, view2, similarities, same)


def _similarities(network: torch.nn.Module, prepared: PreparedSet) -> NDArray[np.float32]:
    return pair_similarities(extract_features(network, prepared.crops), prepared.arrays["pairs"])
