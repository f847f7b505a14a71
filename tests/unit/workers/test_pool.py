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

import photo_steps
import pytest

from service.budget import Budget
from service.errors import UnreadablePhoto, WorkerCrashed
from service.workers.pool import WorkerPool
from service.workers.protocol import Reader, Step, read_answer

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
Run = Callable[..., Awaitable[Any]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def importable_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(photo_steps.__file__).parent))


def memory_of(limit: int) -> Budget:
    return Budget(limit, what="memory for decoding", setting="TANDEM_MAX_DECODING_BYTES")


@asynccontextmanager
async def started(count: int = 1, *, memory: int = 100 * MIB, patience_s: float = 60) -> AsyncIterator[Run]:
    """Lets one of ``count`` processes do a step."""
    processes = WorkerPool(count, memory=memory_of(memory), patience_s=patience_s)
    await processes.start()
    try:
        yield partial(do, processes)
    finally:
        await processes.close()


async def do(
    processes: WorkerPool, step: Step, photo: bytes = b"", read: Reader[Any] = photo_steps.fields_of
) -> Any:
    return await processes.call(await processes.take(), step, photo, read)


def gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


async def test_a_step_is_done_elsewhere_and_large_data_pass_both_ways() -> None:
    async with started() as run:
        assert await run(photo_steps.process_id) != os.getpid()
        data = os.urandom(5 * MIB)
        assert await run(photo_steps.length, data) == len(data)
        assert await run(partial(photo_steps.answer, fields=None, raw=data), read=lambda _, raw: raw) == data


async def test_errors_come_back_as_they_are_and_a_bug_with_where_it_was() -> None:
    async with started() as run:
        with pytest.raises(UnreadablePhoto, match=r"^cut off$"):
            await run(partial(photo_steps.fail, error=UnreadablePhoto("cut off")))
        with pytest.raises(RuntimeError, match=r"(?s)in fail.*ZeroDivisionError: a bug"):
            await run(partial(photo_steps.fail, error=ZeroDivisionError("a bug")))
        assert await run(partial(photo_steps.answer, fields=1)) == 1


def of_two(fields: Any, _raw: bytes) -> tuple[int, int]:
    one, other = fields
    return int(one), int(other)


@pytest.mark.parametrize("fields", [None, [1], [1, "x"], [[[[]]]]], ids=str)
async def test_a_process_whose_answer_makes_no_sense_is_replaced(fields: object) -> None:
    async with started() as run:
        former = await run(photo_steps.process_id)
        with pytest.raises(WorkerCrashed, match="what it said makes no sense"):
            await run(partial(photo_steps.answer, fields=fields), read=of_two)
        assert await run(photo_steps.process_id) != former
        assert gone(former)


@pytest.mark.parametrize(
    "text", [b"", b"{}", b'["done"]', b'["eval", 1]', b'["room", -1]', b'["room", true]', b"[" * 100_000]
)
def test_what_is_no_answer_is_told(text: bytes) -> None:
    with pytest.raises(ValueError, match="a photo process"):
        read_answer(text)


async def test_a_photo_that_was_given_up_leaves_no_answer_for_the_next(tmp_path: Path) -> None:
    async with started() as run:
        step = partial(photo_steps.hold, begun=tmp_path / "begun", go=tmp_path / "go")
        given_up = asyncio.create_task(run(step))
        await photo_steps.exists(tmp_path / "begun")
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        (tmp_path / "go").touch()
        assert await run(partial(photo_steps.answer, fields="mine")) == "mine"


async def test_who_waits_longest_is_next(tmp_path: Path) -> None:
    async with started() as run:
        first = asyncio.create_task(run(partial(photo_steps.hold, begun=tmp_path / "begun", go=tmp_path / "go")))
        await photo_steps.exists(tmp_path / "begun")
        order: list[int] = []

        async def wait(number: int) -> None:
            order.append(await run(partial(photo_steps.answer, fields=number)))

        async with asyncio.TaskGroup() as group:
            for number in range(9):
                group.create_task(wait(number))
            (tmp_path / "go").touch()
            await first
        assert order == list(range(9))


async def test_a_process_that_dies_takes_one_photo_with_it_and_is_replaced(tmp_path: Path) -> None:
    async with started(2) as run:
        begun, go = tmp_path / "begun", tmp_path / "go"
        other = asyncio.create_task(run(partial(photo_steps.hold, begun=begun, go=go)))
        await photo_steps.exists(begun)
        with pytest.raises(WorkerCrashed, match="it ended with status -9"):
            await run(photo_steps.die)
        assert await run(partial(photo_steps.answer, fields="next")) == "next"
        go.touch()
        await other


async def test_while_many_wait_a_process_has_its_next_photo_at_hand() -> None:
    async with started() as run:
        tasks = [asyncio.create_task(run(photo_steps.next_at_hand)) for _ in range(3)]
        assert await asyncio.gather(*tasks) == [True, False, False]


async def test_a_process_that_dies_takes_nothing_of_what_it_had_not_begun(tmp_path: Path) -> None:
    async with started() as run:
        process = await run(photo_steps.process_id)
        first = asyncio.create_task(
            run(partial(photo_steps.hold, begun=tmp_path / "begun", go=tmp_path / "never"))
        )
        await photo_steps.exists(tmp_path / "begun")
        others = [asyncio.create_task(run(partial(photo_steps.answer, fields=n))) for n in range(3)]
        await asyncio.sleep(0.1)  # the first of them is with the process by now
        os.kill(process, signal.SIGKILL)
        with pytest.raises(WorkerCrashed):
            await first
        assert await asyncio.gather(*others) == [0, 1, 2]


