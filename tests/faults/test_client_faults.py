"""Faults of callers: they disconnect, are slow, do not read, or send too many requests."""

import socket
import time

import numpy as np
from fault_table import FaultRow
from photos import encoded
from PIL import Image
from running_service import (
    TIMEOUT_S,
    Callers,
    Service,
    connections,
    count_outcomes,
    head,
    read_to_end,
    small_photo,
    status,
)
from waiting import wait_until

from service.api_keys import NewKey

MANY = 30


def test_disconnects_during_uploads_release_everything(tandem: Service, row: FaultRow) -> None:
    wait_until(tandem.works, "the service works", TIMEOUT_S)
    before = tandem.resources()
    left = tandem.metric('tandem_requests_total{method="POST",route="/v1/emotions",status="499"}')
    with connections(tandem, MANY) as opened:
        for each in opened:
            each.sendall(head(tandem, 100_000) + small_photo()[:4000])
        wait_until(
            lambda: tandem.resources()["requests"] >= before["requests"] + MANY,
            "all uploads are being read",
            TIMEOUT_S,
        )
    row.checked = tandem.await_released(before)
    counted = tandem.metric('tandem_requests_total{method="POST",route="/v1/emotions",status="499"}') - left
    assert counted == MANY
    assert tandem.works()
    row.fault, row.counts = (
        f"{MANY} callers disconnect during the upload",
        {"499 in log and metrics": int(counted)},
    )


def test_slow_uploads_are_rejected(tandem: Service, row: FaultRow) -> None:
    wait_until(tandem.works, "the service works", TIMEOUT_S)
    before = tandem.resources()
    began = time.monotonic()
    with connections(tandem, MANY) as opened:
        beginnings = (b"", b"POST /v1/emotions HTTP/1.1\r\nHost: tandem\r\n", head(tandem, 100_000) + b"\xff\xd8")
        for number, each in enumerate(opened):
            each.sendall(beginnings[number % 3])
        with Callers(tandem).calling(1) as callers:  # other callers are served in the meantime
            outcomes = [status(read_to_end(each)) for each in opened]
        row.slowest_s = time.monotonic() - began
    callers.assert_only("200")
    assert count_outcomes(outcomes) == {"408 slow-upload": MANY}
    row.fault = f"{MANY} slow-loris callers: they send nothing, half of the headers, or half a body"
    row.counts = {"200": len(callers.outcomes)} | count_outcomes(outcomes)
    row.checked = tandem.await_released(before)


def test_half_closed_connections_get_their_answer(tandem: Service, row: FaultRow) -> None:
    wait_until(tandem.works, "the service works", TIMEOUT_S)
    before = tandem.resources()
    photo = small_photo()
    with connections(tandem, 3) as opened:
        for each in opened:
            each.sendall(head(tandem, len(photo)) + photo)
            each.shutdown(socket.SHUT_WR)
        outcomes = [status(read_to_end(each)) for each in opened]
    assert count_outcomes(outcomes) == {"200": 3}
    with connections(tandem, 3) as opened:
        for each in opened:
            each.sendall(head(tandem, len(photo)) + photo[:1000])
            each.shutdown(socket.SHUT_WR)
        cut = [status(read_to_end(each)) for each in opened]
    assert count_outcomes(cut) == {"closed": 3}
    row.fault = "half-closed connections: 3 after the photo, 3 in the middle of it"
    row.counts = count_outcomes(outcomes) | {"connection closed": 3}
    row.checked = tandem.await_released(before)


def test_a_caller_that_does_not_read_is_disconnected(tandem: Service, row: FaultRow) -> None:
    wait_until(tandem.works, "the service works", TIMEOUT_S)
    before = tandem.resources()
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), np.uint8)
    photo = encoded(Image.fromarray(noise), quality=50)
    with socket.socket() as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        silent.settimeout(TIMEOUT_S)
        silent.connect(("127.0.0.1", tandem.port))
        silent.sendall(head(tandem, len(photo), Accept="image/png") + photo)
        started = silent.recv(1)  # the first byte of some megabytes; the rest is never read
        assert started
        row.checked = tandem.await_released(before)
    assert tandem.works()
    row.fault = "a caller requests a large image and does not read it"
    row.counts = {"connection closed": 1}


def test_one_key_cannot_lock_out_the_others(tandem: Service, keys: dict[str, NewKey], row: FaultRow) -> None:
    wait_until(tandem.works, "the service works", TIMEOUT_S)
    before = tandem.resources()
    greedy, modest = (Callers(tandem, key=keys[name].secret) for name in ("greedy", "modest"))
    with greedy.calling(24, pause_s=0):
        wait_until(lambda: "503 overloaded" in greedy.counts(), "the queue is full", TIMEOUT_S)
        with modest.calling(1):
            wait_until(lambda: modest.counts().get("200", 0) >= 5, "the other key gets answers", TIMEOUT_S)
        counts = modest.counts()
    ended_at = time.monotonic()
    wait_until(tandem.works, "the service works", TIMEOUT_S)
    row.back_s = time.monotonic() - ended_at
    greedy.assert_only("200", "503 overloaded", "429 too-many-requests")
    modest.assert_only("200", "503 overloaded")
    assert "429 too-many-requests" in greedy.counts()
    assert counts["200"] > counts.get("503 overloaded", 0), "most requests of the modest key must succeed"
    row.fault = "one key uses 24 connections, another one: outcomes of the latter (back after: end of the burst)"
    row.counts, row.slowest_s = counts, modest.slowest()
    row.checked = tandem.await_released(before)
