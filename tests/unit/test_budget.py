import asyncio
from collections import Counter
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.budget import Budget, FairBudget, mebibytes
from service.errors import Overloaded, TooManyStreams


def budget(limit: int) -> Budget:
    return Budget(limit, what="batches", setting="TANDEM_MAX_BATCHES")


def fair_budget(limit: int) -> FairBudget:
    return FairBudget(limit, what="memory for uploads", setting="TANDEM_MAX_HELD_BYTES")


def test_no_more_is_reserved_than_the_limit() -> None:
    batches = budget(2)
    batches.reserve()
    batches.reserve()
    with pytest.raises(Overloaded):
        batches.check()
    with pytest.raises(Overloaded):
        batches.reserve()
    assert batches.used == 2
    batches.release()
    batches.reserve()


def test_the_error_is_of_the_type_asked_for_and_names_value_limit_and_setting() -> None:
    memory = Budget(3 * 1024**2, what="frames", setting="TANDEM_MAX_STREAMS", show=mebibytes, error=TooManyStreams)
    memory.reserve(2 * 1024**2)
    with pytest.raises(TooManyStreams) as raised:
        memory.reserve(1024**2 + 512 * 1024)
    assert raised.value.detail == (
        "frames: 2.0 MiB in use, 1.5 MiB more requested; the limit is 3.0 MiB (TANDEM_MAX_STREAMS)"
    )


def test_reserved_releases_at_the_end() -> None:
    batches = budget(10)
    with batches.reserved(10), pytest.raises(Overloaded):
        batches.check()
    assert batches.used == 0
    with pytest.raises(KeyError), batches.reserved(3):
        raise KeyError
    assert batches.used == 0


def _fill(part: Budget) -> None:
    part.reserve(20)
    part.release(10)
    part.reserve(10)
    part.reserve(10)


def test_what_a_part_reserved_counts_in_the_whole_and_is_released_whatever_happens() -> None:
    memory = fair_budget(100)
    with memory.part("a") as part:
        part.reserve(60)
        assert memory.used == 60
        with pytest.raises(Overloaded), memory.part("b") as other:
            _fill(other)
        assert memory.used == 60
        assert part.used == 60
    assert memory.used == 0


def test_a_part_can_reserve_for_a_while() -> None:
    memory = fair_budget(15)
    with memory.part("a") as part:
        with part.reserved(10), pytest.raises(Overloaded):
            part.check()
        part.check(10)
        assert part.used == memory.used == 0


def test_a_caller_is_told_its_part() -> None:
    memory = fair_budget(900)
    memory.reserve_for("a", 600)
    with pytest.raises(Overloaded) as raised:
        memory.reserve_for("a", 1)
    assert raised.value.detail == (
        "memory for uploads: 600 in use by this caller, 1 more requested; 600 of 900 are in use, and a caller may "
        "hold 2 times of what it leaves free (TANDEM_MAX_HELD_BYTES)"
    )
    memory.reserve_for("b", 200)
    memory.release_for("a", 600)
    memory.release_for("b", 200)
    assert memory.used == 0
    memory.reserve_for("b", 600)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(-500, 900)), max_size=200))
def test_whatever_others_hold_a_newcomer_gets_two_thirds_of_the_rest(
    steps: list[tuple[int, int]],
) -> None:
    memory, held = fair_budget(1000), Counter[int]()
    for caller, change in steps:
        if change < 0:
            released = min(-change, held[caller])
            memory.release_for(str(caller), released)
            held[caller] -= released
        else:
            with suppress(Overloaded):
                memory.reserve_for(str(caller), change)
                held[caller] += change
    assert memory.used == held.total()
    assert memory.used < memory.limit
    memory.reserve_for("newcomer", (1000 - memory.used) * 2 // 3)


def test_callers_that_come_and_go_get_equal_parts() -> None:
    memory, held = fair_budget(700), dict.fromkeys("abc", 0)
    for _ in range(200):
        for caller in held:
            memory.release_for(caller, held[caller])
            held[caller] = 0
            while True:
                try:
                    memory.reserve_for(caller, 1)
                except Overloaded:
                    break
                held[caller] += 1
    assert all(abs(count - 200) < 15 for count in held.values()), held


def test_waiting_is_first_come_first_served_and_what_exceeds_the_limit_is_let_in_alone() -> None:
    async def scenario() -> None:
        memory = budget(100)
        begun, go = [asyncio.Event() for _ in range(4)], [asyncio.Event() for _ in range(4)]

        async def decode(number: int, size: int) -> None:
            async with memory.reserved_in_turn(size):
                begun[number].set()
                await go[number].wait()

        async def begins(number: int) -> bool:
            for _ in range(20):  # turns of the loop
                await asyncio.sleep(0)
            return begun[number].is_set()

        photos = [asyncio.create_task(decode(*photo)) for photo in enumerate((60, 40, 500, 1))]
        assert await begins(0)
        assert await begins(1)
        assert not await begins(2)
        go[0].set()
        assert not await begins(2)  # more than the limit: alone or not at all
        assert not await begins(3)  # and no small one passes it
        go[1].set()
        assert await begins(2)
        go[2].set()
        assert await begins(3)
        go[3].set()
        await asyncio.gather(*photos)
        assert memory.used == 0

    asyncio.run(scenario())


def test_one_that_gives_up_waiting_is_passed() -> None:
    async def scenario() -> None:
        memory = budget(100)
        async with memory.reserved_in_turn(60):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01), memory.reserved_in_turn(500):
                    pass
            async with asyncio.timeout(60), memory.reserved_in_turn(40):
                pass
        async with asyncio.timeout(60), memory.reserved_in_turn(500):
            pass
        assert memory.used == 0

    asyncio.run(scenario())


def test_those_behind_one_that_gives_up_are_let_in_at_once() -> None:
    async def scenario() -> None:
        memory = budget(100)

        async def hold(size: int) -> None:
            async with memory.reserved_in_turn(size):
                pass

        async with memory.reserved_in_turn(60):
            large, small = asyncio.create_task(hold(500)), asyncio.create_task(hold(40))
            await asyncio.sleep(0)
            large.cancel()
            async with asyncio.timeout(60):
                await small
        assert memory.used == 0

    asyncio.run(scenario())


def test_one_cancelled_just_as_its_turn_comes_keeps_nothing() -> None:
    async def scenario() -> None:
        memory = budget(100)

        async def hold() -> None:
            async with memory.reserved_in_turn(100):
                pass

        memory.reserve(1)
        waiting = asyncio.create_task(hold())
        await asyncio.sleep(0)
        memory.release(1)
        assert memory.used == 100
        waiting.cancel()
        await asyncio.wait([waiting])
        assert memory.used == 0

    asyncio.run(scenario())
