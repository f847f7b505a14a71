"""A real Triton with a small model, and the whole service in front of it."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from toy_model import write_repository

from service.triton import install
from service.triton.server import LocalTriton

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def toy_triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTriton]:
    home = ROOT / ".triton"
    install.install(home)
    repository = write_repository(tmp_path_factory.mktemp("toy"))
    with LocalTriton(home=home, model_repository=repository) as triton:
        yield triton


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def resident_pages(pid: int) -> int:
    """Return a process's resident memory in pages, 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0


class Served:
    """A running `tandem serve` that writes files only to its own folder, and a log."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        self.log = folder.parent / f"{folder.name}.log"
        folders = {name: str(folder) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")}
        configured = {f"TANDEM_{name.upper()}": str(value) for name, value in settings.items()}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service.cli", "serve"],
                cwd=folder,
                env=inherited | folders | {"PYTHONPATH": str(ROOT), "TANDEM_PORT": "0"} | configured,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout
        url = re.search(r"http://127\.0\.0\.1:(\d+)", self.process.stdout.readline())
        assert url, self.log.read_text()
        self.url = url[0]
        self.port = int(url[1])
        self._peak, self._stopping = 0.0, threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()

    def memory_mib(self) -> float:
        """Return the peak memory of the service and its workers together, since ``reset_peak``."""
        return self._peak

    def reset_peak(self) -> None:
        """Start measuring the peak from the current memory."""
        self._peak = self._current_mib()

    def _watch(self) -> None:
        while not self._stopping.wait(0.01):
            current = self._current_mib()  # before reading the peak, which may be reset meanwhile
            self._peak = max(self._peak, current)

    def _current_mib(self) -> float:
        """Add up resident memory; shared pages count once per process."""
        pages = sum(map(resident_pages, (self.process.pid, *self.children())))
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def children(self) -> list[int]:
        """Return the PIDs of the worker processes."""
        pids: list[int] = []
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            with suppress(OSError):  # the thread has ended
                pids += map(int, (task / "children").read_text().split())
        return pids

    def stop(self) -> None:
        self._stopping.set()
        self._watcher.join()
        self.process.terminate()
        self.process.wait(60)
        assert self.process.stdout
        self.process.stdout.close()


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory, toy_triton: LocalTriton) -> Iterator[Callable[..., Served]]:
    """Start services that stop after the module's tests."""
    started: list[Served] = []

    def start(**settings: object) -> Served:
        folder = tmp_path_factory.mktemp("served")
        started.append(Served(folder, triton_url=toy_triton.grpc_url, **settings))
        return started[-1]

    yield start
    for served in started:
        served.stop()
