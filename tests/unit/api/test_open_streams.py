import asyncio

import pytest

from service.api.open_streams import OpenStreams
from service.errors import Draining, TooManyStreams


def test_streams_are_admitted_up_to_the_limit_and_until_the_end() -> None:
    async def play() -> None:
        streams = OpenStreams(2)
        leave = asyncio.Event()

        async def stream() -> None:
            with streams.admit():
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
