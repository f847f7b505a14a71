"""Which runtime the backend chooses. Triton's module exists only in its process; a stand-in has its error."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

SOURCE = Path(__file__).parents[4] / "service" / "triton" / "backend" / "model.py"


class TritonModelException(Exception):
    pass


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    stand_in = SimpleNamespace(TritonModelException=TritonModelException)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", stand_in)
    spec = importlib.util.spec_from_file_location("backend_model", SOURCE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("wanted", "on_gpu", "files", "chosen", "because"),
    [
        ("auto", False, ["model.onnx", "model.pt"], "onnx", "on a CPU"),
        ("auto", True, ["model.onnx", "model.pt"], "torchscript", "on a GPU"),
        ("auto", True, ["model.onnx"], "onnx", "no model.pt, so it runs on the CPU"),
        ("auto", False, ["model.pt"], "torchscript", "no model.onnx"),
        ("torchscript", False, ["model.onnx", "model.pt"], "torchscript", "TANDEM_RUNTIME"),
        ("onnx", True, ["model.onnx", "model.pt"], "onnx", "TANDEM_RUNTIME"),
    ],
)
def test_the_runtime_depends_on_the_device_and_the_files(
    model: ModuleType, wanted: str, on_gpu: bool, files: list[str], chosen: str, because: str
) -> None:
    has = {"has_onnx": "model.onnx" in files, "has_torchscript": "model.pt" in files}
    name, reason = model.choose_runtime(wanted, on_gpu=on_gpu, **has)
    assert name == chosen
    assert because in reason


@pytest.mark.parametrize("wanted", ["onnx", "torchscript"])
def test_a_runtime_without_its_file_is_an_error_that_says_where_to_get_it(model: ModuleType, wanted: str) -> None:
    with pytest.raises(TritonModelException, match=r"training export|source code"):
        model.choose_runtime(wanted, on_gpu=True, has_onnx=False, has_torchscript=False)
