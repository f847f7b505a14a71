"""The folder of a run."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only

from training.runs import note_device


def test_only_the_first_process_notes_its_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Another one comes here without waiting, perhaps before there is a file to add to.
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    note_device(tmp_path, torch.device("cpu"), "32-true")
    assert list(tmp_path.iterdir()) == []
