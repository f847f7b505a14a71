"""The committed ``model.onnx`` in ONNX Runtime, compared with TorchScript of the same weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from onnx_runtime import MAX_ROWS, OnnxRuntime

VERSION = Path(__file__).parents[4] / "model_repository" / "tandem" / "1"

pytestmark = pytest.mark.filterwarnings(r"ignore:`torch\.jit\.:DeprecationWarning")


class Capsule:
    """Passes a DLPack capsule to numpy, which takes it like Triton does."""

    def __init__(self, capsule: object) -> None:
        self._capsule = capsule

    def __dlpack__(self, **_: object) -> object:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0  # kDLCPU


@pytest.fixture(scope="module")
def runtime() -> OnnxRuntime:
    runtime = OnnxRuntime((VERSION / "model.onnx").read_bytes(), {"INTRA_OP_THREAD_COUNT": "1"})
    runtime.prepare([([1, 48, 48], "uint8")], 128)
    return runtime


def random_crops(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 1, 48, 48)).astype(np.uint8)


@pytest.mark.parametrize("parts", [[1], [1, 1], [3, 13], [MAX_ROWS], [MAX_ROWS + 1], [100, 28]])
def test_probabilities_match_torchscript_for_any_batch_size(runtime: OnnxRuntime, parts: list[int]) -> None:
    crops = random_crops(sum(parts))
    (answers,) = runtime.run([np.split(crops, np.cumsum(parts)[:-1])])
    with torch.inference_mode():
        expected = torch.jit.load(VERSION / "model.pt")(torch.from_numpy(crops)).numpy()
    np.testing.assert_allclose(answers, expected, atol=1e-5)
    assert runtime.dtype(answers) == "float32"


def test_arguments_are_the_networks_input_names(runtime: OnnxRuntime) -> None:
    assert runtime.arguments == ["face"]


@pytest.mark.parametrize("rows", [slice(0, 5), slice(2, 3), slice(5, 5)])
def test_an_exported_array_is_the_same_memory(runtime: OnnxRuntime, rows: slice) -> None:
    array = np.arange(40, dtype=np.float32).reshape(5, 8)[rows]
    taken = np.from_dlpack(Capsule(runtime.export(array)))
    np.testing.assert_array_equal(taken, array)
    assert not array.size or np.shares_memory(taken, array)
