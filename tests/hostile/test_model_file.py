"""A model file that is not the one its card describes is not loaded."""

import shutil
from pathlib import Path

import pytest

from service.triton.errors import StartFailed
from service.triton.server import LocalTriton

from .conftest import ROOT


def test_a_replaced_model_is_refused(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "model_repository", tmp_path / "models")
    model = tmp_path / "models" / "tandem" / "1" / "model.pt"
    content = model.read_bytes()
    model.write_bytes(content + b"\0")
    triton = LocalTriton(home=ROOT / ".triton", model_repository=tmp_path / "models")
    with pytest.raises(StartFailed, match=r"model\.pt has sha256 .*; model_card\.json states"):
        triton.start()
    assert not triton.alive()
