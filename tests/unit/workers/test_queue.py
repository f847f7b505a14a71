import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import worker_tasks

from service.budget import Budget
from service.errors import Overloaded
from service.observability.metrics import Metrics
from service.workers import queue as queue_module
from service.workers.pool import WorkerPool
from service.workers.queue import WorkQueue


class Clock:
    """Replaces the module's ``time``, so that a photo takes as long as the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(queue_module, "time", SimpleNamespace(monotonic=lambda: self.now))

    def pass_photo(self, queue: WorkQueue, seconds: float) -> None:
        """Admit a photo that takes ``seconds``."""
        with queue.admit():
            self.now += seconds


@pytest.fixture(autouse=True)
def importable_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(worker_tasks.__file__).parent))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@asynccontextmanager
async def queue_of_one() -> AsyncIterator[WorkQueue]:
    """A queue for one photo in front of one running worker."""
    pool = pool_of(1)
    await pool.start()
    queue = WorkQueue(pool, max_waiting=1, metrics=Metrics())
    try:
        yield queue
    finally:
        await queue.drain()
        await pool.close()


def pool_of(count: int) -> WorkerPool:
    return WorkerPool(
        count, memory=Budget(1, what="memory", setting="TANDEM_MAX_DECODING_BYTES"), task_timeout_s=60
    )


def test_a_full_queue_refuses_photos_until_a_place_is_free(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with queue_of_one() as queue:
            begun, go = tmp_path / "begun", tmp_path / "go"
            first = asyncio.create_task(
                queue.run(partial(worker_tasks.hold, begun=begun, go=go), b"", worker_tasks.parse_fields)
            )
            second = asyncio.create_task(
                queue.run(partial(worker_tasks.reply, fields="second"), b"", worker_tasks.parse_fields)
            )
            await asyncio.sleep(0)
            with pytest.raises(Overloaded, match=r"limit is 2 \(TANDEM_MAX_WAITING\)"):
                await queue.run(partial(worker_tasks.reply, fields="third"), b"", worker_tasks.parse_fields)
            go.touch()
            await first
            assert await second == "second"
            assert (
                await queue.run(partial(worker_tasks.reply, fields="fourth"), b"", worker_tasks.parse_fields)
                == "fourth"
            )

    asyncio.run(scenario())


def test_the_queue_is_saturated_when_a_photo_waits(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with queue_of_one() as queue:
            assert (queue.in_flight, queue.saturated()) == (0, False)
            hold = partial(worker_tasks.hold, begun=tmp_path / "begun", go=tmp_path / "go")
            photos = [asyncio.create_task(queue.run(hold, b"", worker_tasks.parse_fields))]
            await asyncio.sleep(0)
            assert (queue.in_flight, queue.saturated()) == (1, False)
            photos.append(asyncio.create_task(queue.run(hold, b"", worker_tasks.parse_fields)))
            await asyncio.sleep(0)
            assert (queue.in_flight, queue.saturated()) == (2, True)
            (tmp_path / "go").touch()
            await asyncio.gather(*photos)
            assert (queue.in_flight, queue.saturated()) == (0, False)

    asyncio.run(scenario())


def test_a_canceled_caller_leaves_the_queue_but_not_a_running_worker(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with queue_of_one() as queue:
            begun, go, never = tmp_path / "begun", tmp_path / "go", tmp_path / "never"
            running = asyncio.create_task(
                queue.run(partial(worker_tasks.hold, begun=begun, go=go), b"", worker_tasks.parse_fields)
            )
            waiting = asyncio.create_task(
                queue.run(partial(worker_tasks.hold, begun=never, go=go), b"", worker_tasks.parse_fields)
            )
            await worker_tasks.exists(begun)
            for task in (running, waiting):
                task.cancel()
            await asyncio.gather(running, waiting, return_exceptions=True)
            next_one = asyncio.create_task(
                queue.run(partial(worker_tasks.reply, fields="next"), b"", worker_tasks.parse_fields)
            )
            await asyncio.sleep(0)
            with pytest.raises(Overloaded):  # the running task still holds its worker
                queue.check()
            go.touch()
            assert await next_one == "next"
            assert not never.exists()

    asyncio.run(scenario())


def test_no_photo_is_refused_for_its_deadline_while_no_duration_is_known(clock: Clock) -> None:
    queue = WorkQueue(pool_of(1), max_waiting=9, metrics=Metrics())
    with ExitStack() as unanswered:
        for _ in range(5):
            unanswered.enter_context(queue.admit(clock.now + 0.001))
    assert queue.expected_s() == 0


def test_photos_that_would_miss_their_deadline_are_refused_until_photos_are_faster(clock: Clock) -> None:
    queue = WorkQueue(pool_of(2), max_waiting=99, metrics=Metrics())
    clock.pass_photo(queue, 3)
    assert queue.expected_s() == pytest.approx(3)
    with queue.admit(), queue.admit():
        with pytest.raises(Overloaded) as refused:
            queue.check(clock.now + 1)
        assert refused.value.detail == (
            "a photo is expected to take 4.5 s with 2 ahead of it; 1 s are left (TANDEM_REQUEST_TIMEOUT_S)"
        )
    # One photo per worker is admitted whatever is expected. These two took no time, but they are only two.
    assert queue.expected_s() == pytest.approx(3 * 0.9**2)
    with queue.admit(), queue.admit(), pytest.raises(Overloaded):
        queue.check(clock.now + 1)
    while queue.expected_s() > 0.6:
        clock.pass_photo(queue, 0.1)
    with queue.admit(), queue.admit():
        queue.check(clock.now + 1)
        with pytest.raises(Overloaded, match=r" 0\.5 s are left"):  # its upload took the rest
            queue.check(clock.now + 0.5)


def test_the_duration_of_a_photo_is_known_whatever_the_queue_before_it(clock: Clock) -> None:
    queue = WorkQueue(pool_of(1), max_waiting=99, metrics=Metrics())
    photos = [queue.admit() for _ in range(30)]
    for photo in photos:
        photo.__enter__()
    for photo in photos:  # one after another, 0.1 s each
        clock.now += 0.1
        photo.__exit__(None, None, None)
    assert queue.expected_s() == pytest.approx(0.1)
    with ExitStack() as unanswered:
        for _ in range(10):
            unanswered.enter_context(queue.admit(clock.now + 1.05))
        with pytest.raises(Overloaded, match=r" 1\.1 s with 10 ahead"):
            queue.check(clock.now + 1.05)


def test_a_photo_that_fails_is_no_longer_before_the_others(clock: Clock) -> None:
    queue = WorkQueue(pool_of(1), max_waiting=9, metrics=Metrics())
    clock.pass_photo(queue, 0.75)

    def fail() -> None:
        with queue.admit():
            clock.now += 0.75
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert queue.expected_s() == pytest.approx(0.75)
    queue.check(clock.now + 1)
