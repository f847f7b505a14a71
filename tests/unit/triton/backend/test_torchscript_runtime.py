"""The committed network in half precision. The float16 of GPUs is computed on the CPU here, which is slow."""

import io
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from skimage import data
from torchscript_runtime import freeze, half_if_close

VERSION = Path(__file__).parents[4] / "model_repository" / "tandem" / "1"

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


def load(saved: bytes) -> torch.jit.ScriptModule:
    return torch.jit.load(io.BytesIO(saved))


def test_half_precision_hardly_changes_the_committed_network(saved: bytes, crops: torch.Tensor) -> None:
    messages: list[str] = []
    with torch.inference_mode():
        full, copy = freeze(load(saved)), load(saved)
        halved = half_if_close(full, copy, [crops[:2]], torch.float16, messages.append)
        expected, answers = full(crops), halved(crops)
    assert halved is not full
    assert messages == []
    assert answers.dtype == torch.float32
    torch.testing.assert_close(answers.sum(1), torch.ones(len(crops)), atol=1e-6, rtol=0)
    assert 0 < float((answers - expected).abs().max()) < 0.004


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
        return 2000 * self.linear((face.flatten(1).float() / 255).type_as(self.linear.bias)).float()


class Halved(Rigid):
    """Also returns the type of its weights, which is not the one in the configuration."""

    def forward(self, face: torch.Tensor) -> torch.Tensor:
        return self.linear((face.flatten(1).float() / 255).type_as(self.linear.bias))


@pytest.mark.parametrize(
    ("network", "reason"),
    [(Rigid, "cannot run in"), (Steep, "changes outputs by"), (Halved, "another data type")],
)
def test_a_network_that_does_not_bear_half_precision_keeps_full(
    network: type[Rigid], reason: str, crops: torch.Tensor
) -> None:
    torch.manual_seed(0)
    full = torch.jit.script(network().eval())
    messages: list[str] = []
    with torch.inference_mode():
        assert half_if_close(full, deepcopy(full), [crops[:2]], torch.float16, messages.append) is full
    (message,) = messages
    assert reason in message
