"""How the client handles a real Triton's answers, refusals and failures."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from photos import astronaut, encoded
from toy_model import write_repository, write_version
from waiting import wait_until

from service.api.app import create_app
from service.api.dependencies import AppState
from service.errors import (
    DeadlineExceeded,
    ModelChanged,
    Overloaded,
    TandemError,
    TritonUnavailable,
)
from service.inference.circuit_breaker import MAX_FAILURES, MIN_TIMEOUT_S
from service.inference.client import PROBE_MAX_AGE_S, TritonClient
from service.inference.model_spec import ModelSpec
from service.inference.request import InferenceRequest
from service.settings import Settings
from service.triton.server import LocalTriton
from service.workers.tasks import DetectionOptions

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def connected(triton: LocalTriton, **options: str) -> AsyncIterator[TritonClient]:
    client = TritonClient(triton.grpc_url, model_name=options.pop("model_name", "tandem"), **options)
    try:
        yield client
    finally:
        await client.close()


def crops(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, (count, 1, 48, 48), np.uint8)


def request(crops: np.ndarray, spec: ModelSpec, timeout_s: float = 30) -> InferenceRequest:
    return InferenceRequest(crops, spec, time.monotonic() + timeout_s)


async def test_each_row_belongs_to_its_crop(toy_triton: LocalTriton) -> None:
    async with connected(toy_triton) as client:
        spec = await client.model_spec()
        together = await client.infer(request(crops(5), spec))
        alone = [await client.infer(request(crop[None], spec)) for crop in crops(5)]
    assert together.shape == (5, 8)
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-6)
    np.testing.assert_allclose(together.sum(axis=1), 1, atol=1e-5)
    assert np.ptp(together, axis=0).max() > 0.01


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((0, 1, 48, 48), np.uint8),
        np.zeros((1, 1, 48, 47), np.uint8),
        np.zeros((1, 3, 48, 48), np.uint8),
        np.zeros((1, 48, 48), np.uint8),
        np.zeros((1, 1, 48, 48), np.float32),
    ],
)
async def test_crops_that_do_not_fit_the_spec_are_not_sent(toy_triton: LocalTriton, wrong: np.ndarray) -> None:
    async with connected(toy_triton) as client:
        with pytest.raises(ValueError, match="uint8"):
            await client.infer(request(wrong, await client.model_spec()))


async def test_a_failing_model_is_unavailable(toy_triton: LocalTriton) -> None:
    async with connected(toy_triton) as client:
        spec = await client.model_spec()
        with pytest.raises(TritonUnavailable, match="a white crop"):
            await client.infer(request(np.full((1, 1, 48, 48), 255, np.uint8), spec))
        assert len(await client.infer(request(crops(1), spec))) == 1


@pytest.mark.parametrize(("name", "version"), [("other", ""), ("tandem", "9")])
async def test_a_missing_model_or_version_is_unavailable(toy_triton: LocalTriton, name: str, version: str) -> None:
    async with connected(toy_triton, model_name=name, model_version=version) as client:
        with pytest.raises(TritonUnavailable, match=name):
            await client.ready()


async def test_a_full_queue_and_a_deadline_are_told_apart(triton_home: Path, tmp_path: Path) -> None:
    repository = write_repository(tmp_path, max_batch_size=1, queue=2, work=20)
    with LocalTriton(home=triton_home, model_repository=repository) as triton:
        async with connected(triton) as client:
            spec = await client.model_spec()
            calls = [client.infer(request(crops(1), spec, 30)) for _ in range(12)]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            refused = [each for each in outcomes if isinstance(each, Overloaded)]
            answered = [each for each in outcomes if isinstance(each, np.ndarray)]
            assert len(refused) + len(answered) == 12
            assert refused
            assert answered
            assert "maximum queue size" in refused[0].detail.lower()
            with pytest.raises(DeadlineExceeded):
                await client.infer(request(crops(1), spec, 0.005))


async def test_a_gateway_stays_ready_while_calls_queue(triton_home: Path, tmp_path: Path) -> None:
    # A call takes much less than PROBE_TIMEOUT_S on a busy machine, and all of them more on a fast one.
    repository = write_repository(tmp_path, max_batch_size=1, work=12)
    with LocalTriton(home=triton_home, model_repository=repository) as triton:
        async with connected(triton) as client:
            spec = await client.model_spec()
            calls = [asyncio.create_task(client.infer(request(crops(1), spec, 200))) for _ in range(600)]
            await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            await client.ready(max_age_s=0)
            assert not all(call.done() for call in calls), "the queue was too short for this test"
            # Not cancelled, because what gRPC says later of such calls would reach the next test's event loop.
            await asyncio.to_thread(triton.stop, force=True)
            await asyncio.gather(*calls, return_exceptions=True)


async def test_readiness_is_cached_for_a_second(triton_home: Path, tmp_path: Path) -> None:
    triton = LocalTriton(home=triton_home, model_repository=write_repository(tmp_path))
    with triton:
        async with connected(triton) as client:
            await client.ready()
            proved_at = time.monotonic()
            os.kill(triton.pid, signal.SIGKILL)
            assert triton.wait(60) is not None
            if time.monotonic() - proved_at < PROBE_MAX_AGE_S / 2:
                await client.ready()
            error = await until_not_ready(client)
            assert isinstance(error, TritonUnavailable)


async def test_a_dead_stub_makes_it_not_ready_although_triton_says_otherwise(
    triton_home: Path, tmp_path: Path
) -> None:
    with LocalTriton(home=triton_home, model_repository=write_repository(tmp_path)) as triton:
        async with connected(triton) as client:
            await client.ready()
            for stub in children(triton.pid):
                os.kill(stub, signal.SIGKILL)
            error = await until_not_ready(client)
            assert isinstance(error, TritonUnavailable | DeadlineExceeded)


def children(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=True)
    return [int(line) for line in found.stdout.split()]


async def until_ready(client: TritonClient) -> None:
    async with asyncio.timeout(60):
        while True:
            with suppress(TandemError):
                await client.ready(max_age_s=0)
                return
            await asyncio.sleep(0.05)


async def until_not_ready(client: TritonClient) -> TandemError:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            await client.ready()
        except TandemError as error:
            return error
        await asyncio.sleep(0.05)
    pytest.fail("it stayed ready")


async def test_follows_a_triton_to_another_address(toy_triton: LocalTriton) -> None:
    client = TritonClient("127.0.0.1:9", model_name="tandem")
    try:
        with pytest.raises(TritonUnavailable):
            await client.ready()
        await client.reconnect(toy_triton.grpc_url)
        assert (await client.ready()).version == "1"
    finally:
        await client.close()


async def test_a_new_version_goes_live_without_a_failed_photo(triton_home: Path, tmp_path: Path) -> None:
    repository = write_repository(tmp_path)
    with LocalTriton(home=triton_home, model_repository=repository) as triton:
        app = create_app(Settings(triton_url=triton.grpc_url))
        async with app.router.lifespan_context(app):
            gateway: AppState = app.state.app_state
            photo, options = encoded(astronaut()), DetectionOptions(max_faces=9, min_face_size=0, threshold=0.6)
            before = (await gateway.analyzer.analyze(photo, options, deadline=time.monotonic() + 30)).answer
            assert before.model.version == "1"
            stale = await gateway.triton.model_spec()
            write_version(tmp_path / "2", seed=1)
            (tmp_path / "2").rename(repository / "tandem" / "2")
            deadline = time.monotonic() + 30
            answer = before
            while answer.model.version == "1":
                assert time.monotonic() < deadline
                answer = (await gateway.analyzer.analyze(photo, options, deadline=time.monotonic() + 30)).answer
            assert answer.model.version == "2"
            assert answer.faces[0].emotions != before.faces[0].emotions
            assert gateway.triton.known_spec
            with pytest.raises(ModelChanged):
                await gateway.triton.infer(request(crops(1), stale))
            assert (await gateway.triton.ready()).version == "2"


async def test_a_photo_is_given_up_at_its_deadline(toy_triton: LocalTriton) -> None:
    app = create_app(Settings(triton_url=toy_triton.grpc_url))
    async with app.router.lifespan_context(app):
        gateway: AppState = app.state.app_state
        options = DetectionOptions(max_faces=1, min_face_size=0, threshold=0.6)
        with pytest.raises(DeadlineExceeded, match=r"30 s \(TANDEM_REQUEST_TIMEOUT_S\)"):
            await gateway.analyzer.analyze(encoded(astronaut()), options, deadline=time.monotonic())


def is_stopped(process: int) -> bool:
    """Return whether each thread of a process is stopped, which takes its time after a signal."""
    states = [
        file.read_text().rpartition(")")[2].split()[0] for file in Path(f"/proc/{process}/task").glob("*/stat")
    ]
    return set(states) == {"T"}


async def test_a_frozen_triton_is_left_alone_until_it_answers_again(toy_triton: LocalTriton) -> None:
    async with connected(toy_triton) as client:
        spec = await client.model_spec()
        os.kill(toy_triton.pid, signal.SIGSTOP)
        wait_until(lambda: is_stopped(toy_triton.pid), "Triton is stopped", 10)
        try:
            calls = [client.infer(request(crops(1), spec, MIN_TIMEOUT_S + 0.2)) for _ in range(MAX_FAILURES)]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(each, DeadlineExceeded) for each in outcomes), outcomes
            with pytest.raises(TritonUnavailable, match=f"{MAX_FAILURES} times"):
                await client.infer(request(crops(1), spec, 300))
        finally:
            os.kill(toy_triton.pid, signal.SIGCONT)
        await until_ready(client)
        assert len(await client.infer(request(crops(1), spec, 30))) == 1


async def test_a_call_in_flight_is_retried_at_the_new_address(
    triton_home: Path, tmp_path: Path, toy_triton: LocalTriton
) -> None:
    with LocalTriton(home=triton_home, model_repository=write_repository(tmp_path)) as triton:
        async with connected(triton) as client:
            spec = await client.model_spec()
            os.kill(triton.pid, signal.SIGSTOP)
            call = asyncio.create_task(client.infer(request(crops(1), spec, 60)))
            with pytest.raises(DeadlineExceeded):  # by now both calls have been sent
                await client.infer(request(crops(1), spec, 0.5))
            await client.reconnect(toy_triton.grpc_url)
            assert len(await call) == 1
            os.kill(triton.pid, signal.SIGCONT)
