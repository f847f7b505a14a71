"""Faults of the inference server, injected while callers post photos, with `tandem serve` and its real Triton."""

import shutil
import signal
import time
from collections.abc import Callable

import httpx
import pytest
from harmed import TIMEOUT_S, Callers, Service, await_end, kill
from measured import Measured
from toy_model import write_version
from waiting import wait_until

AWAY = "503 triton-unavailable"
LATE = "504 deadline-exceeded"
FULL = "503 overloaded"

CALLERS = 3


@pytest.mark.parametrize(
    ("fault", "victim", "number"),
    [
        ("Triton's process is killed; the next one has another port", Service.triton, signal.SIGKILL),
        ("Triton is frozen (SIGSTOP)", Service.triton, signal.SIGSTOP),
        ("the model's process (stub) is killed; Triton says «ready» still", Service.stub, signal.SIGKILL),
        ("Triton's supervisor is killed, and Triton with it", Service.supervisor, signal.SIGKILL),
    ],
    ids=["killed", "frozen", "stub", "supervisor"],
)
def test_a_triton_that_does_not_work_is_replaced(
    tandem: Service, measured: Measured, fault: str, victim: Callable[[Service], int], number: int
) -> None:
    wait_until(tandem.works, "all is well", TIMEOUT_S)
    before, former, files = tandem.holds(), tandem.triton(), tandem.shared_memory()
    with Callers(tandem).calling(CALLERS) as callers:
        wait_until(lambda: "200" in callers.seen(), "photos are answered")
        harmed_at = time.monotonic()
        kill(victim(tandem), number)
        await_end([former])
        wait_until(tandem.works, "a new Triton answers", TIMEOUT_S)
        wait_until(lambda: callers.outcomes[-1][1] == "200", "the callers, too", TIMEOUT_S)
    callers.assert_only("200", AWAY, LATE, FULL)
    assert tandem.triton() != former
    assert not any(path.exists() for path in files), "shared memory of the former one"
    measured.fault, measured.seen, measured.slowest_s = fault, callers.seen(), callers.slowest()
    measured.back_s = callers.back_after(harmed_at)
    measured.checked = tandem.await_no_more_than(before)


def test_a_triton_that_is_only_slow_is_waited_for(tandem: Service, measured: Measured) -> None:
    wait_until(tandem.works, "all is well", TIMEOUT_S)
    before, triton = tandem.holds(), tandem.triton()
    with Callers(tandem).calling(CALLERS) as callers:
        wait_until(lambda: "200" in callers.seen(), "photos are answered")
        slowed_at = time.monotonic()
        kill(triton, signal.SIGSTOP)
        try:
            wait_until(lambda: time.monotonic() - slowed_at > 1.2, "a pause")
        finally:
            kill(triton, signal.SIGCONT)
        answered = len(callers.outcomes)
        wait_until(lambda: len(callers.outcomes) > answered + 2 * CALLERS, "those who waited are answered")
    callers.assert_only("200")
    assert tandem.triton() == triton, "it was not restarted"
    measured.fault, measured.seen = "Triton is slow: it stands still for 1.2 s", callers.seen()
    measured.slowest_s, measured.back_s = callers.slowest(), callers.back_after(slowed_at)
    measured.checked = tandem.await_no_more_than(before)


def test_a_model_that_is_unloaded_is_missed_until_it_is_there_again(tandem: Service, measured: Measured) -> None:
    wait_until(tandem.works, "all is well", TIMEOUT_S)
    before, triton = tandem.holds(), tandem.triton()
    model = tandem.repository / "tandem"
    with Callers(tandem).calling(CALLERS) as callers:
        wait_until(lambda: "200" in callers.seen(), "photos are answered")
        model.rename(tandem.repository.parent / "away")
        wait_until(lambda: set(callers.seen()) - {"200"} != set(), "it is missed", TIMEOUT_S)
        restored_at = time.monotonic()
        (tandem.repository.parent / "away").rename(model)
        wait_until(tandem.works, "it is back", TIMEOUT_S)
        wait_until(lambda: callers.outcomes[-1][1] == "200", "for the callers, too", TIMEOUT_S)
    callers.assert_only("200", AWAY, "503 contract-unreadable", "503 model-changed")
    assert tandem.triton() == triton, "a restart would not have helped"
    measured.fault = "the model is unloaded, then put back (back after: from then)"
    measured.seen, measured.slowest_s = callers.seen(), callers.slowest()
    measured.back_s = callers.back_after(restored_at)
    measured.checked = tandem.await_no_more_than(before)


def test_a_new_version_that_is_broken_changes_nothing(tandem: Service, measured: Measured) -> None:
    wait_until(tandem.works, "all is well", TIMEOUT_S)
    before, triton = tandem.holds(), tandem.triton()
    staged = tandem.repository.parent / "staged"
    with Callers(tandem).calling(CALLERS) as callers:
        wait_until(lambda: "200" in callers.seen(), "photos are answered")
        for number, break_it in ((2, True), (3, False)):
            write_version(staged, seed=number)
            if break_it:
                (staged / "model.pt").write_bytes(b"no TorchScript")
            staged.rename(tandem.repository / "tandem" / str(number))
        # Triton has passed the broken one over when the good one after it is live.
        wait_until(lambda: served_version(tandem) == "3", "version 3 is live", TIMEOUT_S)
    callers.assert_only("200")
    assert tandem.triton() == triton
    shutil.rmtree(tandem.repository / "tandem" / "2")
    measured.fault, measured.seen = "a broken new version is put into the repository", callers.seen()
    measured.slowest_s = callers.slowest()
    measured.checked = tandem.await_no_more_than(before)


def served_version(tandem: Service) -> str:
    answer = httpx.get(f"{tandem.url}/v1/model", headers=tandem.headers, timeout=TIMEOUT_S)
    return str(answer.json().get("version"))
