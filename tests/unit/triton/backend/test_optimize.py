"""The committed network in half precision. The float16 of GPUs is computed on the CPU here, which is slow."""

import io
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path

import cv2
import numpy as np
import optimize
import pytest
import torch
from skimage import data

VERSION = Path(__file__).parents[4] / "model_repository" / "tandem" / "1"
CPU = torch.device("cpu")

pytestmark = pytest.mark.filterwarnings(r"ignore:`torch\.jit\.:DeprecationWarning")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    former = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(former)


@pytest.fixture(scope="module")
def saved() -> bytes:
    """The committed model."""
    return (VERSION / "model.pt").read_bytes()


@pytest.fixture(scope="module")
def crops() -> torch.Tensor:
    """Noise, smooth noise, and a face with varying position, angle and brightness: uint8 [48, 1, 48, 48]."""
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (8, 48, 48))
    smooth = [
        cv2.resize(generator.random((6, 6)), (48, 48), interpolation=cv2.INTER_CUBIC) * 255 for _ in range(8)
    ]
    photo = cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2GRAY)
    faces = []
    for _ in range(32):
        matrix = cv2.getRotationMatrix2D((224, 115), generator.uniform(-30, 30), generator.uniform(0.35, 0.6))
        matrix[:, 2] += generator.uniform(-4, 4, 2) - (200, 91)  # to the center of the crop
        face = cv2.warpAffine(photo, matrix, (48, 48), flags=cv2.INTER_AREA)
        faces.append(face * generator.uniform(0.4, 1.3))
    batch = np.concatenate([noise, smooth, faces]).clip(0, 255).astype(np.uint8)
    return torch.from_numpy(batch)[:, None]


def loader(saved: bytes) -> Callable[[], torch.jit.ScriptModule]:
    return lambda: torch.jit.load(io.BytesIO(saved))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_hardly_changes_the_committed_network(
    saved: bytes, crops: torch.Tensor, dtype: torch.dtype
) -> None:
    with torch.inference_mode():
        expected = torch.jit.load(VERSION / "model.pt")(crops)
        answers = optimize.halve(loader(saved)(), dtype, [crops[:2]])(crops)
    assert answers.dtype == torch.float32
    torch.testing.assert_close(answers.sum(1), torch.ones(len(crops)), atol=1e-6, rtol=0)
    difference = float((answers - expected).abs().max())
    assert 0 < difference < (0.03 if dtype is torch.bfloat16 else 0.004)


def test_convolutions_laid_out_compute_the_same(saved: bytes, crops: torch.Tensor) -> None:
    """In full precision, so that any difference comes from the rewritten graph."""
    network = optimize.freeze(loader(saved)())
    with torch.inference_mode():
        expected = optimize.freeze(loader(saved)())(crops)
        optimize.lay_out_convolutions(network, [crops[:1]])
        for size in (1, 5, 48):
            torch.testing.assert_close(network(crops[:size]), expected[:size], atol=1e-5, rtol=0)
    kinds = [node.kind() for node in network.graph.nodes()]
    assert "aten::_convolution" not in kinds
    assert "mkldnn::_convolution_pointwise" in kinds


def test_half_precision_is_used_if_wanted_and_supported(saved: bytes, crops: torch.Tensor) -> None:
    messages: list[str] = []
    with torch.inference_mode():
        full, wanted = (
            optimize.prepare(loader(saved), [crops[:2]], CPU, half=half, log=messages.append)(crops)
            for half in (False, True)
        )
    same = torch.allclose(full, wanted, atol=1e-5, rtol=0)
    assert same == (optimize.half_type(CPU) is None)
    assert not messages


class Rigid(torch.nn.Module):
    """Computes in float32 regardless of the type of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(48 * 48, 8)

    def forward(self, face: torch.Tensor) -> torch.Tensor:
        return self.linear(face.flatten(1).float() / 255)


class Steep(Rigid):
    """Computes in the type of its weights, which changes its outputs considerably."""

    def forward(self, face: torch.Tensor) -> torch.Tensor:
        return 100 * self.linear((face.flatten(1).float() / 255).type_as(self.linear.bias)).float()


class Halved(Rigid):
    """Also returns the type of its weights, which is not the one in the configuration."""

    def forward(self, face: torch.Tensor) -> torch.Tensor:
        return self.linear((face.flatten(1).float() / 255).type_as(self.linear.bias))


def test_the_committed_network_can_use_half_precision(saved: bytes, crops: torch.Tensor) -> None:
    messages: list[str] = []
    optimize.prepare(loader(saved), [crops[:2]], CPU, half=True, log=messages.append)
    assert messages == []


@pytest.mark.parametrize(
    ("network", "reason"),
    [(Rigid, "cannot run in"), (Steep, "changes outputs by"), (Halved, "another data type")],
)
def test_a_network_that_cannot_use_half_precision_keeps_full_precision(
    network: type[Rigid], reason: str, crops: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimize, "half_type", lambda device: torch.bfloat16)  # this processor may not support it
    torch.manual_seed(0)
    scripted = torch.jit.script(network().eval())
    messages: list[str] = []
    with torch.inference_mode():
        served = optimize.prepare(lambda: deepcopy(scripted), [crops[:2]], CPU, half=True, log=messages.append)
        torch.testing.assert_close(served(crops), scripted(crops), atol=1e-3, rtol=0)
    assert len(messages) == 1
    assert reason in messages[0]
