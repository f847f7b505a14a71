import asyncio

from hypothesis import given
from hypothesis import strategies as st

from service.api.routes.frames import FrameRate, NewestFrame


@given(st.lists(st.booleans(), max_size=40))
def test_the_newest_frame_is_taken_and_every_other_is_counted(events: list[bool]) -> None:
    """True: a frame arrives; False: the waiting frame, if any, is taken."""

    async def play() -> None:
        newest, received, answered, dropped = NewestFrame(), 0, 0, 0
        waits = False
        for arrives in events:
            if arrives:
                received += 1
                assert newest.put(str(received).encode()) is waits
                waits = True
            elif waits:
                frame = await newest.take()
                assert frame.number == received
                assert frame.photo == str(received).encode()
                answered, dropped, waits = answered + 1, dropped + frame.dropped, False
                assert answered + dropped == received

    asyncio.run(play())


def test_taking_waits_for_a_frame() -> None:
    async def play() -> None:
        newest = NewestFrame()
        taking = asyncio.create_task(newest.take())
        await asyncio.sleep(0)
        assert not taking.done()
        newest.put(b"frame")
        assert (await taking).photo == b"frame"

    asyncio.run(play())


@given(st.floats(0.5, 100), st.lists(st.floats(0, 1), min_size=1, max_size=200))
def test_no_more_frames_are_allowed_than_the_rate_and_one_second_ahead(per_s: float, pauses: list[float]) -> None:
    rate, now, allowed = FrameRate(per_s, 0.0), 0.0, 0
    for pause in pauses:
        now += pause
        allowed += rate.allows(now)
        assert allowed <= now * per_s + per_s + 1 + 1e-6


@given(st.floats(1, 100), st.integers(1, 200))
def test_frames_within_the_rate_are_never_refused(per_s: float, count: int) -> None:
    rate = FrameRate(per_s, 0.0)
    assert all(rate.allows(number / per_s) for number in range(count))
