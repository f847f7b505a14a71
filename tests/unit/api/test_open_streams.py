import asyncio

import pytest

from service.api.open_streams import OpenStreams
from service.errors import Draining, TooManyStreams


def test_streams_are_admitted_up_to_the_limit_and_until_the_end() -> None:
    async def play() -> None:
        streams = OpenStreams(2)
        leave = asyncio.Event()

        async def stream() -> None:
            async with streams.admit("a"):
                await leave.wait()

        held = [asyncio.create_task(stream()) for _ in range(2)]
        await asyncio.sleep(0)
        assert len(streams) == 2
        with pytest.raises(TooManyStreams, match=r"the limit is 2 \(TANDEM_MAX_STREAMS\)$"):
            await stream()
        leave.set()
        await asyncio.gather(*held)
        assert len(streams) == 0
        await streams.close()
        with pytest.raises(Draining):
            await stream()

    asyncio.run(play())


def test_a_caller_with_more_than_its_part_makes_room_for_another() -> None:
    async def play() -> None:
        streams = OpenStreams(4)
        ended: list[str] = []

        async def stream(name: str, *, opened: asyncio.Event) -> None:
            async with streams.admit(name) as evicted:
                opened.set()
                await evicted.wait()
                ended.append(name)

        async def open_stream(name: str) -> asyncio.Task[None]:
            opened = asyncio.Event()
            task = asyncio.create_task(stream(name, opened=opened))
            async with asyncio.timeout(60):
                await opened.wait()
            return task

        tasks = [await open_stream("greedy") for _ in range(4)]
        tasks += [await open_stream("modest") for _ in range(2)]
        assert ended == ["greedy", "greedy"]
        with pytest.raises(TooManyStreams):
            async with streams.admit("modest"):
                pass
        with pytest.raises(TooManyStreams):
            async with streams.admit("greedy"):
                pass
        tasks.append(await open_stream("third"))  # of four places, a third of the callers gets one
        assert len(ended) == 3
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert len(streams) == 0

    asyncio.run(play())
