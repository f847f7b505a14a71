import asyncio
import threading
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from service import photo_threads
from service.errors import Overloaded
from service.photo_threads import PhotoThreads
from service.telemetry import Telemetry


class Clock:
    """Stands for the module's ``time``, so that a photo takes as long as the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(photo_threads, "time", SimpleNamespace(monotonic=lambda: self.now))

    def take(self, threads: PhotoThreads, seconds: float) -> None:
        """One photo that is let in, worked on and answered."""
        threads.check_room()
        with threads.photo():
            self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_full_line_is_refused_and_a_place_comes_free() -> None:
    async def scenario() -> None:
        threads = PhotoThreads(workers=1, max_waiting=1, telemetry=Telemetry())
        gate = threading.Event()
        first = asyncio.create_task(threads.run(gate.wait))
        second = asyncio.create_task(threads.run(lambda: "second"))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match=r"1 photos are worked on and 1 wait \(TANDEM_MAX_WAITING\)"):
            await threads.run(lambda: "third")
        gate.set()
        assert await first
        assert await second == "second"
        assert await threads.run(lambda: "fourth") == "fourth"
        await threads.close()

    asyncio.run(scenario())


def test_a_caller_who_gives_up_leaves_the_line_but_not_a_running_thread() -> None:
    async def scenario() -> None:
        threads = PhotoThreads(workers=1, max_waiting=1, telemetry=Telemetry())
        gate, started = threading.Event(), threading.Event()
        ran: list[str] = []

        def hold() -> None:
            started.set()
            gate.wait()

        running = asyncio.create_task(threads.run(hold))
        waiting = asyncio.create_task(threads.run(lambda: ran.append("waiting")))
        await asyncio.to_thread(started.wait)
        for task in (running, waiting):
            task.cancel()
        await asyncio.gather(running, waiting, return_exceptions=True)
        await asyncio.sleep(0)
        next_one = asyncio.create_task(threads.run(lambda: ran.append("next")))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):  # the running step holds its thread still
            threads.check_room()
        gate.set()
        await next_one
        assert ran == ["next"]
        await threads.close()

    asyncio.run(scenario())


def test_nothing_is_refused_for_its_time_while_no_time_is_known(clock: Clock) -> None:
    threads = PhotoThreads(workers=1, max_waiting=9, telemetry=Telemetry())
    with ExitStack() as unanswered:
        for _ in range(5):
            threads.check_room(0.001)
            unanswered.enter_context(threads.photo())
    assert threads.expected_s() == 0


def test_what_would_take_too_long_is_refused_until_photos_take_less_again(clock: Clock) -> None:
    threads = PhotoThreads(workers=2, max_waiting=99, telemetry=Telemetry())
    clock.take(threads, 3)
    assert threads.expected_s() == pytest.approx(3)
    with threads.photo(), threads.photo():
        with pytest.raises(Overloaded) as refused:
            threads.check_room(1)
        assert refused.value.detail == (
            "with 2 photos before it, a photo is expected to take 4.5 s; it has 1 s (TANDEM_REQUEST_TIMEOUT_S)"
        )
    # One for each thread is let in whatever is expected; these two took no time, and they are not enough to know.
    assert threads.expected_s() == pytest.approx(3 * 0.9**2)
    with threads.photo(), threads.photo(), pytest.raises(Overloaded):
        threads.check_room(1)
    while threads.expected_s() > 0.6:
        clock.take(threads, 0.1)
    with threads.photo(), threads.photo():
        threads.check_room(1)
        with pytest.raises(Overloaded, match=r"it has 0\.5 s"):  # after an upload that took the rest
            threads.check_room(0.5)


def test_the_time_of_a_photo_is_known_whatever_the_line_before_it(clock: Clock) -> None:
    threads = PhotoThreads(workers=1, max_waiting=99, telemetry=Telemetry())
    photos = [threads.photo() for _ in range(30)]
    for photo in photos:
        photo.__enter__()
    for photo in photos:  # one after another, 0.1 s each
        clock.now += 0.1
        photo.__exit__(None, None, None)
    assert threads.expected_s() == pytest.approx(0.1)
    with ExitStack() as unanswered:
        for _ in range(10):
            threads.check_room(1.05)
            unanswered.enter_context(threads.photo())
        with pytest.raises(Overloaded, match=r"with 10 photos before it, a photo is expected to take 1\.1 s"):
            threads.check_room(1.05)


def test_a_photo_that_fails_is_no_longer_before_the_others(clock: Clock) -> None:
    threads = PhotoThreads(workers=1, max_waiting=9, telemetry=Telemetry())
    clock.take(threads, 0.75)

    def fail() -> None:
        with threads.photo():
            clock.now += 0.75
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert threads.expected_s() == pytest.approx(0.75)
    threads.check_room(1)
