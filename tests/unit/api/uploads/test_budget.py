import asyncio

import pytest

from service.api.uploads.budget import Hold, UploadMemory
from service.errors import Overloaded
from service.workers.memory import DecodingMemory


def _fill(hold: Hold) -> None:
    hold.take(40)
    hold.give(10)
    hold.take(10)
    hold.take(1)


def test_what_a_request_held_is_given_back_whatever_becomes_of_it() -> None:
    memory = UploadMemory(100)
    with memory.hold() as hold:
        hold.take(60)
        with pytest.raises(Overloaded, match=r"TANDEM_MAX_HELD_BYTES"), memory.hold() as other:
            _fill(other)
        assert memory.held == 60
    assert memory.held == 0


def test_room_is_for_as_long_as_it_is_needed() -> None:
    memory = UploadMemory(10)
    with memory.hold() as hold:
        with hold.room(10), pytest.raises(Overloaded):
            hold.check_room(1)
        hold.check_room(10)


def test_photos_are_decoded_side_by_side_only_as_far_as_there_is_room() -> None:
    async def scenario() -> None:
        memory = DecodingMemory(100)
        begun, go = [asyncio.Event() for _ in range(4)], [asyncio.Event() for _ in range(4)]

        async def decode(number: int, size: int) -> None:
            async with memory.room(size):
                begun[number].set()
                await go[number].wait()

        async def begins(number: int) -> bool:
            for _ in range(20):  # turns of the loop
                await asyncio.sleep(0)
            return begun[number].is_set()

        steps = [asyncio.create_task(decode(*work)) for work in enumerate((60, 40, 500, 1))]
        assert await begins(0)
        assert await begins(1)
        assert not await begins(2)
        go[0].set()
        assert not await begins(2)  # more than there is: alone or not at all
        assert not await begins(3)  # and no small one passes it
        go[1].set()
        assert await begins(2)
        go[2].set()
        assert await begins(3)
        go[3].set()
        await asyncio.gather(*steps)

    asyncio.run(scenario())


def test_who_no_longer_waits_for_room_is_passed() -> None:
    async def scenario() -> None:
        memory = DecodingMemory(100)
        async with memory.room(60):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01), memory.room(500):
                    pass
            async with asyncio.timeout(10), memory.room(40):
                pass
        async with asyncio.timeout(10), memory.room(500):
            pass

    asyncio.run(scenario())
