"""A real Triton with a small model, for what is sent through the whole service."""

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


def resident_pages(process: int) -> int:
    """0 of one that has ended."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except OSError:
        return 0


class Served:
    """A running `tandem serve` in a folder of its own: all it writes is below that, or on its standard error."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        self.log = folder.parent / f"{folder.name}.log"
        own = {name: str(folder) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")}
        mine = {name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")}
        given = {f"TANDEM_{name.upper()}": str(value) for name, value in settings.items()}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service.cli", "serve"],
                cwd=folder,
                env=mine | own | {"PYTHONPATH": str(ROOT), "TANDEM_PORT": "0"} | given,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout
        announced = re.search(r"http://127\.0\.0\.1:(\d+)", self.process.stdout.readline())
        assert announced, self.log.read_text()
        self.url = announced[0]
        self.port = int(announced[1])
        self._peak, self._ends = 0.0, threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()

    def memory_mib(self) -> float:
        """The most memory that it and its photo processes had at a time, ever or since ``forget_peak``."""
        return self._peak

    def forget_peak(self) -> None:
        """Take what they have now for the most."""
        self._peak = self._memory_mib()

    def _watch(self) -> None:
        while not self._ends.wait(0.01):
            now = self._memory_mib()  # first: the peak may be forgotten meanwhile
            self._peak = max(self._peak, now)

    def _memory_mib(self) -> float:
        """What several of them share counts for each."""
        pages = sum(map(resident_pages, (self.process.pid, *self.children())))
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def children(self) -> list[int]:
        """Its photo processes."""
        found: list[int] = []
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            with suppress(OSError):  # the thread has ended
                found += map(int, (task / "children").read_text().split())
        return found

    def end(self) -> None:
        self._ends.set()
        self._watcher.join()
        self.process.terminate()
        self.process.wait(60)
        assert self.process.stdout
        self.process.stdout.close()


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory, toy_triton: LocalTriton) -> Iterator[Callable[..., Served]]:
    """Start services; they are ended with the tests."""
    started: list[Served] = []

    def start(**settings: object) -> Served:
        folder = tmp_path_factory.mktemp("served")
        started.append(Served(folder, triton_url=toy_triton.grpc_url, **settings))
        return started[-1]

    yield start
    for served in started:
        served.end()
