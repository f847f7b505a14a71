"""Invalid, oversized and endless HTTP is answered or closed, and the next request is served."""

import base64
import gzip
import http.client
import json
import re
import select
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack

import httpx
import pytest

from .conftest import Served
from .seeds import encoded, face

PHOTO = encoded(face(), "JPEG")
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def served(serve: Callable[..., Served]) -> Served:
    return serve(upload_timeout_s=2, max_upload_bytes=MIB, max_batch_bytes=2 * MIB)


def exchange(served: Served, sent: bytes, *, endless: bytes = b"") -> bytes:
    """Send bytes, then ``endless`` repeatedly until the service reacts or after 64 MiB; return the response."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
        received = b""
        try:
            connection.sendall(sent)
            for _ in range(64 * MIB // len(endless) if endless else 0):
                connection.sendall(endless)
                if select.select([connection], [], [], 0)[0]:
                    break
            while not _is_complete(received):
                part = connection.recv(65_536)
                if not part:
                    break
                received += part
        except (BrokenPipeError, ConnectionResetError):
            pass
        return received


def _is_complete(answer: bytes) -> bool:
    head, blank, body = answer.partition(b"\r\n\r\n")
    length = next((line.split(b":")[1] for line in head.lower().split(b"\r\n") if b"content-length" in line), b"")
    return bool(blank) and length.strip().isdigit() and len(body) >= int(length)


def request(head: str, body: bytes = b"") -> bytes:
    lines = f"POST /v1/emotions HTTP/1.1\r\nHost: t\r\n{head}".replace("\r\n", "\n").replace("\n", "\r\n")
    return lines.encode("latin-1") + b"\r\n\r\n" + body


def form(*parts: bytes, boundary: bytes = b"b") -> bytes:
    return b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + b"--" + boundary + b"--\r\n"


def field(filename: bytes) -> bytes:
    return b'Content-Disposition: form-data; name="image"; filename="' + filename + b'"\r\n\r\n' + PHOTO


BODIES: dict[str, tuple[str, bytes, int]] = {
    "two fields": ("multipart/form-data; boundary=b", form(field(b"a"), field(b"b")), 400),
    "an empty boundary": ('multipart/form-data; boundary=""', form(field(b"a")), 200),
    "two boundaries": ("multipart/form-data; boundary=c; boundary=b", form(field(b"a")), 0),
    "a boundary of 9 kB": ("multipart/form-data; boundary=" + "b" * 9000, form(field(b"a")), 400),
    "a file name with control characters": (
        "multipart/form-data; boundary=b",
        form(field(b"\x01\x1b[2J\x7f\0.jpg")),
        0,
    ),
    "a file name that is a path": ("multipart/form-data; boundary=b", form(field(b"../../etc/passwd")), 200),
    "a file name of 4 kB": ("multipart/form-data; boundary=b", form(field(b"a" * 4000)), 200),
    "a part header of 100 kB": (
        "multipart/form-data; boundary=b",
        form(b"X: " + b"x" * 100_000 + b"\r\n\r\n"),
        400,
    ),
    "a part with 10,000 headers": ("multipart/form-data; boundary=b", form(b"X: x\r\n" * 10_000 + b"\r\n"), 400),
    "10,000 parts": (
        "multipart/form-data; boundary=b",
        form(*[b'Content-Disposition: form-data; name="x"\r\n\r\n'] * 9999),
        400,
    ),
    "almost boundaries": (
        "multipart/form-data; boundary=bbbbbbbb",
        form(
            b'Content-Disposition: form-data; name="image"\r\n\r\n' + b"\r\n--bbbbbbb" * 90_000,
            boundary=b"bbbbbbbb",
        ),
        0,
    ),
    "nested JSON": ("application/json", b'{"image":' + b"[" * 900 + b"]" * 900 + b"}", 400),
    "more nested JSON": ("application/json", b'{"image":' * 100_000, 400),
    "large JSON": ("application/json", b'{"image":[' + b"[]," * 300_000 + b"[]]}", 400),
    "JSON in UTF-16": ("application/json", '{"image": "aaaa"}'.encode("utf-16"), 400),
    "JSON with two images": ("application/json", b'{"image": "aaaa", "image": "bbbb"}', 415),
    "JSON that is a number": ("application/json", b"1" * 100_000, 400),
    "a tab in the type": ("image/jp\teg", PHOTO, 200),
    "another type": ("text/html", PHOTO, 200),
    "another type and no photo": ("text/html", b"<html>", 415),
    "an endless preamble": ("multipart/form-data; boundary=b", b"-" * 900_000, 400),
    "percent signs": ("application/json", b'{"image":"' + b"%" * 900_000 + b'"}', 400),
}


@pytest.mark.parametrize("name", BODIES)
def test_invalid_bodies_are_answered(served: Served, name: str) -> None:
    kind, body, status = BODIES[name]
    answer = httpx.post(f"{served.url}/v1/emotions", content=body, headers={"Content-Type": kind}, timeout=60)
    assert answer.status_code == status or (not status and answer.status_code in (200, 400, 415)), answer.text
    if answer.status_code != 200:
        assert answer.headers["Content-Type"] == "application/problem+json"


def test_compressed_bodies_are_rejected(served: Served) -> None:
    bomb = gzip.compress(bytes(50 * MIB))
    for kind in ("image/jpeg", "application/json", "multipart/form-data; boundary=b"):
        headers = {"Content-Type": kind, "Content-Encoding": "gzip"}
        answer = httpx.post(f"{served.url}/v1/emotions", content=bomb, headers=headers, timeout=60)
        assert answer.json()["type"] == "urn:tandem:problem:unsupported-upload"


CHUNK = b"ffff\r\n" + bytes(0xFFFF) + b"\r\n"
RAW = {
    "endless chunks": (request("Content-Type: image/jpeg\nTransfer-Encoding: chunked"), CHUNK, (b"413",)),
    "a body longer than its length": (
        request("Content-Type: image/jpeg\nContent-Length: 10", PHOTO),
        b"",
        (b"400", b"415", b"422"),
    ),
    "a body shorter than its length": (
        request(f"Content-Type: image/jpeg\nContent-Length: {len(PHOTO) + 1}", PHOTO),
        b"",
        (b"408",),
    ),
    "two lengths": (
        request("Content-Type: image/jpeg\nContent-Length: 1\nContent-Length: 2", b"ab"),
        b"",
        (b"400",),
    ),
    "length and chunks": (
        request("Content-Type: image/jpeg\nContent-Length: 4\nTransfer-Encoding: chunked", b"0\r\n\r\n"),
        b"",
        (b"400",),
    ),
    "a negative length": (request("Content-Type: image/jpeg\nContent-Length: -1"), b"", (b"400",)),
    "a length of 30 digits": (
        request(f"Content-Type: image/jpeg\nContent-Length: {'9' * 30}"),
        b"",
        (b"400", b"413"),
    ),
    "a chunk of 2^64": (
        request("Content-Type: image/jpeg\nTransfer-Encoding: chunked", b"ffffffffffffffff1\r\n"),
        b"",
        (b"400",),
    ),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00" + bytes(500), b"", (b"400",)),
    "endless headers": (b"GET / HTTP/1.1\r\nHost: t\r\n", b"X-Flood: " + b"x" * 2000 + b"\r\n", (b"431", b"")),
    "an endless header": (b"GET / HTTP/1.1\r\nHost: t\r\nX: ", b"x" * 20_000, (b"431", b"")),
    "an endless request line": (b"GET /", b"x" * 20_000, (b"431", b"400", b"")),
    "an unfinished head": (b"GET / HTTP/1.1\r\nHost: t\r\n", b"", (b"408",)),
}


@pytest.mark.parametrize("name", RAW)
def test_invalid_http_is_answered_or_closed(served: Served, name: str) -> None:
    sent, endless, statuses = RAW[name]
    answer = exchange(served, sent, endless=endless)
    status = answer.split(b" ", 2)[1] if answer else b""
    assert status in statuses, answer[:300]
    photo = base64.b64encode(PHOTO).decode()
    next_answer = httpx.post(f"{served.url}/v1/emotions", json={"image": photo}, timeout=60)
    assert len(next_answer.json()["faces"]) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Request-ID", "a\x1b[2J"),
        ("X-Request-ID", 'a","level":"error'),
        ("X-Request-ID", "a" * 5000),
        ("X-Request-ID", "a\xff\xfe"),
        ("X-Request-ID", "a%0d%0aX-Injected: 1"),
        ("traceparent", "00-" + "a" * 32 + "-" + "b" * 16 + "-01\x0b{}"),
        ("traceparent", "01-" + "a" * 32 + "-" + "b" * 16 + "-01-" + "x" * 5000),
        ("User-Agent", '"}\x1b{"level":"error"'),
        ("X-Forwarded-For", '"}{"level":"error"'),
    ],
)
def test_headers_inject_nothing_into_answers_and_log(served: Served, name: str, value: str) -> None:
    before = len(served.log.read_text().splitlines())
    answer = exchange(served, request(f"Content-Type: image/jpeg\nContent-Length: 1\n{name}: {value}", b"x"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 415", b"HTTP/1.1 400")), head
    assert head.lower().count(b"x-request-id:") == 1
    assert not any(byte < 32 and byte not in (10, 13) for byte in head)
    problem = json.loads(body)
    assert f"x-request-id: {problem['request_id']}".encode() in head.lower()
    assert re.fullmatch(r"[A-Za-z0-9._:/+=-]{1,128}", problem["request_id"])
    records = [json.loads(line) for line in served.log.read_text().splitlines()[before:]]
    assert {record["level"] for record in records} <= {"info", "warning"}


def test_callers_cannot_multiply_the_metrics(served: Served) -> None:
    def series() -> int:
        return len(httpx.get(f"{served.url}/metrics", timeout=60).text.splitlines())

    def attack(number: int) -> None:
        connection.request(
            "GET" if number % 2 else f"METHOD{number}"[:3],
            f"/{number}/v1/emotions?x{number}=y",
            headers={"X-Forwarded-For": f"10.0.0.{number}", "X-Request-ID": str(number), "Host": f"h{number}"},
        )
        connection.getresponse().read()

    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    attack(0)
    attack(1)
    series()  # which is a route with series of its own
    before = series()
    for number in range(2, 202):
        attack(number)
    connection.close()
    assert series() <= before + 2


def test_500_idle_connections_keep_nobody_out(served: Served) -> None:
    with ExitStack() as stack:
        idle = [
            stack.enter_context(socket.create_connection(("127.0.0.1", served.port), timeout=60))
            for _ in range(500)
        ]
        for number, connection in enumerate(idle):
            connection.sendall(b"GET / HTTP/1.1\r\n" if number % 2 else b"")
        answer = httpx.post(
            f"{served.url}/v1/emotions", content=PHOTO, headers={"Content-Type": "image/jpeg"}, timeout=60
        )
        assert answer.status_code == 200
        for connection in idle:  # upload_timeout_s after they were opened
            assert connection.recv(65_536).startswith(b"HTTP/1.1 408")


def test_batches_whose_answers_are_not_read_hold_no_place(served: Served) -> None:
    files = [("images", (f"{number}.jpg", PHOTO)) for number in range(20)]
    body = httpx.Request("POST", served.url, files=files)
    head = f"Content-Type: {body.headers['Content-Type']}\nContent-Length: {len(body.read())}"
    sent = request(head, body.read()).replace(b"/v1/emotions ", b"/v1/emotions/batch ", 1)
    with ExitStack() as stack:
        for _ in range(2):  # as many as TANDEM_MAX_BATCHES
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(60)
            connection.connect(("127.0.0.1", served.port))
            connection.sendall(sent)
        ends_at = time.monotonic() + 60
        answer = httpx.post(f"{served.url}/v1/emotions/batch", files=files, timeout=60)
        while answer.status_code == 503 and time.monotonic() < ends_at:
            time.sleep(0.2)
            answer = httpx.post(f"{served.url}/v1/emotions/batch", files=files, timeout=60)
        assert len(answer.text.splitlines()) == 20


def test_the_service_survived_with_little_memory(served: Served) -> None:
    # It was sent 64 MiB in each of five ways, and 50 MiB compressed.
    assert served.process.poll() is None
    assert served.memory_mib() < 500
    records = [json.loads(line) for line in served.log.read_text().splitlines()]
    assert not [record for record in records if record["level"] == "error"]
