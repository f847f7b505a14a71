"""Random requests to the whole HTTP interface get typed answers; the fuzzer notices answers that are not."""

import json
from collections.abc import Callable

import pytest

from .conftest import Served
from .http_answers import Wrong, outcomes
from .http_cases import KINDS, make
from .http_fuzz import SETTINGS, Fuzzer

CASES = 40
"""Of each kind."""


def test_every_answer_is_a_success_or_a_typed_problem(serve: Callable[..., Served]) -> None:
    served = serve(workers=2, **SETTINGS)
    report = Fuzzer(served.port, served.process.pid, seed=1).run(cases=CASES)
    assert not report.wrong, "\n".join([report.table(), *report.wrong])
    assert report.counts.keys() == KINDS.keys()
    assert served.process.poll() is None
    records = [json.loads(line) for line in served.log.read_text().splitlines()]
    assert not [record for record in records if record["level"] in ("error", "critical")]


@pytest.mark.parametrize("kind", KINDS)
def test_a_case_is_the_same_every_time(kind: str) -> None:
    assert make(kind, 1, 5) == make(kind, 1, 5)


def answer(head: str, body: str = "") -> bytes:
    return f"HTTP/1.1 {head}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def problem(slug: str, status: int = 400, *, stated: int = 400, request_id: str = "a") -> bytes:
    body = {"type": f"urn:tandem:problem:{slug}", "status": stated, "request_id": request_id}
    return answer(f"{status} X\r\nContent-Type: application/problem+json\r\nX-Request-ID: a", json.dumps(body))


UPGRADE = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


def test_proper_answers_have_outcomes() -> None:
    message = b'{"faces":[]}'
    stream = UPGRADE + b"\x81" + bytes([len(message)]) + message + b"\x88\x02\x03\xe8"
    received = answer("200 OK", "{}") + problem("bad-request") + stream
    assert list(outcomes(received, is_head=False)) == ["200", "400 bad-request", "frame 200", "closed 1000"]


WRONG = {
    "an untyped error": answer("500 Internal Server Error", "Internal Server Error"),
    "an internal error": problem("internal", 500, stated=500),
    "another status": problem("bad-request", stated=422),
    "another request id": problem("bad-request", request_id="b"),
    "a header that was injected": answer("200 OK\r\nX-A: \x1b[2J"),
    "a cut answer": answer("200 OK", "abc")[:-1],
    "no HTTP": b"hello",
    "a stream that ended with an internal error": UPGRADE + b"\x88\x02\x03\xf3",
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_answers_are_noticed(name: str) -> None:
    with pytest.raises(Wrong):
        list(outcomes(WRONG[name], is_head=False))