async def test_no_photo_waits_behind_a_slow_one_while_a_process_is_idle(tmp_path: Path) -> None:
    async with started(2) as run:
        slow, quick = (
            asyncio.create_task(run(partial(photo_steps.hold, begun=tmp_path / f"{n}", go=tmp_path / f"go{n}")))
            for n in range(2)
        )
        await asyncio.gather(*(photo_steps.exists(tmp_path / f"{n}") for n in range(2)))
        others = [asyncio.create_task(run(partial(photo_steps.answer, fields=n))) for n in range(2)]
        await asyncio.sleep(0.1)
        (tmp_path / "go1").touch()
        async with asyncio.timeout(30):
            await quick
            assert await asyncio.gather(*others) == [0, 1]
        assert not slow.done()
        (tmp_path / "go0").touch()
        await slow


async def test_a_process_that_dies_while_idle_is_replaced_at_once() -> None:
    processes = WorkerPool(1, memory=memory_of(1), patience_s=60)
    await processes.start()
    try:
        (former,) = processes.ids()
        assert former
        os.kill(former, signal.SIGKILL)
        async with asyncio.timeout(30):
            while processes.ids() in ([former], [None]):
                await asyncio.sleep(0.01)
        assert gone(former)
        assert [await do(processes, photo_steps.process_id)] == processes.ids()
    finally:
        await processes.close()


async def test_a_photo_that_takes_too_long_is_given_up_with_its_process(tmp_path: Path) -> None:
    async with started(patience_s=0.5) as run:
        former = await run(photo_steps.process_id)
        with pytest.raises(WorkerCrashed, match=r"ended after 0\.5 s with one photo"):
            await run(partial(photo_steps.hold, begun=tmp_path / "begun", go=tmp_path / "never"))
        assert await run(photo_steps.process_id) != former
        assert gone(former)


async def test_steps_run_side_by_side_only_as_far_as_their_pixels_have_room(tmp_path: Path) -> None:
    async with started(2, memory=100 * MIB) as run:
        begun, go = [tmp_path / f"begun{n}" for n in range(2)], [tmp_path / f"go{n}" for n in range(2)]
        steps = [
            asyncio.create_task(run(partial(photo_steps.hold, begun=begun[n], go=go[n], memory=60 * MIB)))
            for n in range(2)
        ]
        done = asyncio.gather(*steps)
        async with asyncio.timeout(30):
            while not any(path.exists() for path in begun):
                await asyncio.sleep(0.01)
        first = begun.index(next(path for path in begun if path.exists()))
        await asyncio.sleep(0.2)
        assert not begun[1 - first].exists()
        go[first].touch()
        await photo_steps.exists(begun[1 - first])
        go[1 - first].touch()
        await done


async def test_a_process_gets_its_next_photo_while_it_waits_for_room(tmp_path: Path) -> None:
    async with started(2, memory=100 * MIB) as run:
        go = tmp_path / "go"
        holds = [
            asyncio.create_task(run(partial(photo_steps.hold, begun=tmp_path / f"{n}", go=go, memory=90 * MIB)))
            for n in range(2)
        ]
        others = [asyncio.create_task(run(partial(photo_steps.answer, fields=n))) for n in range(5)]
        await asyncio.sleep(0.5)  # both processes have a photo ahead by now, one of them asks for room
        go.touch()
        await asyncio.gather(*holds)
        assert await asyncio.gather(*others) == list(range(5))


async def test_room_is_given_back_by_a_process_that_dies_with_it(tmp_path: Path) -> None:
    async with started(2, memory=100 * MIB) as run:
        one = await run(photo_steps.process_id)
        held = asyncio.create_task(
            run(partial(photo_steps.hold, begun=tmp_path / "begun", go=tmp_path / "never", memory=90 * MIB))
        )
        await photo_steps.exists(tmp_path / "begun")
        os.kill(one, signal.SIGKILL)  # the one that worked last works next
        with pytest.raises(WorkerCrashed):
            await held
        (tmp_path / "go").touch()
        await run(partial(photo_steps.hold, begun=tmp_path / "other", go=tmp_path / "go", memory=90 * MIB))


async def test_signals_for_the_service_do_not_end_a_photo_in_work(tmp_path: Path) -> None:
    async with started() as run:
        process = await run(photo_steps.process_id)
        step = asyncio.create_task(run(partial(photo_steps.hold, begun=tmp_path / "begun", go=tmp_path / "go")))
        await photo_steps.exists(tmp_path / "begun")
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(process, number)
        (tmp_path / "go").touch()
        await step
    assert gone(process)  # as they all are after close()


OWNER = """
import asyncio, functools, pathlib, photo_steps, sys
from service.budget import Budget
from service.workers.pool import WorkerPool

async def main():
    processes = WorkerPool(1, memory=Budget(1, what='', setting=''), patience_s=60)
    await processes.start()
    process = await processes.take()
    print(await processes.call(process, photo_steps.process_id, b"", photo_steps.fields_of), flush=True)
    endless = functools.partial(photo_steps.hold, begun=pathlib.Path(sys.argv[1]), go=pathlib.Path("/nowhere"))
    await processes.call(await processes.take(), endless, b"", photo_steps.fields_of)

asyncio.run(main())
"""


async def test_processes_at_work_end_with_a_service_that_is_killed(tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(photo_steps.__file__).parent), str(Path(__file__).parents[3])])
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path / "begun")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    with owner:
        assert owner.stdout
        process = int(await asyncio.to_thread(owner.stdout.readline))
        await photo_steps.exists(tmp_path / "begun")
        owner.kill()
    ends_at = time.monotonic() + 30
    while not gone(process):
        assert time.monotonic() < ends_at
        await asyncio.sleep(0.05)
