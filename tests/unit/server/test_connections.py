"""Connections of a real server on a small app: limits hold whatever is sent, and proper clients notice none."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pytest
import uvicorn

from service.budget import FairBudget
from service.observability.metrics import Metrics
from service.server.http_protocol import MAX_HEAD_BYTES, MAX_HEADERS, HttpProtocol
from service.server.websocket_protocol import MAX_FRAMES_AT_ONCE, FrameMeter, TooManyFrames, WebSocketProtocol

TIMEOUT_S = 0.5
MIB = 1024 * 1024
GET = b"GET /%d HTTP/1.1\r\nHost: t\r\n\r\n"
HANDSHAKE = (
    b"GET /stream HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class App:
    """Answers a request with its path once ``ready`` is set, and takes the messages of a WebSocket."""

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self.ready.set()
        self.started = 0
        self.reads_body = True
        self.size = 1
        self.frames = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            for _ in range(self.frames):
                await send({"type": "websocket.send", "bytes": b"x" * 100_000})
            while (await receive())["type"] != "websocket.disconnect":
                pass
            return
        self.started += 1
        while self.reads_body:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            if not message["more_body"]:
                break
        await self.ready.wait()
        body = scope["path"].encode() * self.size
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]}
        )
        await send({"type": "http.response.body", "body": body})


class Served:
    def __init__(self, app: App, port: int, server: uvicorn.Server, metrics: Metrics, memory: FairBudget) -> None:
        self.app, self.port, self.server, self.metrics, self.memory = app, port, server, metrics, memory

    @asynccontextmanager
    async def connection(
        self, *, receive_buffer: int = 0
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        client = socket.socket()
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", self.port))
        reader, writer = await asyncio.open_connection(sock=client, limit=4096 if receive_buffer else MIB)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    def held_bytes(self) -> int:
        return sum(len(connection._reader) for connection in self.server.server_state.connections)  # type: ignore[union-attr]

    async def until(self, condition: Callable[[], bool], *, within_s: float = 60) -> None:
        async with asyncio.timeout(within_s):
            while not condition():
                await asyncio.sleep(0.01)

    async def until_closed(self) -> None:
        await self.until(lambda: not self.server.server_state.connections)


PATIENT = pytest.mark.parametrize("served", [60], indirect=True)
"""For tests of callers who must not time out, however busy the machine is."""


@pytest.fixture
async def served(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    """The server; its time limit is the parameter."""
    monkeypatch.setattr("service.server.refusals.LINGER_S", 0.2)
    app, metrics = App(), Metrics()
    memory = FairBudget(3 * MIB, what="memory for uploads", setting="TANDEM_MAX_HELD_BYTES")
    options = {"timeout_s": getattr(request, "param", TIMEOUT_S), "metrics": metrics}
    config = uvicorn.Config(
        app,
        http=partial(HttpProtocol, **options),  # type: ignore[arg-type]
        ws=partial(WebSocketProtocol, **options, memory_for=lambda _scope: memory.part("caller")),  # type: ignore[arg-type]
        ws_max_size=MIB,
        log_config=None,
        lifespan="off",
        timeout_keep_alive=30,
        timeout_graceful_shutdown=300,
    )
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    task = asyncio.create_task(server._serve([listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    yield Served(app, listener.getsockname()[1], server, metrics, memory)
    app.ready.set()
    server.should_exit = True
    await task


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    async with asyncio.timeout(60):
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
        )
        return int(head.split()[1]), await reader.readexactly(length)


async def read_problem(reader: asyncio.StreamReader) -> tuple[int, str]:
    status, body = await read_answer(reader)
    return status, json.loads(body)["type"].removeprefix("urn:tandem:problem:")


async def flood(writer: asyncio.StreamWriter, data: bytes, total: int) -> None:
    """Send ``data`` again and again until nobody takes it for half a second."""
    try:
        for _ in range(total // len(data)):
            writer.write(data)
            async with asyncio.timeout(0.5):
                await writer.drain()
    except (TimeoutError, OSError):
        pass


@PATIENT
@pytest.mark.anyio
async def test_pipelined_requests_are_answered_in_order(served: Served) -> None:
    async with served.connection() as (reader, writer):
        writer.write(b"".join(GET % number for number in range(1000)))
        for number in range(1000):
            assert await read_answer(reader) == (200, b"/%d" % number)


@PATIENT
@pytest.mark.anyio
async def test_a_large_body_arrives_whole_with_the_next_request_behind_it(served: Served) -> None:
    chunks = b"".join(b"%x\r\n" % len(chunk) + chunk + b"\r\n" for chunk in [b"x" * 70_000] * 50)
    async with served.connection() as (reader, writer):
        writer.write(b"POST /a HTTP/1.1\r\nHost: t\r\nContent-Length: 5000000\r\n\r\n" + b"x" * 5_000_000)
        writer.write(b"POST /b HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
        writer.write(GET % 3)
        assert [await read_answer(reader) for _ in range(3)] == [(200, b"/a"), (200, b"/b"), (200, b"/3")]


@PATIENT
@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["head", "requests"])
async def test_nothing_is_read_while_an_answer_is_due(served: Served, kind: str) -> None:
    served.app.ready.clear()
    async with served.connection() as (reader, writer):
        writer.write(GET % 1)
        await served.until(lambda: served.app.started == 1)
        writer.write(b"GET / HTTP/1.1\r\nHost: t\r\n" if kind == "head" else b"")
        await flood(writer, b"X: " + b"x" * 8000 + b"\r\n" if kind == "head" else GET % 2 * 100, 64 * MIB)
        assert served.held_bytes() <= MIB // 4
        assert served.app.started == 1
        served.app.ready.set()
        assert await read_answer(reader) == (200, b"/1")
        expected = (431, "head-too-large") if kind == "head" else (200, b"/2")
        assert await (read_problem if kind == "head" else read_answer)(reader) == expected


@pytest.mark.anyio
async def test_unread_answers_stop_the_requests_and_then_the_connection(served: Served) -> None:
    served.app.size = 500_000
    async with served.connection(receive_buffer=4096) as (_reader, writer):
        await flood(writer, GET % 1 * 100, MIB)
        assert served.app.started < 20
        await served.until_closed()


BAD_REQUESTS = {
    "too many headers": (
        b"GET / HTTP/1.1\r\nHost: t\r\n" + b"".join(b"X-%d: x\r\n" % n for n in range(MAX_HEADERS)) + b"\r\n",
        (431, "head-too-large"),
    ),
    "a large head": (b"GET / HTTP/1.1\r\nHost: t\r\nX: " + b"x" * MAX_HEAD_BYTES, (431, "head-too-large")),
    "no HTTP": (b"\x16\x03\x01\x02\x00" + bytes(100), (400, "bad-request")),
    "a slow head": (b"GET / HTTP/1.1\r\nHost: t\r\n", (408, "slow-upload")),
    "a slow handshake": (HANDSHAKE[:-2], (408, "slow-upload")),
    "empty lines": (b"\r\n", (408, "slow-upload")),
    "CONNECT": (b"CONNECT t:80 HTTP/1.1\r\nHost: t\r\n\r\n", (400, "bad-request")),
    "an upgrade with a body": (
        HANDSHAKE.replace(b"GET", b"POST")[:-2] + b"Content-Length: 1000000\r\n\r\nabc",
        (400, "bad-request"),
    ),
    "an upgrade with chunks": (
        HANDSHAKE[:-2] + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n",
        (400, "bad-request"),
    ),
    "a handshake without a key": (HANDSHAKE.replace(b"Sec-WebSocket-Key", b"X"), (400, "bad-request")),
    "a handshake of version 7": (HANDSHAKE.replace(b"Version: 13", b"Version: 7"), (400, "bad-request")),
    "a handshake with a long header": (
        HANDSHAKE[:-2] + b"X: " + b"x" * 20_000 + b"\r\n\r\n",
        (400, "bad-request"),
    ),
    "chunks of one byte": (
        b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 50_000,
        (400, "broken-upload"),
    ),
    "chunks of eight bytes": (
        b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n" + b"8\r\nxxxxxxxx\r\n" * 50_000,
        (400, "broken-upload"),
    ),
    "chunks with extensions": (
        b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * 200_000,
        (400, "broken-upload"),
    ),
    "trailers": (
        b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: x\r\n" * 50_000,
        (400, "broken-upload"),
    ),
}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("name", "before"),
    [(name, "first") for name in BAD_REQUESTS]
    + [
        (name, before)
        for name in ("a large head", "a slow head", "an upgrade with a body", "chunks of one byte")
        for before in ("after an answer", "behind an answer")
    ],
)
async def test_bad_requests_are_told_so_and_ended(served: Served, name: str, before: str) -> None:
    sent, expected = BAD_REQUESTS[name]
    async with served.connection() as (reader, writer):
        if before != "first":
            if before == "behind an answer":
                served.app.ready.clear()
            writer.write(GET % 1 + (sent if before == "behind an answer" else b""))
            await served.until(lambda: served.app.started == 1)
            served.app.ready.set()
            assert await read_answer(reader) == (200, b"/1")
        if before != "behind an answer":
            writer.write(sent)
        assert await read_problem(reader) == expected
        await served.until_closed()
    value = served.metrics.registry.get_sample_value("tandem_rejected_total", {"reason": expected[1]})
    assert value == 1


@pytest.mark.anyio
async def test_an_unanswered_rest_of_a_body_is_not_awaited_for_long(served: Served) -> None:
    served.app.reads_body = False
    async with served.connection() as (reader, writer):
        writer.write(b"POST /1 HTTP/1.1\r\nHost: t\r\nContent-Length: 1000\r\n\r\nabc")
        assert await read_answer(reader) == (200, b"/1")
        await served.until_closed()
    async with served.connection() as (reader, writer):
        writer.write(b"POST /1 HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\n")
        assert await read_answer(reader) == (200, b"/1")
        writer.write(b"abc" + GET % 2)
        assert await read_answer(reader) == (200, b"/2")


def frame(opcode: int, data: bytes, *, final: bool = True) -> bytes:
    length = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + struct.pack("!H", len(data))
    return bytes([(0x80 if final else 0) | opcode]) + length + b"\0\0\0\0" + data


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    first, length = await reader.readexactly(2)
    return first & 15, await reader.readexactly(length)


async def opened(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(HANDSHAKE)
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 101 " in head


FLOODS: dict[str, bytes] = {
    "fragments": frame(2, b"a", final=False) + frame(0, b"x", final=False) * (5 * MAX_FRAMES_AT_ONCE),
    "empty fragments": frame(2, b"", final=False) + frame(0, b"", final=False) * (5 * MAX_FRAMES_AT_ONCE),
    "pings": frame(9, b"") * (5 * MAX_FRAMES_AT_ONCE),
    "pongs": frame(10, b"x" * 125) * (5 * MAX_FRAMES_AT_ONCE),
}


@pytest.mark.anyio
@pytest.mark.parametrize("name", FLOODS)
async def test_too_many_frames_close_the_stream(served: Served, name: str) -> None:
    async with served.connection() as (reader, writer):
        await opened(reader, writer)
        writer.write(FLOODS[name])
        opcode, data = 10, b""
        while opcode == 10:
            opcode, data = await read_frame(reader)
        assert (opcode, int.from_bytes(data[:2])) == (8, 1008)
        await served.until_closed()


@PATIENT
@pytest.mark.anyio
async def test_text_that_is_not_utf8_closes_the_stream_without_an_error_in_the_log(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    async with served.connection() as (reader, writer):
        await opened(reader, writer)
        writer.write(frame(1, b"\xff", final=False) + frame(0, b"a"))
        opcode, data = await read_frame(reader)
        assert (opcode, int.from_bytes(data[:2])) == (8, 1007)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@PATIENT
@pytest.mark.anyio
async def test_a_message_larger_than_allowed_closes_the_stream(served: Served) -> None:
    async with served.connection() as (reader, writer):
        await opened(reader, writer)
        writer.write(frame(2, b"", final=False) + frame(0, b"x" * 60_000, final=False) * 20)
        opcode, data = await read_frame(reader)
        assert (opcode, int.from_bytes(data[:2])) == (8, 1009)


@pytest.mark.anyio
@pytest.mark.parametrize("sent", [frame(2, b"x" * 60_000)[:-1], frame(2, b"x", final=False), b"\x82"])
async def test_an_unfinished_message_is_not_awaited_for_long(served: Served, sent: bytes) -> None:
    async with served.connection() as (reader, writer):
        await opened(reader, writer)
        writer.write(frame(2, b"whole") + sent)
        opcode, data = await read_frame(reader)
        assert (opcode, int.from_bytes(data[:2])) == (8, 1008)
        assert b"TANDEM_UPLOAD_TIMEOUT_S" in data
        await served.until_closed()
    assert served.memory.used == 0


@PATIENT
@pytest.mark.anyio
async def test_unfinished_messages_count_in_the_memory_for_uploads(served: Served) -> None:
    sent = b"".join(frame(2 if part == 0 else 0, b"x" * 50_000, final=False) for part in range(20))
    async with AsyncExitStack() as stack:
        codes = []
        for number in range(4):
            reader, writer = await stack.enter_async_context(served.connection())
            await opened(reader, writer)
            writer.write(sent)
            if number < 2:
                await served.until(lambda number=number: served.memory.used == (number + 1) * 1_000_000)
            else:
                opcode, data = await read_frame(reader)
                codes.append((opcode, int.from_bytes(data[:2])))
        assert codes == [(8, 1013)] * 2
    await served.until(lambda: served.memory.used == 0)


@PATIENT
@pytest.mark.anyio
async def test_a_message_that_the_app_has_taken_counts_no_more(served: Served) -> None:
    async with served.connection() as (reader, writer):
        await opened(reader, writer)
        writer.write(frame(2, b"x" * 50_000) * 20)
        for _ in range(20):
            writer.write(frame(2, b"x" * 50_000, final=False) + frame(9, b"ping") + frame(0, b"x" * 50_000))
        for _ in range(20):
            assert await read_frame(reader) == (10, b"ping")
        await served.until(lambda: served.memory.used == 0)


@PATIENT
@pytest.mark.anyio
async def test_proper_frames_in_any_pieces_are_read(served: Served) -> None:
    async with served.connection() as (reader, writer):
        await opened(reader, writer)
        sent = frame(2, b"x" * 60_000, final=False) + frame(0, b"x" * 200) + frame(9, b"ping")
        for byte in range(0, len(sent), 997):
            writer.write(sent[byte : byte + 997])
            await asyncio.sleep(0)
        assert await read_frame(reader) == (10, b"ping")


@pytest.mark.anyio
@pytest.mark.parametrize("frames", [0, 1000])
async def test_a_client_that_never_answers_does_not_delay_the_stop(served: Served, frames: int) -> None:
    served.app.frames = frames
    async with served.connection(receive_buffer=4096) as (reader, writer):
        await opened(reader, writer)
        for connection in list(served.server.server_state.connections):
            connection.shutdown()
        await served.until(lambda: not served.server.server_state.tasks)


@pytest.mark.anyio
async def test_a_client_that_reads_no_frames_is_cut_off(served: Served) -> None:
    served.app.frames = 1000
    async with served.connection(receive_buffer=4096) as (reader, writer):
        await opened(reader, writer)
        await flood(writer, frame(9, b"x" * 100) * 10, MIB)
        await served.until_closed()


def test_the_meter_counts_frames_however_they_are_cut() -> None:
    now = 0.0
    meter = FrameMeter(lambda: now)
    lengths = [0, 1, 125, 126, 300]
    sent = (
        b"".join(frame(2, b"x" * length) for length in lengths)
        + b"\x82\x7f"
        + struct.pack("!Q", 70_000)
        + b"x" * 70_000
    )
    for start in range(0, len(sent), 7):
        meter.count(sent[start : start + 7])
    assert meter._allowed == MAX_FRAMES_AT_ONCE - len(lengths) - 1
    with pytest.raises(TooManyFrames):
        meter.count(frame(9, b"") * MAX_FRAMES_AT_ONCE)
    now = 10.0
    meter.count(frame(9, b"") * 100)
