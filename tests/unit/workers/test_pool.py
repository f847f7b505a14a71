import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import worker_tasks

from service.budget import Budget
from service.errors import UnreadablePhoto, WorkerCrashed
from service.workers.pool import WorkerPool
from service.workers.protocol import ParseReply, Task, decode_message

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
Run = Callable[..., Awaitable[Any]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def importable_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(worker_tasks.__file__).parent))


def memory_of(limit: int) -> Budget:
    return Budget(limit, what="memory for decoding", setting="TANDEM_MAX_DECODING_BYTES")


@asynccontextmanager
async def started(count: int = 1, *, memory: int = 100 * MIB, task_timeout_s: float = 60) -> AsyncIterator[Run]:
    """Give a function that lets one of ``count`` workers run a task."""
    pool = WorkerPool(count, memory=memory_of(memory), task_timeout_s=task_timeout_s)
    await pool.start()
    try:
        yield partial(do, pool)
    finally:
        await pool.close()


async def do(
    pool: WorkerPool, task: Task, photo: bytes = b"", parse: ParseReply[Any] = worker_tasks.parse_fields
) -> Any:
    return await pool.run(await pool.acquire(), task, photo, parse)


async def test_what_decoders_write_to_stderr_is_not_logged(capfd: pytest.CaptureFixture[str]) -> None:
    async with started() as run:
        await run(worker_tasks.complain)
    assert capfd.readouterr().err == ""


def gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


async def test_a_task_runs_in_another_process_and_large_data_pass_both_ways() -> None:
    async with started() as run:
        assert await run(worker_tasks.process_id) != os.getpid()
        data = os.urandom(5 * MIB)
        assert await run(worker_tasks.length, data) == len(data)
        assert await run(partial(worker_tasks.reply, fields=None, raw=data), parse=lambda _, raw: raw) == data


async def test_errors_keep_their_type_and_bugs_their_traceback() -> None:
    async with started() as run:
        with pytest.raises(UnreadablePhoto, match=r"^cut off$"):
            await run(partial(worker_tasks.fail, error=UnreadablePhoto("cut off")))
        with pytest.raises(RuntimeError, match=r"(?s)in fail.*ZeroDivisionError: a bug"):
            await run(partial(worker_tasks.fail, error=ZeroDivisionError("a bug")))
        assert await run(partial(worker_tasks.reply, fields=1)) == 1


def of_two(fields: Any, _raw: bytes) -> tuple[int, int]:
    one, other = fields
    return int(one), int(other)


@pytest.mark.parametrize("fields", [None, [1], [1, "x"], [[[[]]]]], ids=str)
async def test_a_worker_whose_reply_is_malformed_is_replaced(fields: object) -> None:
    async with started() as run:
        former = await run(worker_tasks.process_id)
        with pytest.raises(WorkerCrashed):
            await run(partial(worker_tasks.reply, fields=fields), parse=of_two)
        assert await run(worker_tasks.process_id) != former
        assert gone(former)


@pytest.mark.parametrize(
    "text", [b"", b"{}", b'["done"]', b'["eval", 1]', b'["reserve", -1]', b'["reserve", true]', b"[" * 100_000]
)
def test_a_malformed_message_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="a worker sent a"):
        decode_message(text)


async def test_a_canceled_photo_leaves_no_answer_for_the_next(tmp_path: Path) -> None:
    async with started() as run:
        task = partial(worker_tasks.hold, begun=tmp_path / "begun", go=tmp_path / "go")
        given_up = asyncio.create_task(run(task))
        await worker_tasks.exists(tmp_path / "begun")
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        (tmp_path / "go").touch()
        assert await run(partial(worker_tasks.reply, fields="mine")) == "mine"


