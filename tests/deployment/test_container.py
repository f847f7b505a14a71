"""The Triton container's entry point with the wheel's real server."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tritonclient.grpc as triton_grpc
from toy import write_toy_repository
from tritonclient.utils import InferenceServerException

from service.triton import container, install
from service.triton.ports import free_ports
from service.triton.server import environment

ROOT = Path(__file__).parents[2]
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux keeps POSIX shared memory


class Running:
    """A server started like in the container, but on free loopback ports."""

    def __init__(self, process: "subprocess.Popen[bytes]", http: int, grpc: int) -> None:
        self.process = process
        self.http = http
        self.client = triton_grpc.InferenceServerClient(f"127.0.0.1:{grpc}")


@pytest.fixture
def triton(tmp_path: Path) -> Iterator[Running]:
    write_toy_repository(tmp_path / "models")
    installation = install.install(ROOT / ".triton")
    install.refresh_backend(installation)
    present = environment(installation)
    http, grpc, metrics = free_ports(3)
    before = set(SHARED_MEMORY.iterdir())
    process = subprocess.Popen(
        [
            *(sys.executable, "-I", container.__file__, "serve"),
            f"--model-repository={tmp_path / 'models'}",
            f"--backend-directory={installation / install.BACKENDS}",
            *("--grpc-address=127.0.0.1", "--metrics-address=127.0.0.1", "--allow-gpu-metrics=false"),
            *(f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}"),
            f"--backend-config=python,shm-region-prefix-name=tandem-container-{os.getpid()}-",
        ],
        env={**present, "PATH": f"{(installation / install.SERVER).parent}:{present['PATH']}"},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    running = Running(process, http, grpc)
    try:
        until(lambda: container.probe("tandem", port=http))
        yield running
    finally:
        running.client.close()
        process.kill()
        process.wait()
        for path in set(SHARED_MEMORY.glob(f"tandem-container-{os.getpid()}-*")) - before:
            path.unlink(missing_ok=True)


def until(probe: Callable[[], None], limit_s: float = 30) -> None:
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

    with pytest.raises(container.Unhealthy, match="404"):
        container.probe("other", port=triton.http)

    triton.process.terminate()
    assert triton.process.wait(30) == 0, "SIGTERM must reach the server itself"


def test_the_probe_detects_a_dead_model_while_triton_reports_ready(triton: Running) -> None:
    # Linux lists a process's children by the thread that started them.
    threads = Path(f"/proc/{triton.process.pid}/task").glob("*/children")
    for child in {int(each) for thread in threads for each in thread.read_text().split()}:
        os.kill(child, signal.SIGKILL)

    with pytest.raises(container.Unhealthy, match="inference"):
        container.probe("tandem", port=triton.http)
    assert triton.client.is_server_ready()
