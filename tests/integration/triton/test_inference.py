"""Results, errors and batching of the local Triton."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import tritonclient.grpc as triton_grpc
from toy import ToyNetwork, save_toy, write_toy_repository
from tritonclient.utils import InferenceServerException
from waiting import wait_until

from service.errors import ContractUnreadable, TandemError
from service.inference.client import TritonClient
from service.triton.server import LocalTriton

TOLERANCE = 1e-5


class Served:
    """A toy network in this process and in a running Triton, and a client."""

    def __init__(self, network: ToyNetwork, triton: LocalTriton, repository: Path) -> None:
        self.network = network
        self.triton = triton
        self.repository = repository
        self.client = triton_grpc.InferenceServerClient(triton.grpc_url)

    def infer(self, faces: np.ndarray, dtype: str = "UINT8", version: str = "1") -> np.ndarray:
        face = triton_grpc.InferInput("face", faces.shape, dtype)
        face.set_data_from_numpy(faces)
        result = self.client.infer("tandem", [face], model_version=version, client_timeout=30.0)
        return result.as_numpy("probabilities__0")

    def expected(self, faces: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return self.network(torch.from_numpy(faces)).numpy()


def random_faces(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (count, 1, 48, 48), dtype=np.uint8)


@pytest.fixture(scope="module", params=["not padded", "padded"])
def toy(
    request: pytest.FixtureRequest, triton_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """A Triton for each way to run batches; padding, meant for GPUs, is enabled on the CPU here."""
    repository = tmp_path_factory.mktemp("toy")
    padded = 'parameters { key: "PAD_BATCHES" value { string_value: "true" } }'
    network = write_toy_repository(repository, padded if request.param == "padded" else "")
    with LocalTriton(home=triton_home, model_repository=repository) as triton:
        served = Served(network, triton, repository)
        yield served
        served.client.close()


async def failure_of(client: TritonClient) -> TandemError | None:
    try:
        await client.ready(max_age_s=0)
    except TandemError as error:
        return error
    return None


@pytest.mark.anyio
async def test_labels_that_are_changed_in_place_are_noticed(triton_home: Path, toy_repository: Path) -> None:
    config = toy_repository / "tandem" / "config.pbtxt"
    text = config.read_text()
    with LocalTriton(home=triton_home, model_repository=toy_repository) as triton:
        client = TritonClient(triton.grpc_url, model_name="tandem")
        first, second, *_ = (await client.ready()).labels
        async with asyncio.timeout(60):
            config.write_text(text.replace(f"{first},{second}", f"{second},{first}"))
            while (await client.ready(max_age_s=0)).labels[:2] != (second, first):
                await asyncio.sleep(0.2)
            config.write_text(text.replace(f"{first},{second}", f"{first},{first}"))
            failure = None
            while not isinstance(failure, ContractUnreadable):
                await asyncio.sleep(0.2)
                failure = await failure_of(client)
            with pytest.raises(ContractUnreadable, match="repeated names"):
                await client.model_spec()
        await client.close()


@pytest.mark.parametrize("count", [1, 3, 17, 128])
def test_results_match_torch(toy: Served, count: int) -> None:
    faces = random_faces(count)

    np.testing.assert_allclose(toy.infer(faces), toy.expected(faces), atol=TOLERANCE)


def test_concurrent_requests_share_executions_and_get_their_own_results(toy: Served) -> None:
    callers, each = 16, 8
    before = toy.client.get_inference_statistics("tandem", "1").model_stats[0]
    together = threading.Barrier(callers)

    def call(caller: int) -> None:
        together.wait(60)
        for turn in range(each):
            faces = random_faces(1 + caller % 3, seed=1 + caller * each + turn)
            np.testing.assert_allclose(toy.infer(faces), toy.expected(faces), atol=TOLERANCE)

    with ThreadPoolExecutor(callers) as threads:
        list(threads.map(call, range(callers)))

    after = toy.client.get_inference_statistics("tandem", "1").model_stats[0]
    inferences = after.inference_count - before.inference_count
    executions = after.execution_count - before.execution_count
    assert inferences == sum(1 + caller % 3 for caller in range(callers)) * each
    assert executions < callers * each


def test_an_error_in_forward_fails_its_requests_but_not_the_server(toy: Served) -> None:
    white = np.full((1, 1, 48, 48), 255, dtype=np.uint8)
    together = threading.Barrier(8)

    def call(_caller: int) -> str:
        together.wait(60)
        with pytest.raises(InferenceServerException, match="a white crop") as caught:
            toy.infer(white)
        return str(caught.value.status())

    with ThreadPoolExecutor(8) as threads:
        statuses = list(threads.map(call, range(8)))

    assert statuses == ["StatusCode.INTERNAL"] * 8
    faces = random_faces(5)
    np.testing.assert_allclose(toy.infer(faces), toy.expected(faces), atol=TOLERANCE)


@pytest.mark.parametrize(
    ("faces", "dtype"),
    [
        (np.zeros((1, 1, 48, 48), np.float32), "FP32"),
        (np.zeros((1, 1, 47, 48), np.uint8), "UINT8"),
        (np.zeros((129, 1, 48, 48), np.uint8), "UINT8"),
    ],
    ids=["type", "shape", "batch too large"],
)
def test_invalid_inputs_are_rejected(toy: Served, faces: np.ndarray, dtype: str) -> None:
    with pytest.raises(InferenceServerException) as caught:
        toy.infer(faces, dtype)

    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_a_new_version_goes_live_without_a_restart(toy: Served) -> None:
    """The last test of its module, because by default Triton serves only the newest version."""
    new = save_toy(toy.repository.parent / f"{toy.repository.name}-2" / "model.pt", seed=2)
    (toy.repository.parent / f"{toy.repository.name}-2").rename(toy.repository / "tandem" / "2")

    wait_until(lambda: toy.client.is_model_ready("tandem", "2"), "version 2 is ready", timeout_s=60)

    faces = random_faces(3)
    with torch.inference_mode():
        expected = new(torch.from_numpy(faces)).numpy()
    np.testing.assert_allclose(toy.infer(faces, version=""), expected, atol=TOLERANCE)
    assert toy.triton.alive()
