import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import photo_steps
import pytest

from service.budget import Budget
from service.errors import Overloaded
from service.observability.metrics import Metrics
from service.workers import queue as line_module
from service.workers.pool import WorkerPool
from service.workers.queue import WorkQueue


class Clock:
    """Stands for the module's ``time``, so that a photo takes as long as the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(line_module, "time", SimpleNamespace(monotonic=lambda: self.now))

    def take(self, line: WorkQueue, seconds: float) -> None:
        """One photo that is let in, worked on and answered."""
        line.check_room()
        with line.photo():
            self.now += seconds


@pytest.fixture(autouse=True)
def importable_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(photo_steps.__file__).parent))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@asynccontextmanager
async def line_of_one() -> AsyncIterator[WorkQueue]:
    """A line before one process that runs, for one photo to wait in."""
    processes = processes_of(1)
    await processes.start()
    line = WorkQueue(processes, max_waiting=1, metrics=Metrics())
    try:
        yield line
    finally:
        await line.finish()
        await processes.close()


def processes_of(count: int) -> WorkerPool:
    return WorkerPool(count, memory=Budget(1, what="memory", setting="TANDEM_MAX_DECODING_BYTES"), patience_s=60)


def test_a_full_line_is_refused_and_a_place_comes_free(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with line_of_one() as line:
            begun, go = tmp_path / "begun", tmp_path / "go"
            first = asyncio.create_task(
                line.run(partial(photo_steps.hold, begun=begun, go=go), b"", photo_steps.fields_of)
            )
            second = asyncio.create_task(
                line.run(partial(photo_steps.answer, fields="second"), b"", photo_steps.fields_of)
            )
            await asyncio.sleep(0)
            with pytest.raises(Overloaded, match=r"1 photos are worked on and 1 wait \(TANDEM_MAX_WAITING\)"):
                await line.run(partial(photo_steps.answer, fields="third"), b"", photo_steps.fields_of)
            go.touch()
            await first
            assert await second == "second"
            assert (
                await line.run(partial(photo_steps.answer, fields="fourth"), b"", photo_steps.fields_of)
                == "fourth"
            )

    asyncio.run(scenario())


def test_a_caller_who_gives_up_leaves_the_line_but_not_a_running_process(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with line_of_one() as line:
            begun, go, never = tmp_path / "begun", tmp_path / "go", tmp_path / "never"
            running = asyncio.create_task(
                line.run(partial(photo_steps.hold, begun=begun, go=go), b"", photo_steps.fields_of)
            )
            waiting = asyncio.create_task(
                line.run(partial(photo_steps.hold, begun=never, go=go), b"", photo_steps.fields_of)
            )
            await photo_steps.exists(begun)
            for task in (running, waiting):
                task.cancel()
            await asyncio.gather(running, waiting, return_exceptions=True)
            next_one = asyncio.create_task(
                line.run(partial(photo_steps.answer, fields="next"), b"", photo_steps.fields_of)
            )
            await asyncio.sleep(0)
            with pytest.raises(Overloaded):  # the running step holds its process still
                line.check_room()
            go.touch()
            assert await next_one == "next"
            assert not never.exists()

    asyncio.run(scenario())


def test_nothing_is_refused_for_its_time_while_no_time_is_known(clock: Clock) -> None:
    line = WorkQueue(processes_of(1), max_waiting=9, metrics=Metrics())
    with ExitStack() as unanswered:
        for _ in range(5):
            line.check_room(clock.now + 0.001)
            unanswered.enter_context(line.photo())
    assert line.expected_s() == 0


def test_what_would_take_too_long_is_refused_until_photos_take_less_again(clock: Clock) -> None:
    line = WorkQueue(processes_of(2), max_waiting=99, metrics=Metrics())
    clock.take(line, 3)
    assert line.expected_s() == pytest.approx(3)
    with line.photo(), line.photo():
        with pytest.raises(Overloaded) as refused:
            line.check_room(clock.now + 1)
        assert refused.value.detail == (
            "with 2 photos before it, a photo is expected to take 4.5 s; it has 1 s (TANDEM_REQUEST_TIMEOUT_S)"
        )
    # One for each process is let in whatever is expected; these two took no time, and they are not enough to know.
    assert line.expected_s() == pytest.approx(3 * 0.9**2)
    with line.photo(), line.photo(), pytest.raises(Overloaded):
        line.check_room(clock.now + 1)
    while line.expected_s() > 0.6:
        clock.take(line, 0.1)
    with line.photo(), line.photo():
        line.check_room(clock.now + 1)
        with pytest.raises(Overloaded, match=r"it has 0\.5 s"):  # after an upload that took the rest
            line.check_room(clock.now + 0.5)


def test_the_time_of_a_photo_is_known_whatever_the_line_before_it(clock: Clock) -> None:
    line = WorkQueue(processes_of(1), max_waiting=99, metrics=Metrics())
    photos = [line.photo() for _ in range(30)]
    for photo in photos:
        photo.__enter__()
    for photo in photos:  # one after another, 0.1 s each
        clock.now += 0.1
        photo.__exit__(None, None, None)
    assert line.expected_s() == pytest.approx(0.1)
    with ExitStack() as unanswered:
        for _ in range(10):
            line.check_room(clock.now + 1.05)
            unanswered.enter_context(line.photo())
        with pytest.raises(Overloaded, match=r"with 10 photos before it, a photo is expected to take 1\.1 s"):
            line.check_room(clock.now + 1.05)


def test_a_photo_that_fails_is_no_longer_before_the_others(clock: Clock) -> None:
    line = WorkQueue(processes_of(1), max_waiting=9, metrics=Metrics())
    clock.take(line, 0.75)

    def fail() -> None:
        with line.photo():
            clock.now += 0.75
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert line.expected_s() == pytest.approx(0.75)
    line.check_room(clock.now + 1)
