"""Callers that leave, dawdle, do not listen or want everything."""

import socket
import time

import numpy as np
from harmed import TIMEOUT_S, Callers, Service, connections, everything, head, small_photo, status, tally
from measured import Measured
from photos import encoded
from PIL import Image
from waiting import wait_until

from service.api_keys import NewKey

MANY = 30


def test_callers_who_leave_in_mid_upload_leave_nothing(tandem: Service, measured: Measured) -> None:
    wait_until(tandem.works, "all is well", TIMEOUT_S)
    before = tandem.holds()
    left = tandem.metric('tandem_requests_total{method="POST",route="/v1/emotions",status="499"}')
    with connections(tandem, MANY) as opened:
        for each in opened:
            each.sendall(head(tandem, 100_000) + small_photo()[:4000])
        wait_until(
            lambda: tandem.holds()["requests"] >= before["requests"] + MANY, "all are being read", TIMEOUT_S
        )
    measured.checked = tandem.await_no_more_than(before)
    counted = tandem.metric('tandem_requests_total{method="POST",route="/v1/emotions",status="499"}') - left
    assert counted == MANY
    assert tandem.works()
    measured.fault, measured.seen = f"{MANY} callers leave in mid-upload", {"499 in log and metrics": int(counted)}


def test_slow_uploads_are_ended(tandem: Service, measured: Measured) -> None:
    wait_until(tandem.works, "all is well", TIMEOUT_S)
    before = tandem.holds()
    began = time.monotonic()
    with connections(tandem, MANY) as opened:
        beginnings = (b"", b"POST /v1/emotions HTTP/1.1\r\nHost: tandem\r\n", head(tandem, 100_000) + b"\xff\xd8")
        for number, each in enumerate(opened):
            each.sendall(beginnings[number % 3])
        with Callers(tandem).calling(1) as callers:  # the others are served meanwhile
            outcomes = [status(everything(each)) for each in opened]
        measured.slowest_s = time.monotonic() - began
    callers.assert_only("200")
    assert tally(outcomes) == {"408 slow-upload": MANY}
    measured.fault = f"{MANY} slow-loris callers: nothing, half a head, a body that does not come"
    measured.seen = {"200": len(callers.outcomes)} | tally(outcomes)
    measured.checked = tandem.await_no_more_than(before)


def test_a_caller_who_closes_its_sending_side_gets_the_answer(tandem: Service, measured: Measured) -> None:
    wait_until(tandem.works, "all is well", TIMEOUT_S)
    before = tandem.holds()
    photo = small_photo()
    with connections(tandem, 3) as opened:
        for each in opened:
            each.sendall(head(tandem, len(photo)) + photo)
            each.shutdown(socket.SHUT_WR)
        outcomes = [status(everything(each)) for each in opened]
    assert tally(outcomes) == {"200": 3}
    with connections(tandem, 3) as opened:
        for each in opened:
            each.sendall(head(tandem, len(photo)) + photo[:1000])
            each.shutdown(socket.SHUT_WR)
        cut = [status(everything(each)) for each in opened]
    assert tally(cut) == {"closed": 3}
    measured.fault = "half-closed sockets: 3 after the photo, 3 in the middle of it"
    measured.seen = tally(outcomes) | {"connection closed": 3}
    measured.checked = tandem.await_no_more_than(before)


def test_a_caller_who_does_not_read_is_cut_off(tandem: Service, measured: Measured) -> None:
    wait_until(tandem.works, "all is well", TIMEOUT_S)
    before = tandem.holds()
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), np.uint8)
    photo = encoded(Image.fromarray(noise), quality=50)
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.settimeout(TIMEOUT_S)
        deaf.connect(("127.0.0.1", tandem.port))
        deaf.sendall(head(tandem, len(photo), Accept="image/png") + photo)
        started = deaf.recv(1)  # the answer begins: some megabytes, of which no more is read
        assert started
        measured.checked = tandem.await_no_more_than(before)
    assert tandem.works()
    measured.fault = "a caller asks for a large picture and does not read it"
    measured.seen = {"connection closed": 1}


def test_one_key_cannot_keep_the_others_out(tandem: Service, keys: dict[str, NewKey], measured: Measured) -> None:
    wait_until(tandem.works, "all is well", TIMEOUT_S)
    before = tandem.holds()
    greedy, modest = (Callers(tandem, key=keys[name].secret) for name in ("greedy", "modest"))
    with greedy.calling(24, pause_s=0):
        wait_until(lambda: "503 overloaded" in greedy.seen(), "the line is full", TIMEOUT_S)
        with modest.calling(1):
            wait_until(lambda: modest.seen().get("200", 0) >= 5, "the other key is answered", TIMEOUT_S)
        seen = modest.seen()
    ended_at = time.monotonic()
    wait_until(tandem.works, "all is well at once", TIMEOUT_S)
    measured.back_s = time.monotonic() - ended_at
    greedy.assert_only("200", "503 overloaded", "429 too-many-requests")
    modest.assert_only("200", "503 overloaded")
    assert "429 too-many-requests" in greedy.seen()
    assert seen["200"] > seen.get("503 overloaded", 0), "most of what the modest one asks is answered"
    measured.fault = (
        "one key posts with 24 connections, another with one: what the latter saw (back after: the burst)"
    )
    measured.seen, measured.slowest_s = seen, modest.slowest()
    measured.checked = tandem.await_no_more_than(before)
