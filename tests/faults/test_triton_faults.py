"""Faults of Triton, injected while callers post photos."""

import shutil
import signal
import time
from collections.abc import Callable

import httpx
import pytest
from fault_table import FaultRow
from running_service import TIMEOUT_S, Callers, Service, await_end, kill
from toy_model import write_version
from waiting import wait_until

UNAVAILABLE = "503 triton-unavailable"
TOO_LATE = "504 deadline-exceeded"
OVERLOADED = "503 overloaded"

CALLERS = 3


@pytest.mark.parametrize(
    ("fault", "victim", "number"),
    [
        ("Triton is killed; the next one uses another port", Service.triton, signal.SIGKILL),
        ("Triton is frozen (SIGSTOP)", Service.triton, signal.SIGSTOP),
        ("the model's process (stub) is killed; Triton still reports ready", Service.stub, signal.SIGKILL),
        ("Triton's supervisor is killed, and Triton with it", Service.supervisor, signal.SIGKILL),
    ],
    ids=["killed", "frozen", "stub", "supervisor"],
)
def test_a_broken_triton_is_replaced(
    tandem: Service, row: FaultRow, fault: str, victim: Callable[[Service], int], number: int
) -> None:
    wait_until(tandem.works, "the service works", TIMEOUT_S)
    before, previous, files = tandem.resources(), tandem.triton(), tandem.shared_memory()
    with Callers(tandem).calling(CALLERS) as callers:
        wait_until(lambda: "200" in callers.counts(), "photos are answered")
        fault_at = time.monotonic()
        kill(victim(tandem), number)
        await_end([previous])
        wait_until(tandem.works, "a new Triton answers", TIMEOUT_S)
        wait_until(lambda: callers.outcomes[-1][1] == "200", "callers get answers", TIMEOUT_S)
    callers.assert_only("200", UNAVAILABLE, TOO_LATE, OVERLOADED)
    assert tandem.triton() != previous
    assert not any(path.exists() for path in files), "shared memory of the former Triton must be removed"
    row.fault, row.counts, row.slowest_s = fault, callers.counts(), callers.slowest()
    row.back_s = callers.back_after(fault_at)
    row.checked = tandem.await_released(before)


def test_a_slow_triton_is_not_restarted(tandem: Service, row: FaultRow) -> None:
    wait_until(tandem.works, "the service works", TIMEOUT_S)
    before, triton = tandem.resources(), tandem.triton()
    with Callers(tandem).calling(CALLERS) as callers:
        wait_until(lambda: "200" in callers.counts(), "photos are answered")
        slowed_at = time.monotonic()
        kill(triton, signal.SIGSTOP)
        try:
            wait_until(lambda: time.monotonic() - slowed_at > 1.2, "1.2 s have passed")
        finally:
            kill(triton, signal.SIGCONT)
        answered = len(callers.outcomes)
        wait_until(lambda: len(callers.outcomes) > answered + 2 * CALLERS, "waiting callers get answers")
    callers.assert_only("200")
    assert tandem.triton() == triton, "Triton must not be restarted"
    row.fault, row.counts = "Triton is slow: it pauses for 1.2 s", callers.counts()
    row.slowest_s, row.back_s = callers.slowest(), callers.back_after(slowed_at)
    row.checked = tandem.await_released(before)


def test_a_model_can_be_unloaded_and_put_back(tandem: Service, row: FaultRow) -> None:
    wait_until(tandem.works, "the service works", TIMEOUT_S)
    before, triton = tandem.resources(), tandem.triton()
    model = tandem.repository / "tandem"
    with Callers(tandem).calling(CALLERS) as callers:
        wait_until(lambda: "200" in callers.counts(), "photos are answered")
        model.rename(tandem.repository.parent / "unloaded")
        wait_until(lambda: set(callers.counts()) - {"200"} != set(), "the model is unavailable", TIMEOUT_S)
        restored_at = time.monotonic()
        (tandem.repository.parent / "unloaded").rename(model)
        wait_until(tandem.works, "the model is back", TIMEOUT_S)
        wait_until(lambda: callers.outcomes[-1][1] == "200", "callers get answers", TIMEOUT_S)
    callers.assert_only("200", UNAVAILABLE, "503 contract-unreadable", "503 model-changed")
    assert tandem.triton() == triton, "a restart would not help"
    row.fault = "the model is unloaded and put back (back after: from then)"
    row.counts, row.slowest_s = callers.counts(), callers.slowest()
    row.back_s = callers.back_after(restored_at)
    row.checked = tandem.await_released(before)


def test_a_broken_new_version_has_no_effect(tandem: Service, row: FaultRow) -> None:
    wait_until(tandem.works, "the service works", TIMEOUT_S)
    before, triton = tandem.resources(), tandem.triton()
    staged = tandem.repository.parent / "staged"
    with Callers(tandem).calling(CALLERS) as callers:
        wait_until(lambda: "200" in callers.counts(), "photos are answered")
        for number, break_it in ((2, True), (3, False)):
            write_version(staged, seed=number)
            if break_it:
                (staged / "model.onnx").write_bytes(b"not ONNX")
            staged.rename(tandem.repository / "tandem" / str(number))
        # When the good version after it is live, Triton has skipped the broken one.
        wait_until(lambda: served_version(tandem) == "3", "version 3 is live", TIMEOUT_S)
    callers.assert_only("200")
    assert tandem.triton() == triton
    shutil.rmtree(tandem.repository / "tandem" / "2")
    row.fault, row.counts = "a broken new version is added to the repository", callers.counts()
    row.slowest_s = callers.slowest()
    row.checked = tandem.await_released(before)


def served_version(tandem: Service) -> str:
    answer = httpx.get(f"{tandem.url}/v1/model", headers=tandem.headers, timeout=TIMEOUT_S)
    return str(answer.json().get("version"))