async def test_photos_are_served_first_come_first_served(tmp_path: Path) -> None:
    async with started() as run:
        first = asyncio.create_task(run(partial(worker_tasks.hold, begun=tmp_path / "begun", go=tmp_path / "go")))
        await worker_tasks.exists(tmp_path / "begun")
        order: list[int] = []

        async def wait(number: int) -> None:
            order.append(await run(partial(worker_tasks.reply, fields=number)))

        async with asyncio.TaskGroup() as group:
            for number in range(9):
                group.create_task(wait(number))
            (tmp_path / "go").touch()
            await first
        assert order == list(range(9))


async def test_a_worker_that_dies_fails_one_photo_and_is_replaced(tmp_path: Path) -> None:
    async with started(2) as run:
        begun, go = tmp_path / "begun", tmp_path / "go"
        other = asyncio.create_task(run(partial(worker_tasks.hold, begun=begun, go=go)))
        await worker_tasks.exists(begun)
        with pytest.raises(WorkerCrashed, match="status -9"):
            await run(worker_tasks.die)
        assert await run(partial(worker_tasks.reply, fields="next")) == "next"
        go.touch()
        await other


async def test_while_many_wait_a_worker_has_its_next_photo_at_hand() -> None:
    async with started() as run:
        waits = (60, 0.5, 0.5)  # the first one ends as soon as the next has arrived
        steps = [partial(worker_tasks.next_task_at_hand, wait_s=each) for each in waits]
        tasks = [asyncio.create_task(run(step)) for step in steps]
        assert await asyncio.gather(*tasks) == [True, False, False]


async def test_a_worker_that_dies_does_not_fail_photos_that_it_had_not_started(tmp_path: Path) -> None:
    async with started() as run:
        process = await run(worker_tasks.process_id)
        first = asyncio.create_task(
            run(partial(worker_tasks.hold, begun=tmp_path / "begun", go=tmp_path / "never"))
        )
        await worker_tasks.exists(tmp_path / "begun")
        others = [asyncio.create_task(run(partial(worker_tasks.reply, fields=n))) for n in range(3)]
        await asyncio.sleep(0.1)  # the first of them has been sent to the worker by now
        os.kill(process, signal.SIGKILL)
        with pytest.raises(WorkerCrashed):
            await first
        assert await asyncio.gather(*others) == [0, 1, 2]


async def test_no_photo_waits_behind_a_slow_one_while_a_worker_is_idle(tmp_path: Path) -> None:
    async with started(2) as run:
        slow, quick = (
            asyncio.create_task(run(partial(worker_tasks.hold, begun=tmp_path / f"{n}", go=tmp_path / f"go{n}")))
            for n in range(2)
        )
        await asyncio.gather(*(worker_tasks.exists(tmp_path / f"{n}") for n in range(2)))
        others = [asyncio.create_task(run(partial(worker_tasks.reply, fields=n))) for n in range(2)]
        await asyncio.sleep(0.1)
        (tmp_path / "go1").touch()
        async with asyncio.timeout(30):
            await quick
            assert await asyncio.gather(*others) == [0, 1]
        assert not slow.done()
        (tmp_path / "go0").touch()
        await slow


async def test_a_worker_that_dies_while_idle_is_replaced_at_once() -> None:
    pool = WorkerPool(1, memory=memory_of(1), task_timeout_s=60)
    await pool.start()
    try:
        (former,) = pool.pids()
        assert former
        os.kill(former, signal.SIGKILL)
        async with asyncio.timeout(30):
            while pool.pids() in ([former], [None]):
                await asyncio.sleep(0.01)
        assert gone(former)
        assert [await do(pool, worker_tasks.process_id)] == pool.pids()
    finally:
        await pool.close()


async def test_a_task_that_takes_too_long_is_killed_with_its_worker(tmp_path: Path) -> None:
    async with started(task_timeout_s=2) as run:
        former = await run(worker_tasks.process_id)
        with pytest.raises(WorkerCrashed, match=r"after 2 s"):
            await run(partial(worker_tasks.hold, begun=tmp_path / "begun", go=tmp_path / "never"))
        assert await run(worker_tasks.process_id) != former
        assert gone(former)


