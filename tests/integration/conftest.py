"""A real Triton, the one that `tandem serve` starts, for everything that is tested against it."""

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

# A script's shell ignores Ctrl-C for what it starts in the background; so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def triton_home() -> Path:
    """Where the local Triton is installed; fetched the first time."""
    home = REPOSITORY_ROOT / ".triton"
    install.install(home)
    return home


@pytest.fixture
def anyio_backend() -> str:
    """Asynchronous tests run as the service does."""
    return "asyncio"


@pytest.fixture(scope="session")
def toy_triton(triton_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTriton]:
    """A running Triton that serves a small model, for tests of the gateway."""
    repository = write_repository(tmp_path_factory.mktemp("toy"))
    with LocalTriton(home=triton_home, model_repository=repository) as triton:
        yield triton


@pytest.fixture
def toy_repository(tmp_path: Path) -> Path:
    """A model repository of the real configuration and a small network, for tests that need no trained one."""
    repository = tmp_path / "model_repository"
    write_toy_repository(repository)
    return repository


@pytest.fixture(scope="session")
def local_triton(triton_home: Path) -> Iterator[LocalTriton]:
    """A running Triton that serves this repository's own model."""
    with LocalTriton(home=triton_home, model_repository=REPOSITORY_ROOT / "model_repository") as triton:
        yield triton


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For training: small batches are slower on several, and far slower where something else wants the cores."""
    former = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(former)
