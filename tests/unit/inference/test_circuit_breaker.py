from collections.abc import Callable

import pytest

from service.errors import ContractUnreadable, DeadlineExceeded, Overloaded, TandemError, TritonUnavailable
from service.inference.circuit_breaker import MAX_FAILURES, MIN_TIMEOUT_S, OPEN_S, CircuitBreaker


class Clock:
    """A clock that a test sets."""

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


def test_opens_after_failures_in_a_row_and_refuses(breaker: CircuitBreaker) -> None:
    fail(breaker, TritonUnavailable("gone"), MAX_FAILURES - 1)
    with breaker.call():
        pass
    fail(breaker, TritonUnavailable("gone"), MAX_FAILURES)
    assert breaker.open
    with pytest.raises(TritonUnavailable), breaker.call():
        pytest.fail("it let a call pass")


def test_half_open_one_call_passes_and_its_outcome_decides(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, TritonUnavailable("gone"), MAX_FAILURES)
    clock.now += OPEN_S
    fail(breaker, TritonUnavailable("gone still"))
    with pytest.raises(TritonUnavailable), breaker.call():
        pytest.fail("it let a call pass")
    clock.now += OPEN_S
    with breaker.call():
        with pytest.raises(TritonUnavailable), breaker.call():
            pytest.fail("it let a second one try")
        assert breaker.open
    assert not breaker.open


def test_a_trial_that_is_given_up_early_decides_nothing(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, TritonUnavailable("gone"), MAX_FAILURES)
    clock.now += OPEN_S
    fail(breaker, DeadlineExceeded("little time was left"))
    assert breaker.open
    with breaker.call():
        pass
    assert not breaker.open


def test_silence_counts_as_a_failure_if_long_enough(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, DeadlineExceeded("too short to tell"), 10 * MAX_FAILURES)
    assert not breaker.open

    def wait() -> None:
        clock.now += MIN_TIMEOUT_S

    fail(breaker, DeadlineExceeded("silence"), MAX_FAILURES, meanwhile=wait)
    assert breaker.open


@pytest.mark.parametrize("answer", [Overloaded("full"), ContractUnreadable("no labels")])
def test_a_refusal_counts_as_an_answer(breaker: CircuitBreaker, clock: Clock, answer: TandemError) -> None:
    fail(breaker, TritonUnavailable("gone"), MAX_FAILURES - 1)
    fail(breaker, answer)
    assert breaker.answered_at == clock.now
    fail(breaker, TritonUnavailable("gone"))
    assert not breaker.open


def test_a_probe_passes_and_closes_the_circuit(breaker: CircuitBreaker) -> None:
    fail(breaker, TritonUnavailable("gone"), MAX_FAILURES)
    with breaker.watch():
        pass
    assert not breaker.open


def test_calls_to_a_former_server_no_longer_count(breaker: CircuitBreaker) -> None:
    fail(breaker, TritonUnavailable("gone"), MAX_FAILURES - 1)
    fail(breaker, TritonUnavailable("cut off"), meanwhile=breaker.reset)
    fail(breaker, TritonUnavailable("gone"), MAX_FAILURES - 1)
    assert not breaker.open
