import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.middleware.rate_limit import MAX_CALLERS, SCARCE_S, RateLimiter
from service.errors import TooManyRequests


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_rate_is_kept_and_fills_up_again() -> None:
    clock = Clock()
    limits = RateLimiter(rate=3, window_s=60, concurrent=None, clock=clock)
    for left in (2, 1, 0):
        limits.enter("a")
        limits.leave("a")
        policy = '"photos";q=3;w=60'
        reset = (3 - left) * 20
        assert limits.headers("a") == {"RateLimit-Policy": policy, "RateLimit": f'"photos";r={left};t={reset}'}
    with pytest.raises(TooManyRequests, match=r"your 3 photos in 60 s \(TANDEM_RATE_LIMIT\)") as raised:
        limits.enter("a")
    assert raised.value.retry_after_s == 20
    limits.enter("b")
    clock.now += 19.9
    with pytest.raises(TooManyRequests):
        limits.enter("a")
    clock.now += 0.2
    limits.enter("a")


def test_a_batch_spends_what_it_has_and_the_next_one_waits() -> None:
    clock = Clock()
    limits = RateLimiter(rate=10, window_s=10, concurrent=None, clock=clock)
    limits.enter("a")
    limits.spend("a", 29)
    with pytest.raises(TooManyRequests) as raised:
        limits.enter("a")
    assert raised.value.retry_after_s == 21
    assert limits.headers("a")["RateLimit"] == '"photos";r=0;t=30'


def test_concurrent_requests_are_counted() -> None:
    limits = RateLimiter(rate=None, window_s=60, concurrent=2, clock=Clock())
    limits.enter("a")
    limits.enter("a")
    assert limits.headers("a")["RateLimit"] == '"concurrent";r=0'
    with pytest.raises(TooManyRequests, match=r"the limit is 2 \(TANDEM_CONCURRENT_LIMIT\)"):
        limits.enter("a")
    limits.enter("b")
    limits.leave("a")
    limits.enter("a")


def test_without_limits_nothing_is_said() -> None:
    limits = RateLimiter(rate=None, window_s=60, concurrent=None)
    assert limits.headers("a") == {}


def test_callers_are_forgotten_but_not_those_inside() -> None:
    limits = RateLimiter(rate=1, window_s=60, concurrent=1, clock=Clock())
    limits.enter("inside")
    for number in range(3 * MAX_CALLERS):
        limits.enter(str(number))
        limits.leave(str(number))
    assert len(limits._callers) <= MAX_CALLERS + 1
    with pytest.raises(TooManyRequests):
        limits.enter("inside")


@given(st.integers(1, 50), st.floats(1, 100), st.lists(st.floats(0, 5), max_size=200))
def test_no_window_has_more_than_twice_the_rate(rate: int, window_s: float, pauses: list[float]) -> None:
    clock = Clock()
    limits = RateLimiter(rate=rate, window_s=window_s, concurrent=None, clock=clock)
    let_in = []
    for pause in pauses:
        clock.now += pause
        with contextlib.suppress(TooManyRequests):
            limits.enter("a")
            let_in.append(clock.now)
    for start in let_in:
        assert sum(start <= at < start + window_s for at in let_in) <= 2 * rate + 1


def test_where_room_is_scarce_each_caller_gets_an_equal_part() -> None:
    clock = Clock()
    limits = RateLimiter(rate=None, window_s=60, concurrent=None, clock=clock)
    for _ in range(9):
        limits.enter("greedy")
    limits.enter("modest")
    limits.scarce()
    with pytest.raises(TooManyRequests, match="your share while 2 callers"):
        limits.enter("greedy")
    for _ in range(4):
        limits.enter("modest")
    with pytest.raises(TooManyRequests):
        limits.enter("modest")
    for _ in range(5):
        limits.leave("greedy")
    limits.enter("greedy")
    with pytest.raises(TooManyRequests):
        limits.enter("greedy")
    clock.now += SCARCE_S
    limits.enter("greedy")


def test_a_lone_caller_may_have_all_the_room_there_is() -> None:
    limits = RateLimiter(rate=None, window_s=60, concurrent=None, clock=Clock())
    for _ in range(100):
        limits.enter("lone")
        limits.scarce()
