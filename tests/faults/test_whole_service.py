"""Faults of the gateway's own process and of what surrounds it: its log, its clock, its end."""

import os
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
from harmed import (
    TIMEOUT_S,
    Callers,
    Service,
    await_end,
    connections,
    descendants,
    everything,
    head,
    kill,
    service,
    small_photo,
    status,
    tally,
)
from measured import Measured
from toy_model import write_repository
from waiting import wait_until

PIPE_BYTES = 65536
"""What a pipe takes before its writer waits for the reader."""

LOG_BYTES = 4096
"""What the talkative model writes for each batch."""

DAY_S = 86_400

ANSWERED = 'tandem_requests_total{method="POST",route="/v1/emotions"'


class TalkativeModel(torch.nn.Module):
    """Writes to Triton's log whenever it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.line = "x" * LOG_BYTES

    def forward(self, face: torch.Tensor) -> torch.Tensor:
        print(self.line)
        return torch.full((face.size(0), 8), 1 / 8)


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A library that moves the wall clock of the processes that load it, and the file that holds the seconds."""
    if not shutil.which("cc"):
        if os.environ.get("CI"):
            pytest.fail("a C compiler is needed to move a process's clock")
        pytest.skip("no C compiler, with which a process's clock could be moved")
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
def talkative(
    triton_home: Path, clock: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """`tandem serve` whose log goes to a full disk, and whose clock can be moved."""
    repository = write_repository(tmp_path_factory.mktemp("talkative"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.", DeprecationWarning)
        torch.jit.script(TalkativeModel().eval()).save(str(repository / "tandem" / "1" / "model.pt"))
    with (
        open("/dev/full", "w") as full,
        service(
            log=full,
            log_level="debug",
            preload=clock[0],
            triton_home=triton_home,
            model_repository=repository,
            upload_timeout_s=4,
            request_timeout_s=5,  # and a second more for all that is in flight when it is stopped
            workers=2,
        ) as running,
    ):
        yield running


def test_a_log_on_a_full_disk_stops_nothing(talkative: Service, measured: Measured) -> None:
    wait_until(talkative.works, "all is well", TIMEOUT_S)
    before = talkative.holds()
    with Callers(talkative).calling(2, pause_s=0) as callers:
        wait_until(
            lambda: len(callers.outcomes) > 2 * PIPE_BYTES / LOG_BYTES, "the pipe were full twice", TIMEOUT_S
        )
    callers.assert_only("200")
    measured.fault, measured.seen = "the disk is full for logs (gateway's and Triton's)", callers.seen()
    measured.slowest_s, measured.checked = callers.slowest(), talkative.await_no_more_than(before)


def test_a_clock_that_jumps_is_not_looked_at(
    talkative: Service, clock: tuple[Path, Path], measured: Measured
) -> None:
    wait_until(talkative.works, "all is well", TIMEOUT_S)
    before, triton = talkative.holds(), talkative.triton()
    with Callers(talkative).calling(2) as callers:
        for jump_s in (DAY_S, -DAY_S):
            with clock[1].open("r+b") as seconds:
                seconds.write(jump_s.to_bytes(8, "little", signed=True))
            wait_until(is_moved(talkative, jump_s), "its clock has moved")
            wait_until(answers_more(callers), "photos are answered", TIMEOUT_S)
            answer = httpx.get(f"{talkative.url}/readyz", timeout=TIMEOUT_S)
            assert answer.status_code == 200, answer.text
    callers.assert_only("200")
    assert talkative.triton() == triton, "it was not restarted"
    measured.fault, measured.seen = "the gateway's clock jumps a day ahead, then two back", callers.seen()
    measured.slowest_s, measured.checked = callers.slowest(), talkative.await_no_more_than(before)


def is_moved(tandem: Service, by_s: int) -> Callable[[], bool]:
    """Whether its clock, as the dates of its answers say, is so far from ours."""

    def moved() -> bool:
        date = httpx.get(f"{tandem.url}/livez", timeout=TIMEOUT_S).headers["Date"]
        return abs(parsedate_to_datetime(date).timestamp() - time.time() - by_s) < DAY_S / 24

    return moved


def answers_more(callers: Callers) -> Callable[[], bool]:
    before = len(callers.outcomes)
    return lambda: len(callers.outcomes) > before + 10


@pytest.mark.parametrize(
    ("fault", "number", "lost"),
    [
        ("a photo process is killed", signal.SIGKILL, 1),
        # The photo that lies ready for it is seen to be late only when its time is over.
        ("a photo process is frozen (SIGSTOP)", signal.SIGSTOP, 2),
    ],
    ids=["killed", "frozen"],
)
def test_a_photo_process_that_does_not_work_is_replaced(
    tandem: Service, measured: Measured, fault: str, number: int, lost: int
) -> None:
    wait_until(tandem.works, "all is well", TIMEOUT_S)
    before, victim = tandem.holds(), tandem.photo_processes()[0]
    with Callers(tandem).calling(4, pause_s=0) as callers:
        wait_until(lambda: "200" in callers.seen(), "photos are answered")
        harmed_at = time.monotonic()
        kill(victim, number)
        await_end([victim])
        wait_until(lambda: len(tandem.photo_processes()) == tandem.workers, "another one works", TIMEOUT_S)
        wait_until(answers_more(callers), "photos are answered", TIMEOUT_S)
    callers.assert_only("200", "500 photo-process-ended", "504 deadline-exceeded")
    seen = callers.seen()
    assert sum(seen.values()) - seen["200"] <= lost
    measured.fault, measured.seen, measured.slowest_s = fault, seen, callers.slowest()
    measured.back_s, measured.checked = callers.back_after(harmed_at), tandem.await_no_more_than(before)


def test_all_that_is_in_flight_at_sigterm_is_answered(talkative: Service, measured: Measured) -> None:
    wait_until(talkative.works, "all is well", TIMEOUT_S)
    group, files = descendants(talkative.process.pid), talkative.shared_memory()
    photo, answered = small_photo(), talkative.metric(ANSWERED)
    outcomes: list[str] = []
    with connections(talkative, 10) as opened:
        *complete, slow, slow_batch = opened
        for each in complete:
            each.sendall(head(talkative, len(photo), Connection="close") + photo)
        # Two uploads that never end; the time of the second one would end long after the service.
        slow.sendall(head(talkative, len(photo)) + photo[:1000])
        zipped = {"Content-Type": "application/zip"}
        slow_batch.sendall(head(talkative, len(photo), "/v1/emotions/batch", **zipped) + photo[:1000])
        wait_until(
            lambda: (
                talkative.metric(ANSWERED) - answered + talkative.metric("tandem_in_flight") - 1 >= len(opened)
            ),
            "all are in flight, or answered already",
            TIMEOUT_S,
        )
        ended_at = time.monotonic()
        talkative.process.terminate()
        readers = [
            threading.Thread(target=lambda each=each: outcomes.append(status(everything(each)))) for each in opened
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
    assert talkative.process.wait(TIMEOUT_S) == 0
    measured.fault, measured.seen = (
        "SIGTERM under load, a photo and a batch not all there (back after: its end)",
        tally(outcomes),
    )
    measured.back_s = time.monotonic() - ended_at
    assert tally(outcomes) == {"200": 8, "408 slow-upload": 1, "503 draining": 1}
    wait_until(lambda: not any(path.exists() for path in files), "no shared memory is left")
    await_end(group)
    measured.checked = "processes, shared memory"


def test_a_gateway_that_is_killed_leaves_nothing(tandem: Service, measured: Measured) -> None:
    wait_until(tandem.works, "all is well", TIMEOUT_S)
    group, files = descendants(tandem.process.pid), tandem.shared_memory()
    photo = small_photo()
    with connections(tandem, 3) as opened:
        for each in opened:
            each.sendall(head(tandem, len(photo)) + photo[:1000])
        kill(tandem.process.pid)
        outcomes = []
        for each in opened:
            try:
                outcomes.append(status(everything(each)))
            except ConnectionResetError:
                outcomes.append("closed")
    assert tally(outcomes) == {"closed": 3}
    await_end(group)
    wait_until(lambda: not any(path.exists() for path in files), "no shared memory is left")
    measured.fault, measured.seen = "the gateway is killed (back: whoever supervises it)", {"connection closed": 3}
    measured.checked = "processes, shared memory"
