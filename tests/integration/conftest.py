"""Fixtures with a real Triton, the same that `tandem serve` starts."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from toy import write_toy_repository
from toy_model import write_repository

from service.triton import install
from service.triton.server import LocalTriton

REPOSITORY_ROOT = Path(__file__).parents[2]

# A shell script starts background processes with SIGINT ignored, and nohup ignores SIGHUP; all child processes of
# the tests would inherit both.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def triton_home() -> Path:
    """The folder of the local Triton, which is installed if necessary."""
    home = REPOSITORY_ROOT / ".triton"
    install.install(home)
    return home


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run asynchronous tests on asyncio, like the service; fixtures of a whole module too."""
    return "asyncio"


@pytest.fixture(scope="session")
def toy_triton(triton_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTriton]:
    """A running Triton with a small network, for tests of the gateway."""
    repository = write_repository(tmp_path_factory.mktemp("toy"))
    with LocalTriton(home=triton_home, model_repository=repository) as triton:
        yield triton


@pytest.fixture
def toy_repository(tmp_path: Path) -> Path:
    """A model repository with the real configuration and a small untrained network."""
    repository = tmp_path / "model_repository"
    write_toy_repository(repository)
    return repository


@pytest.fixture(scope="session")
def local_triton(triton_home: Path) -> Iterator[LocalTriton]:
    """A running Triton with the committed model."""
    with LocalTriton(home=triton_home, model_repository=REPOSITORY_ROOT / "model_repository") as triton:
        yield triton


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Run torch on one thread: small batches are slower on several, especially on a busy machine."""
    previous = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(previous)
