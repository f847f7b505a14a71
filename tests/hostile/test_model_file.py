"""A model file that differs from its model card is not loaded."""

import hashlib
import shutil
from pathlib import Path

import pytest

from service.triton.errors import StartFailed
from service.triton.server import LocalTriton

from .conftest import ROOT


def test_a_replaced_model_is_rejected(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "model_repository", tmp_path / "models")
    model = tmp_path / "models" / "tandem" / "1" / "model.pt"
    content = model.read_bytes() + b"\0"
    model.write_bytes(content)
    triton = LocalTriton(home=ROOT / ".triton", model_repository=tmp_path / "models")
    with pytest.raises(StartFailed, match=rf"model\.pt .*{hashlib.sha256(content).hexdigest()}.*model_card\.json"):
        triton.start()
    assert not triton.alive()
