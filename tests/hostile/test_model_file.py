"""A model file that differs from its model card is not loaded."""

import shutil
from pathlib import Path

import pytest

from service.triton.errors import StartFailed
from service.triton.server import LocalTriton

from .conftest import ROOT


@pytest.mark.parametrize(("file", "runtime"), [("model.pt", "torchscript"), ("model.onnx", "onnx")])
def test_a_replaced_model_is_refused(tmp_path: Path, file: str, runtime: str) -> None:
    shutil.copytree(ROOT / "model_repository", tmp_path / "models")
    model = tmp_path / "models" / "tandem" / "1" / file
    content = model.read_bytes()
    model.write_bytes(content + b"\0")
    triton = LocalTriton(home=ROOT / ".triton", model_repository=tmp_path / "models", runtime=runtime)
    with pytest.raises(StartFailed, match=rf"{file} has SHA-256 .* model_card\.json"):
        triton.start()
    assert not triton.alive()
