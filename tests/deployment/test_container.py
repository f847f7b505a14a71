"""The Triton container's entry point with the wheel's real server."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from toy_model import write_repository
from tritonclient.utils import InferenceServerException
from waiting import wait_until

from service.triton import container, install
from service.triton.ports import free_ports
from service.triton.server import environment

ROOT = Path(__file__).parents[2]


class Running:
    """A server started like in the container, but on free loopback ports."""

    def __init__(self, process: "subprocess.Popen[bytes]", http: int, grpc: int) -> None:
        self.process = process
        self.http = http
        self.client = triton_grpc.InferenceServerClient(f"127.0.0.1:{grpc}")

    def server(self) -> int:
        (server,) = children(self.process.pid)
        return server


def children(pid: int) -> list[int]:
    # Linux lists a process's children by the thread that started them.
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    return sorted({int(each) for thread in threads for each in thread.read_text().split()})


def shared_memory(pid: int) -> set[Path]:
    mapped = {line.split()[-1] for line in Path(f"/proc/{pid}/maps").read_text().splitlines()}
    return {Path(each) for each in mapped if each.startswith(f"{container.SHARED_MEMORY}/")}


@pytest.fixture
def triton(tmp_path: Path) -> Iterator[Running]:
    with running(write_repository(tmp_path)) as started:
        yield started


@contextmanager
def running(models: Path) -> Iterator[Running]:
    installation = install.install(ROOT / ".triton")
    install.refresh_backend(installation)
    present = environment(installation)
    http, grpc, metrics = free_ports(3)
    process = subprocess.Popen(
        [
            *(sys.executable, "-I", container.__file__, "serve"),
            f"--model-repository={models}",
            f"--backend-directory={installation / install.BACKENDS}",
            *("--grpc-address=127.0.0.1", "--metrics-address=127.0.0.1", "--allow-gpu-metrics=false"),
            *(f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}"),
        ],
        env={**present, "PATH": f"{(installation / install.SERVER).parent}:{present['PATH']}"},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    started = Running(process, http, grpc)
    try:
        until(lambda: container.probe("tandem", port=http))
        yield started
    finally:
        started.client.close()
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # without a container, the server outlives its parent
        process.wait()


def until(probe: Callable[[], None], limit_s: float = 120) -> None:
    """Call ``probe`` until it succeeds."""
    deadline = time.monotonic() + limit_s
    while True:
        try:
            probe()
            return
        except container.Unhealthy:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def test_it_serves_and_cannot_be_controlled_remotely(triton: Running) -> None:
    assert triton.client.get_model_metadata("tandem").versions == ["1"]
    assert triton.client.get_model_config("tandem").config.max_batch_size == 128
    for forbidden in (
        triton.client.get_model_repository_index,
        triton.client.get_system_shared_memory_status,
        triton.client.get_trace_settings,
        triton.client.get_log_settings,
        triton.client.get_inference_statistics,
        lambda: triton.client.load_model("tandem"),
        lambda: triton.client.unload_model("tandem"),
    ):
        with pytest.raises(InferenceServerException, match="This protocol is restricted"):
            forbidden()

    with pytest.raises(container.Unhealthy, match="other is not loaded"):
        container.probe("other", port=triton.http)

    triton.process.terminate()
    assert triton.process.wait(30) == 0, "SIGTERM must reach the server itself"


def test_it_ends_when_its_model_has_died_but_not_when_it_is_removed(triton: Running, tmp_path: Path) -> None:
    (tmp_path / "models" / "tandem").rename(tmp_path / "removed")
    wait_until(lambda: not triton.client.is_model_ready("tandem"), "the model is unloaded")
    with pytest.raises(container.Unhealthy, match=r"not loaded|not ready"):
        container.probe("tandem", port=triton.http)
    assert not container.check("tandem", port=triton.http, timeout_s=5)
    container.live(port=triton.http)

    (tmp_path / "removed").rename(tmp_path / "models" / "tandem")
    until(lambda: container.probe("tandem", port=triton.http))
    (stub,) = children(triton.server())
    os.kill(stub, signal.SIGKILL)
    assert triton.client.is_server_ready()
    with pytest.raises(container.Unhealthy):
        container.probe("tandem", port=triton.http)
    regions = shared_memory(triton.server())
    assert triton.process.wait(60) == 1, "the restart policy acts only when the process has ended"
    assert regions
    assert not [each for each in regions if each.exists()]


def test_probes_stay_green_while_requests_queue(tmp_path: Path) -> None:
    with running(write_repository(tmp_path, max_batch_size=1, work=12)) as triton:
        crop = triton_grpc.InferInput("face", [1, 1, 48, 48], "UINT8")
        crop.set_data_from_numpy(np.zeros((1, 1, 48, 48), np.uint8))
        answered: list[object] = []
        calls = [
            triton.client.async_infer("tandem", [crop], lambda result, error: answered.append(error))
            for _ in range(600)
        ]
        wait_until(lambda: len(answered) > 0, "the first request is answered")
        # A request takes much less than this on a busy machine, and all of them more on a fast one.
        container.probe("tandem", port=triton.http, timeout_s=2)
        container.live(port=triton.http)
        assert len(answered) < len(calls), "the queue was too short for this test"
        assert triton.process.poll() is None
        for each in calls:
            each.cancel()
