import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.middleware.rate_limit import MAX_CALLERS, OVERLOAD_S, RateLimiter
from service.errors import TooManyRequests


class Clock:
    """A clock that is set by the test."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_rate_is_limited_and_refills() -> None:
    clock = Clock()
    limits = RateLimiter(rate=3, window_s=60, concurrent=None, clock=clock)
    for left in (2, 1, 0):
        limits.reserve("a")
        limits.release("a")
        policy = '"photos";q=3;w=60'
        reset = (3 - left) * 20
        assert limits.headers("a") == {"RateLimit-Policy": policy, "RateLimit": f'"photos";r={left};t={reset}'}
    with pytest.raises(TooManyRequests, match=r"3 photos in 60 s \(TANDEM_RATE_LIMIT\)") as raised:
        limits.reserve("a")
    assert raised.value.retry_after_s == 20
    limits.reserve("b")
    clock.now += 19.9
    with pytest.raises(TooManyRequests):
        limits.reserve("a")
    clock.now += 0.2
    limits.reserve("a")


def test_a_batch_may_exceed_the_rate_and_later_requests_wait() -> None:
    clock = Clock()
    limits = RateLimiter(rate=10, window_s=10, concurrent=None, clock=clock)
    limits.reserve("a")
    limits.charge_photos("a", 29)
    with pytest.raises(TooManyRequests) as raised:
        limits.reserve("a")
    assert raised.value.retry_after_s == 21
    assert limits.headers("a")["RateLimit"] == '"photos";r=0;t=30'


def test_concurrent_requests_are_counted() -> None:
    limits = RateLimiter(rate=None, window_s=60, concurrent=2, clock=Clock())
    limits.reserve("a")
    limits.reserve("a")
    assert limits.headers("a")["RateLimit"] == '"concurrent";r=0'
    with pytest.raises(TooManyRequests, match=r"the limit is 2 \(TANDEM_CONCURRENT_LIMIT\)"):
        limits.reserve("a")
    limits.reserve("b")
    limits.release("a")
    limits.reserve("a")


def test_frames_count_as_photos_and_are_refused_over_the_rate() -> None:
    limits = RateLimiter(rate=2, window_s=60, concurrent=None, clock=Clock())
    limits.reserve("a")
    limits.take_photo("a")
    with pytest.raises(TooManyRequests):
        limits.take_photo("a")
    limits.take_photo("b")


def test_without_limits_there_are_no_headers() -> None:
    limits = RateLimiter(rate=None, window_s=60, concurrent=None)
    assert limits.headers("a") == {}


def test_callers_are_forgotten_unless_they_have_requests_in_progress() -> None:
    limits = RateLimiter(rate=1, window_s=60, concurrent=1, clock=Clock())
    limits.reserve("busy")
    for number in range(3 * MAX_CALLERS):
        limits.reserve(str(number))
        limits.release(str(number))
    assert len(limits._callers) <= MAX_CALLERS + 1
    with pytest.raises(TooManyRequests):
        limits.reserve("busy")


@given(st.integers(1, 50), st.floats(1, 100), st.lists(st.floats(0, 5), max_size=200))
def test_no_window_has_more_than_twice_the_rate(rate: int, window_s: float, pauses: list[float]) -> None:
    clock = Clock()
    limits = RateLimiter(rate=rate, window_s=window_s, concurrent=None, clock=clock)
    let_in = []
    for pause in pauses:
        clock.now += pause
        with contextlib.suppress(TooManyRequests):
            limits.reserve("a")
            let_in.append(clock.now)
    for start in let_in:
        assert sum(start <= at < start + window_s for at in let_in) <= 2 * rate + 1


def test_during_an_overload_each_caller_gets_an_equal_share() -> None:
    clock = Clock()
    limits = RateLimiter(rate=None, window_s=60, concurrent=None, clock=clock)
    for _ in range(9):
        limits.reserve("greedy")
    limits.reserve("modest")
    limits.report_overload()
    with pytest.raises(TooManyRequests, match=r"9 of your requests.* 2 callers share the 10 "):
        limits.reserve("greedy")
    for _ in range(4):
        limits.reserve("modest")
    with pytest.raises(TooManyRequests):
        limits.reserve("modest")
    for _ in range(5):
        limits.release("greedy")
    limits.reserve("greedy")
    with pytest.raises(TooManyRequests):
        limits.reserve("greedy")
    clock.now += OVERLOAD_S
    limits.reserve("greedy")


def test_a_lone_caller_may_use_all_of_the_capacity() -> None:
    limits = RateLimiter(rate=None, window_s=60, concurrent=None, clock=Clock())
    for _ in range(100):
        limits.reserve("lone")
        limits.report_overload()


def test_without_an_overload_there_are_no_shares() -> None:
    limits = RateLimiter(rate=None, window_s=60, concurrent=None, clock=Clock())
    limits.reserve("modest")
    for _ in range(100):
        limits.reserve("greedy")


def test_a_caller_without_requests_in_progress_is_always_admitted() -> None:
    limits = RateLimiter(rate=None, window_s=60, concurrent=None, clock=Clock())
    limits.reserve("first")
    limits.report_overload()
    for name in ("second", "third"):
        limits.reserve(name)
        with pytest.raises(TooManyRequests):
            limits.reserve(name)
