"""Read what a service answers to any bytes, and say what is wrong with it."""

import json
import re
import select
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

PROBLEM_TYPE = "application/problem+json"
SLUG = re.compile(r"urn:tandem:problem:([a-z-]+)")

BUGS = ("internal", "photo-process-ended", "wrong-answer")
"""Problems that a caller cannot cause unless there is a bug."""

CLOSE_CODES = (1000, 1001, 1002, 1003, 1005, 1007, 1008, 1009, 1013)
"""How a stream may end; 1011 would be a bug."""

NO_PONG = b"keepalive ping timeout"
"""The reason why who answers no ping for 20 s is disconnected, with the code 1011."""

CLOSE, TEXT = 8, 1
"""Opcodes of frames (RFC 6455, section 5.2)."""

CLOSE_FRAME = bytes([0x80 | CLOSE])


class Wrong(Exception):
    """An answer that no caller should get."""


@dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def outcome(self) -> str:
        """The status, and the type of a problem.

        Raises:
            Wrong: it is an error without a proper problem, or one that a caller cannot cause.
        """
        if self.status < 400:
            return str(self.status)
        kind, identity = self.headers.get("content-type"), self.headers.get("x-request-id")
        if kind != PROBLEM_TYPE:
            raise Wrong(f"{self.status} with content type {kind!r}: {self.body[:200]!r}")
        problem = json.loads(self.body)
        slug = SLUG.fullmatch(problem["type"])
        if not slug or problem["status"] != self.status or problem["request_id"] != identity:
            raise Wrong(f"{self.status} with request id {identity!r}: {problem}")
        if slug[1] in BUGS:
            raise Wrong(f"{slug[1]}: {problem}")
        return f"{self.status} {slug[1]}"


def receive_all(connection: socket.socket, *, within_s: float, is_stream: bool = False) -> bytes:
    """Receive until the service closes the connection; end our side once nothing more comes.

    Args:
        connection: what is received from.
        within_s: how long the service may take to close it.
        is_stream: whether to end our side only after a close frame, because streams need both sides.

    Raises:
        Wrong: the connection is still open in the end.
    """
    received, ends_at, is_half_closed = bytearray(), time.monotonic() + within_s, False
    while time.monotonic() < ends_at:
        if not select.select([connection], [], [], 0.05)[0]:
            if received and not is_half_closed and (not is_stream or CLOSE_FRAME in received):
                is_half_closed = True
                try:
                    connection.shutdown(socket.SHUT_WR)
                except OSError:
                    return bytes(received)
            continue
        try:
            part = connection.recv(65_536)
        except OSError:
            return bytes(received)
        if not part:
            return bytes(received)
        received += part
    raise Wrong(f"not closed after {within_s:g} s; received {bytes(received[:200])!r}")


def outcomes(received: bytes, *, is_head: bool) -> Iterator[str]:
    """Yield the outcome of each HTTP answer, and of the stream behind a 101.

    Raises:
        Wrong: something is not as it should be.
    """
    while received:
        head, blank, rest = received.partition(b"\r\n\r\n")
        if not blank:
            raise Wrong(f"an answer without an end of its headers: {head[:200]!r}")
        status, headers = _parse_head(head)
        if status == 101:
            yield from stream_outcomes(rest)
            return
        if status < 200 or status in (204, 304) or (is_head and not rest.startswith(b"{")):
            body, received = b"", rest  # what is not HTTP gets a body, even if it began with HEAD
        else:
            body, received = _split_body(headers, rest)
        if status >= 200:
            yield Answer(status, headers, body).outcome if body else str(status)


def _parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    found = re.fullmatch(r"HTTP/1\.1 ([1-5]\d\d) ?[\x20-\x7e]*", first)
    if not found:
        raise Wrong(f"a status line {first[:200]!r}")
    headers: dict[str, str] = {}
    for line in lines:
        header = re.fullmatch(r"([A-Za-z0-9-]+): ?([\x20-\x7e]*)", line)
        if not header:
            raise Wrong(f"a header {line[:200]!r}")
        name = header[1].lower()
        if name in headers and name in ("content-type", "content-length", "x-request-id", "location"):
            raise Wrong(f"header {name} twice")
        headers[name] = header[2]
    return int(found[1]), headers


def _split_body(headers: dict[str, str], rest: bytes) -> tuple[bytes, bytes]:
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while True:
            size, _, rest = rest.partition(b"\r\n")
            length = int(size, 16)
            if len(rest) < length + 2:
                raise Wrong("an answer is cut off in its chunks")
            body, rest = body + rest[:length], rest[length + 2 :]
            if not length:
                return body, rest
    length = int(headers.get("content-length", "0"))
    if len(rest) < length:
        raise Wrong(f"an answer has {len(rest)} of {length} bytes")
    return rest[:length], rest[length:]


def stream_outcomes(frames: bytes) -> Iterator[str]:
    """Yield the outcome of each text message of a stream, and its close code.

    Raises:
        Wrong: a message is neither an answer nor a problem, or the code tells of a bug.
    """
    while len(frames) >= 2:
        opcode, length, start = frames[0] & 15, frames[1], 2
        if length >= 126:
            start = 4 if length == 126 else 10
            length = int.from_bytes(frames[2:start])
        content, frames = frames[start : start + length], frames[start + length :]
        if len(content) < length:
            return  # we stopped reading first
        if opcode == TEXT:
            message = json.loads(content)
            slug = SLUG.fullmatch(message["type"])[1] if "type" in message else ""  # type: ignore[index]
            if slug in BUGS or not (slug or "faces" in message):
                raise Wrong(f"a message {message}")
            yield f"frame {message.get('status', 200)} {slug}".strip()
        elif opcode == CLOSE:
            code = int.from_bytes(content[:2]) if content else 1005
            if code not in CLOSE_CODES and content[2:] != NO_PONG:
                raise Wrong(f"closed with {code} {content[2:]!r}")
            yield f"closed {code}"
