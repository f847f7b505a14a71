"""Faults of the gateway's processes and environment: log, clock, workers, termination."""

import shutil
import signal
import subprocess
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
import pytest
import torch
from fault_table import FaultRow
from programs import missing
from running_service import (
    TIMEOUT_S,
    Callers,
    Service,
    await_end,
    connections,
    count_outcomes,
    descendants,
    head,
    kill,
    read_to_end,
    service,
    small_photo,
    status,
)
from toy_model import write_repository
from waiting import wait_until

PIPE_BYTES = 65536
"""Capacity of a pipe; further writes block."""

LOG_BYTES = 4096
"""Bytes that the verbose model logs for each batch."""

DAY_S = 86_400

ANSWERED = 'tandem_requests_total{method="POST",route="/v1/emotions"'


class VerboseModel(torch.nn.Module):
    """Writes to Triton's log in each inference."""

    def __init__(self) -> None:
        super().__init__()
        self.line = "x" * LOG_BYTES

    def forward(self, face: torch.Tensor) -> torch.Tensor:
        print(self.line)
        return torch.full((face.size(0), 8), 1 / 8)


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A library that shifts the wall clock of processes that load it, and the file with the offset in seconds."""
    if not shutil.which("cc"):
        missing("there is no C compiler to build the library that shifts a process's clock", "cc")
    folder = tmp_path_factory.mktemp("clock")
    library, seconds = folder / "clock.so", folder / "seconds"
    seconds.write_bytes(bytes(8))
    source = Path(__file__).with_name("clock.c")
    command = [
        "cc",
        "-shared",
        "-fPIC",
        "-O1",
        "-nostdlib",
        f'-DSECONDS="{seconds}"',
        "-o",
        str(library),
        str(source),
    ]
    subprocess.run(command, check=True)
    return library, seconds


@pytest.fixture(scope="module")
def verbose(
    triton_home: Path, clock: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """`tandem serve` with its log on a full disk, and a clock that can be shifted."""
    repository = write_repository(tmp_path_factory.mktemp("verbose"))
    (repository / "tandem" / "1" / "model.onnx").unlink()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.", DeprecationWarning)
        torch.jit.script(VerboseModel().eval()).save(str(repository / "tandem" / "1" / "model.pt"))
    with (
        open("/dev/full", "w") as full,
        service(
            log=full,
            log_level="debug",
            preload=clock[0],
            triton_home=triton_home,
            model_repository=repository,
            upload_timeout_s=4,
            request_timeout_s=5,  # requests in flight at the end get one second more
            workers=2,
        ) as running,
    ):
        yield running


def test_a_log_on_a_full_disk_has_no_effect(verbose: Service, row: FaultRow) -> None:
    wait_until(verbose.works, "the service works", TIMEOUT_S)
    before = verbose.resources()
    with Callers(verbose).calling(2, pause_s=0) as callers:
        wait_until(
            lambda: len(callers.outcomes) > 2 * PIPE_BYTES / LOG_BYTES,
            "enough is logged to fill the pipe twice",
            TIMEOUT_S,
        )
    callers.assert_only("200")
    row.fault, row.counts = "the disk for the logs of gateway and Triton is full", callers.counts()
    row.slowest_s, row.checked = callers.slowest(), verbose.await_released(before)


def test_a_clock_that_jumps_has_no_effect(verbose: Service, clock: tuple[Path, Path], row: FaultRow) -> None:
    wait_until(verbose.works, "the service works", TIMEOUT_S)
    before, triton = verbose.resources(), verbose.triton()
    with Callers(verbose).calling(2) as callers:
        for jump_s in (DAY_S, -DAY_S):
            with clock[1].open("r+b") as seconds:
                seconds.write(jump_s.to_bytes(8, "little", signed=True))
            wait_until(is_shifted(verbose, jump_s), "the clock has jumped")
            wait_until(answers_more(callers), "photos are answered", TIMEOUT_S)
            answer = httpx.get(f"{verbose.url}/readyz", timeout=TIMEOUT_S)
            assert answer.status_code == 200, answer.text
    callers.assert_only("200")
    assert verbose.triton() == triton, "Triton must not be restarted"
    row.fault, row.counts = "the gateway's clock jumps forward by a day, then back by two", callers.counts()
    row.slowest_s, row.checked = callers.slowest(), verbose.await_released(before)


def is_shifted(tandem: Service, by_s: int) -> Callable[[], bool]:
    """Return whether the Date header of its answers differs from our clock by ``by_s``."""

    def shifted() -> bool:
        date = httpx.get(f"{tandem.url}/livez", timeout=TIMEOUT_S).headers["Date"]
        return abs(parsedate_to_datetime(date).timestamp() - time.time() - by_s) < DAY_S / 24

    return shifted


def answers_more(callers: Callers) -> Callable[[], bool]:
    before = len(callers.outcomes)
    return lambda: len(callers.outcomes) > before + 10


@pytest.mark.parametrize(
    ("fault", "number", "lost"),
    [
        ("a worker is killed", signal.SIGKILL, 1),
        # The photo that is prefetched for it also fails, but only at its deadline.
        ("a worker is frozen (SIGSTOP)", signal.SIGSTOP, 2),
    ],
    ids=["killed", "frozen"],
)
def test_a_broken_worker_is_replaced(tandem: Service, row: FaultRow, fault: str, number: int, lost: int) -> None:
    wait_until(tandem.works, "the service works", TIMEOUT_S)
    before, victim = tandem.resources(), tandem.worker_pids()[0]
    with Callers(tandem).calling(4, pause_s=0) as callers:
        wait_until(lambda: "200" in callers.counts(), "photos are answered")
        fault_at = time.monotonic()
        kill(victim, number)
        await_end([victim])
        wait_until(lambda: len(tandem.worker_pids()) == tandem.workers, "a new worker is running", TIMEOUT_S)
        wait_until(answers_more(callers), "photos are answered", TIMEOUT_S)
    callers.assert_only("200", "500 photo-process-ended", "504 deadline-exceeded")
    counts = callers.counts()
    assert sum(counts.values()) - counts["200"] <= lost
    row.fault, row.counts, row.slowest_s = fault, counts, callers.slowest()
    row.back_s, row.checked = callers.back_after(fault_at), tandem.await_released(before)


def test_all_requests_in_flight_at_sigterm_are_answered(verbose: Service, row: FaultRow) -> None:
    wait_until(verbose.works, "the service works", TIMEOUT_S)
    group, files = descendants(verbose.process.pid), verbose.shared_memory()
    photo, answered = small_photo(), verbose.metric(ANSWERED)
    outcomes: list[str] = []
    with connections(verbose, 10) as opened:
        *complete, slow, slow_batch = opened
        for each in complete:
            each.sendall(head(verbose, len(photo), Connection="close") + photo)
        # Two uploads that never end; the batch's timeout is much longer than the time to stop.
        slow.sendall(head(verbose, len(photo)) + photo[:1000])
        zipped = {"Content-Type": "application/zip"}
        slow_batch.sendall(head(verbose, len(photo), "/v1/emotions/batch", **zipped) + photo[:1000])
        wait_until(
            lambda: verbose.metric(ANSWERED) - answered + verbose.metric("tandem_in_flight") - 1 >= len(opened),
            "all requests are in flight or answered",
            TIMEOUT_S,
        )
        ended_at = time.monotonic()
        verbose.process.terminate()
        readers = [
            threading.Thread(target=lambda each=each: outcomes.append(status(read_to_end(each))))
            for each in opened
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
    assert verbose.process.wait(TIMEOUT_S) == 0
    row.fault, row.counts = (
        "SIGTERM under load, with an incomplete photo and an incomplete batch (back after: the exit)",
        count_outcomes(outcomes),
    )
    row.back_s = time.monotonic() - ended_at
    assert count_outcomes(outcomes) == {"200": 8, "408 slow-upload": 1, "503 draining": 1}
    wait_until(lambda: not any(path.exists() for path in files), "shared memory is removed")
    await_end(group)
    row.checked = "processes, shared memory"


# The last test of all, because the service is gone afterwards.
def test_a_killed_gateway_is_cleaned_up(tandem: Service, row: FaultRow) -> None:
    wait_until(tandem.works, "the service works", TIMEOUT_S)
    group, files = descendants(tandem.process.pid), tandem.shared_memory()
    photo = small_photo()
    with connections(tandem, 3) as opened:
        for each in opened:
            each.sendall(head(tandem, len(photo)) + photo[:1000])
        kill(tandem.process.pid)
        outcomes = []
        for each in opened:
            try:
                outcomes.append(status(read_to_end(each)))
            except ConnectionResetError:
                outcomes.append("closed")
    assert count_outcomes(outcomes) == {"closed": 3}
    await_end(group)
    wait_until(lambda: not any(path.exists() for path in files), "shared memory is removed")
    row.fault, row.counts = (
        "the gateway is killed (systemd, Docker or Kubernetes restarts it)",
        {"connection closed": 3},
    )
    row.checked = "processes, shared memory"