async def test_tasks_run_in_parallel_only_while_memory_for_their_pixels_is_left(tmp_path: Path) -> None:
    async with started(2, memory=100 * MIB) as run:
        begun, go = [tmp_path / f"begun{n}" for n in range(2)], [tmp_path / f"go{n}" for n in range(2)]
        tasks = [
            asyncio.create_task(run(partial(worker_tasks.hold, begun=begun[n], go=go[n], memory=60 * MIB)))
            for n in range(2)
        ]
        done = asyncio.gather(*tasks)
        async with asyncio.timeout(30):
            while not any(path.exists() for path in begun):
                await asyncio.sleep(0.01)
        first = begun.index(next(path for path in begun if path.exists()))
        await asyncio.sleep(0.2)
        assert not begun[1 - first].exists()
        go[first].touch()
        await worker_tasks.exists(begun[1 - first])
        go[1 - first].touch()
        await done


async def test_a_worker_receives_its_next_photo_while_it_waits_for_memory(tmp_path: Path) -> None:
    async with started(2, memory=100 * MIB) as run:
        go = tmp_path / "go"
        holds = [
            asyncio.create_task(run(partial(worker_tasks.hold, begun=tmp_path / f"{n}", go=go, memory=90 * MIB)))
            for n in range(2)
        ]
        others = [asyncio.create_task(run(partial(worker_tasks.reply, fields=n))) for n in range(5)]
        await asyncio.sleep(0.5)  # both workers have a photo ahead by now, one of them waits for memory
        go.touch()
        await asyncio.gather(*holds)
        assert await asyncio.gather(*others) == list(range(5))


async def test_memory_is_released_when_a_worker_dies(tmp_path: Path) -> None:
    async with started(2, memory=100 * MIB) as run:
        one = await run(worker_tasks.process_id)
        held = asyncio.create_task(
            run(partial(worker_tasks.hold, begun=tmp_path / "begun", go=tmp_path / "never", memory=90 * MIB))
        )
        await worker_tasks.exists(tmp_path / "begun")
        os.kill(one, signal.SIGKILL)  # the worker that was busy last is next
        with pytest.raises(WorkerCrashed):
            await held
        (tmp_path / "go").touch()
        await run(partial(worker_tasks.hold, begun=tmp_path / "other", go=tmp_path / "go", memory=90 * MIB))


async def test_signals_for_the_service_do_not_interrupt_a_photo(tmp_path: Path) -> None:
    async with started() as run:
        process = await run(worker_tasks.process_id)
        task = asyncio.create_task(run(partial(worker_tasks.hold, begun=tmp_path / "begun", go=tmp_path / "go")))
        await worker_tasks.exists(tmp_path / "begun")
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(process, number)
        (tmp_path / "go").touch()
        await task
    assert gone(process)  # as all workers are after close()


OWNER = """
import asyncio, functools, pathlib, worker_tasks, sys
from service.budget import Budget
from service.workers.pool import WorkerPool

async def main():
    pool = WorkerPool(1, memory=Budget(1, what='memory', setting='TANDEM_MAX_DECODING_BYTES'), task_timeout_s=60)
    await pool.start()
    process = await pool.acquire()
    print(await pool.run(process, worker_tasks.process_id, b"", worker_tasks.parse_fields), flush=True)
    endless = functools.partial(worker_tasks.hold, begun=pathlib.Path(sys.argv[1]), go=pathlib.Path("/nowhere"))
    await pool.run(await pool.acquire(), endless, b"", worker_tasks.parse_fields)

asyncio.run(main())
"""


async def test_busy_workers_end_with_a_service_that_is_killed(tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(worker_tasks.__file__).parent), str(Path(__file__).parents[3])])
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path / "begun")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    with owner:
        assert owner.stdout
        process = int(await asyncio.to_thread(owner.stdout.readline))
        await worker_tasks.exists(tmp_path / "begun")
        owner.kill()
    ends_at = time.monotonic() + 30
    while not gone(process):
        assert time.monotonic() < ends_at
        await asyncio.sleep(0.05)
