"""The committed network served by a real Triton."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
import tritonclient.grpc as triton_grpc
from skimage import data

from service.inference.model_spec import ModelSpec
from service.triton.server import LocalTriton
from service.vision.alignment import crop_faces
from service.vision.face_pipeline import FacePipeline

REPOSITORY_ROOT = Path(__file__).parents[3]
VERSION = REPOSITORY_ROOT / "model_repository" / "tandem" / "1"
TOLERANCE = 1e-5

# TorchScript is deprecated, but it is the format that both of Triton's PyTorch backends load.
pytestmark = pytest.mark.filterwarnings(r"ignore:`torch\.jit\.:DeprecationWarning")


@pytest.fixture
def client(local_triton: LocalTriton) -> Iterator[triton_grpc.InferenceServerClient]:
    client = triton_grpc.InferenceServerClient(local_triton.grpc_url)
    yield client
    client.close()


@pytest.fixture(scope="module")
def network() -> torch.jit.ScriptModule:
    return torch.jit.load(VERSION / "model.pt")


@pytest.fixture
def spec(client: triton_grpc.InferenceServerClient) -> ModelSpec:
    return ModelSpec.from_config(client.get_model_config("tandem").config, "1")


def infer(client: triton_grpc.InferenceServerClient, crops: np.ndarray) -> np.ndarray:
    tensor = triton_grpc.InferInput("face", list(crops.shape), "UINT8")
    tensor.set_data_from_numpy(crops)
    return client.infer("tandem", [tensor]).as_numpy("probabilities__0")


def in_process(network: torch.jit.ScriptModule, crops: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return network(torch.from_numpy(crops)).numpy()


def random_crops(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 1, 48, 48)).astype(np.uint8)


@pytest.mark.parametrize("count", [1, 3, 17, 128])
def test_probabilities_match_torch_in_process(
    client: triton_grpc.InferenceServerClient, network: torch.jit.ScriptModule, count: int
) -> None:
    crops = random_crops(count)
    answers = infer(client, crops)
    np.testing.assert_allclose(answers, in_process(network, crops), atol=TOLERANCE)
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-5)


def test_concurrent_requests_share_executions_and_get_their_own_results(
    local_triton: LocalTriton, client: triton_grpc.InferenceServerClient
) -> None:
    def counts() -> tuple[int, int]:
        statistics = client.get_inference_statistics("tandem").model_stats[0]
        return statistics.inference_count, statistics.execution_count

    crops = random_crops(32)
    crops = crops // np.arange(1, 33).reshape(-1, 1, 1, 1).astype(
        np.uint8
    )  # from bright to black, so that results differ
    expected = np.concatenate([infer(client, crop[None]) for crop in crops])
    assert np.abs(expected[:-1] - expected[1:]).max(axis=1).min() > 0.002, "a mix-up of neighbors would be noticed"
    before = counts()

    def ask_for(index: int) -> list[np.ndarray]:
        with triton_grpc.InferenceServerClient(local_triton.grpc_url) as own:
            return [infer(own, crops[index : index + 1]) for _ in range(10)]

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(ask_for, range(32)))
    for row, own in zip(expected, answers, strict=True):
        for answer in own:
            np.testing.assert_allclose(answer[0], row, atol=1e-3)
    after = counts()
    inferences, executions = after[0] - before[0], after[1] - before[1]
    assert inferences == 320
    assert executions < inferences / 2


def test_a_smiling_astronaut_shows_happiness(client: triton_grpc.InferenceServerClient, spec: ModelSpec) -> None:
    photo = data.astronaut()
    faces = FacePipeline().find_faces(photo)
    crops = crop_faces(photo, faces, template=spec.alignment_template, size=spec.crop_size)
    (probabilities,) = infer(client, crops)
    assert spec.labels[int(probabilities.argmax())] == "happiness"
    assert probabilities.max() > 0.6


def test_the_card_describes_the_committed_file(spec: ModelSpec) -> None:
    card = json.loads((VERSION / "model_card.json").read_text())
    assert card["export"]["sha256"] == sha256((VERSION / "model.pt").read_bytes()).hexdigest()
    assert spec.provenance["sha256"] == card["export"]["sha256"]
    assert spec.provenance["commit"] == list(card["stages"].values())[-1]["provenance"]["commit"]
    assert card["valid"]["reporting"]["majority"]["accuracy"] >= 0.86
