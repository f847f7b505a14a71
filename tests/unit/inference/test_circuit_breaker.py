from collections.abc import Callable

import pytest

from service.errors import ContractUnreadable, DeadlineExceeded, Overloaded, TandemError, TritonUnavailable
from service.inference.circuit_breaker import FAILURES, MIN_TIMEOUT_S, OPEN_S, CircuitBreaker


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(clock=clock)


def fail(
    breaker: CircuitBreaker, error: TandemError, times: int = 1, *, meanwhile: Callable[[], None] = lambda: None
) -> None:
    def call() -> None:
        with breaker.call():
            meanwhile()
            raise error

    for _ in range(times):
        with pytest.raises(type(error)):
            call()


def test_it_opens_after_failures_in_a_row_and_refuses(breaker: CircuitBreaker) -> None:
    fail(breaker, TritonUnavailable("gone"), FAILURES - 1)
    with breaker.call():
        pass
    fail(breaker, TritonUnavailable("gone"), FAILURES)
    assert breaker.open
    with pytest.raises(TritonUnavailable, match=f"failed {FAILURES} times in a row"), breaker.call():
        pytest.fail("it let a call pass")


def test_half_open_one_call_tries_and_decides(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, TritonUnavailable("gone"), FAILURES)
    clock.now += OPEN_S
    fail(breaker, TritonUnavailable("gone still"))
    with pytest.raises(TritonUnavailable, match="in a row"), breaker.call():
        pytest.fail("it let a call pass")
    clock.now += OPEN_S
    with breaker.call():
        with pytest.raises(TritonUnavailable, match="in a row"), breaker.call():
            pytest.fail("it let a second one try")
        assert breaker.open
    assert not breaker.open


def test_a_trial_that_its_caller_gave_up_decides_nothing(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, TritonUnavailable("gone"), FAILURES)
    clock.now += OPEN_S
    fail(breaker, DeadlineExceeded("little time was left"))
    assert breaker.open
    with breaker.call():
        pass
    assert not breaker.open


def test_silence_counts_when_it_was_long_enough(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, DeadlineExceeded("too short to tell"), 10 * FAILURES)
    assert not breaker.open

    def wait() -> None:
        clock.now += MIN_TIMEOUT_S

    fail(breaker, DeadlineExceeded("silence"), FAILURES, meanwhile=wait)
    assert breaker.open


@pytest.mark.parametrize("answer", [Overloaded("full"), ContractUnreadable("no labels")])
def test_a_refusal_is_an_answer(breaker: CircuitBreaker, clock: Clock, answer: TandemError) -> None:
    fail(breaker, TritonUnavailable("gone"), FAILURES - 1)
    fail(breaker, answer)
    assert breaker.answered_at == clock.now
    fail(breaker, TritonUnavailable("gone"))
    assert not breaker.open


def test_a_probe_passes_and_closes_it(breaker: CircuitBreaker) -> None:
    fail(breaker, TritonUnavailable("gone"), FAILURES)
    with breaker.watch():
        pass
    assert not breaker.open


def test_calls_to_a_former_server_count_no_more(breaker: CircuitBreaker) -> None:
    fail(breaker, TritonUnavailable("gone"), FAILURES - 1)
    fail(breaker, TritonUnavailable("cut off"), meanwhile=breaker.reset)
    fail(breaker, TritonUnavailable("gone"), FAILURES - 1)
    assert not breaker.open
