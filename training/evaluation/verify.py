"""LFW by the features of an identity run: View 1, View 2, whichever is prepared."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training.datasets.loaders import EVALUATION_BATCH
from training.datasets.prepared import MANIFEST, PreparedSet, load_prepared
from training.protocols.lfw import (
    FALSE_ACCEPTS,
    View1Score,
    View2Score,
    accuracy_at,
    best_threshold,
    pair_similarities,
    score_view2,
)
from training.settings.evaluation import VerifySettings
from training.stages.identity import mirrored_features
from training.tables import Table, share
from training.trained_networks import load_identity


@dataclass(frozen=True, eq=False)
class Verification:
    """Scores of the views that are prepared, and similarities and labels of the pairs to draw a ROC of."""

    view1: View1Score | None
    view2: View2Score | None
    similarities: NDArray[np.float32]
    same: NDArray[np.bool_]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "view1": self.view1.as_dict() if self.view1 else None,
            "view2": self.view2.as_dict() if self.view2 else None,
        }

    def table(self) -> Table:
        """One row a view."""
        rows = []
        if self.view1:
            rows.append(("View 1 (dev-test)", f"{self.view1.pairs:,}", share(self.view1.accuracy), "", ""))
        if self.view2:
            two = self.view2
            reached = (share(two.mean), share(two.standard_error), share(two.true_accepts))
            rows.append((f"View 2 ({len(two.accuracies)} folds)", f"{two.pairs:,}", *reached))
        return Table(
            "LFW: the identity network",
            ("view", "pairs", "accuracy %", "standard error", f"TAR % at FAR {FALSE_ACCEPTS:g}"),
            tuple(rows),
            "One grey 48x48 crop and its mirror image, cosine. View 1: the threshold is from dev-train, and the "
            "epoch was chosen on this view. View 2: each fold's threshold is from the others.",
        )


def verify(settings: VerifySettings) -> None:
    """Score, print, and write the figures where asked for."""
    found = verify_run(settings.run, settings.data)
    found.table().print()
    if settings.out:
        settings.out.write_text(json.dumps(found.as_dict(), indent=2) + "\n")


def verify_run(run: Path, data: Path) -> Verification:
    """Score an identity run on prepared LFW.

    Raises:
        FileNotFoundError: the run is not complete, or neither view is prepared.
    """
    network = load_identity(run)
    sets = {
        name: load_prepared(data / name)
        for name in ("dev-train", "dev-test", "view2")
        if (data / name / MANIFEST).is_file()
    }
    view1: View1Score | None = None
    view2: View2Score | None = None
    similarities, same = np.empty(0, np.float32), np.empty(0, bool)
    if {"dev-train", "dev-test"} <= sets.keys():
        fitted = _similarities(network, sets["dev-train"])
        threshold = best_threshold(fitted, sets["dev-train"].arrays["same"])
        similarities, same = _similarities(network, sets["dev-test"]), sets["dev-test"].arrays["same"]
        view1 = View1Score(len(same), accuracy_at(threshold, similarities, same), threshold)
    if "view2" in sets:
        similarities, same = _similarities(network, sets["view2"]), sets["view2"].arrays["same"]
        view2 = score_view2(similarities, same, sets["view2"].arrays["folds"])
    if not (view1 or view2):
        raise FileNotFoundError(
            f"{data} holds neither View 1 nor View 2 of LFW; `training prepare --kind lfw` makes them"
        )
    return Verification(view1, view2, similarities, same)


def _similarities(network: torch.nn.Module, prepared: PreparedSet) -> NDArray[np.float32]:
    with torch.inference_mode():
        chunks = torch.split(torch.from_numpy(prepared.crops)[:, None], EVALUATION_BATCH)
        features = torch.cat([mirrored_features(network, chunk) for chunk in chunks])
    return pair_similarities(features.numpy(), prepared.arrays["pairs"])
