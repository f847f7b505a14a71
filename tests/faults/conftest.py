"""Fixtures: a service to inject faults into, and a table of the effects."""

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from fault_table import FaultRow, render
from running_service import Service, service
from toy_model import write_repository

from service.api_keys import NewKey, create_key
from service.triton import install

ROOT = Path(__file__).parents[2]

ROWS: list[FaultRow] = []

LOG = pytest.StashKey[Path]()
LOG_TAIL = 20_000


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fault-table", help="file in which to replace the table of faults, such as docs/reliability.md"
    )


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    path = session.config.getoption("--fault-table", default=None)
    if path and exitstatus == pytest.ExitCode.OK:
        Path(path).write_text(render(Path(path).read_text(), ROWS))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the service's log if a test failed."""
    report = yield
    log = item.config.stash.get(LOG, None)
    if report.failed and log:
        report.sections.append(("the service's log", log.read_text(errors="replace")[-LOG_TAIL:]))
    return report


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Iterator[FaultRow]:
    """A row of the table, which is written only if all tests pass."""
    row = FaultRow(test=f"{request.node.path.name}::{request.node.name}")
    yield row
    ROWS.append(row)


@pytest.fixture(scope="session")
def triton_home() -> Path:
    home = ROOT / ".triton"
    install.install(home)
    return home


@pytest.fixture(scope="session")
def keys() -> dict[str, NewKey]:
    return {name: create_key(name) for name in ("tests", "greedy", "modest")}


@pytest.fixture(scope="session")
def tandem(
    triton_home: Path,
    keys: dict[str, NewKey],
    tmp_path_factory: pytest.TempPathFactory,
    pytestconfig: pytest.Config,
) -> Iterator[Service]:
    """`tandem serve` with its own Triton, API keys, short timeouts and a short queue."""
    repository = write_repository(tmp_path_factory.mktemp("toy"))
    lines = ",".join(f'"{key.line}"' for key in keys.values())
    path = pytestconfig.stash[LOG] = tmp_path_factory.mktemp("log") / "tandem.log"
    with (
        path.open("w") as log,
        service(
            key=keys["tests"].secret,
            log=log,
            api_keys=f"[{lines}]",
            triton_home=triton_home,
            model_repository=repository,
            request_timeout_s=8,
            upload_timeout_s=2,
            workers=2,
            max_waiting=6,
        ) as running,
    ):
        yield running
