import pytest

from service.api.fair_places import MAX_REMEMBERED, WAITING_S, FairPlaces
from service.errors import Overloaded


def places(limit: int) -> tuple[FairPlaces, list[float]]:
    now = [100.0]
    return FairPlaces(limit, what="batches", setting="TANDEM_MAX_BATCHES", clock=lambda: now[0]), now


def test_one_caller_may_hold_all_places_while_nobody_waits() -> None:
    batches, _ = places(2)
    batches.reserve("a")
    batches.reserve("a")
    with pytest.raises(Overloaded, match=r"2 in use, 1 more requested; the limit is 2 \(TANDEM_MAX_BATCHES\)"):
        batches.reserve("a")
    batches.release("a")
    batches.reserve("a")


def test_a_freed_place_is_kept_for_the_caller_that_waits() -> None:
    batches, now = places(2)
    batches.reserve("greedy")
    batches.reserve("greedy")
    with pytest.raises(Overloaded):
        batches.check("modest")
    batches.release("greedy")
    with pytest.raises(Overloaded):
        batches.reserve("greedy")
    batches.reserve("modest")
    batches.release("modest")
    batches.reserve("greedy")  # nobody waits any more

    with pytest.raises(Overloaded):
        batches.check("modest")
    batches.release("greedy")
    now[0] += WAITING_S + 1
    batches.reserve("greedy")  # the other has given up


def test_a_caller_below_its_part_gets_a_place_even_if_others_wait() -> None:
    batches, _ = places(2)
    batches.reserve("a")
    batches.reserve("a")
    for name in ("b", "c"):
        with pytest.raises(Overloaded):
            batches.check(name)
    batches.release("a")
    batches.reserve("c")
    assert batches.used == 2


def test_callers_that_are_remembered_are_limited() -> None:
    batches, _ = places(0)
    for number in range(2 * MAX_REMEMBERED):
        with pytest.raises(Overloaded):
            batches.check(str(number))
    assert len(batches._refused_at) == MAX_REMEMBERED
