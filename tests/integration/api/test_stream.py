"""``WS /v1/stream`` over a real socket, with a real Triton."""

import asyncio
import contextlib
import json
import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from photos import astronaut, encoded, tiles
from toy_model import write_repository
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect as connect_blocking

from service.api.app import create_app
from service.api.dependencies import AppState
from service.api_keys import create_key
from service.server.main import listen
from service.settings import Settings
from service.triton.server import LocalTriton

pytestmark = pytest.mark.anyio

PHOTO = encoded(astronaut())


@dataclass
class Served:
    """A listening gateway in the test's event loop."""

    port: int
    server: uvicorn.Server
    gateway: AppState

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v1/stream"

    @asynccontextmanager
    async def stream(self, query: str = "", **options: Any) -> AsyncIterator[ClientConnection]:
        async with connect(self.url + query, max_size=None, compression=None, **options) as stream:
            yield stream

    async def get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}") as client:
            return await client.get(path)


@asynccontextmanager
async def served(**settings: object) -> AsyncIterator[Served]:
    app = create_app(Settings(**{"workers": 1, **settings}))  # type: ignore[arg-type]
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on", ws_max_size=64 * 1024 * 1024))
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        # _serve, because serve would capture the test runner's signals.
        serving = asyncio.create_task(server._serve([listener]))
        await until(lambda: server.started or serving.done())
        try:
            yield Served(port, server, app.state.app_state)
        finally:
            server.should_exit = True
            await serving


@pytest.fixture(scope="module")
async def tandem(toy_triton: LocalTriton) -> AsyncIterator[Served]:
    """A gateway that the tests share; those of limits start their own."""
    async with served(triton_url=toy_triton.grpc_url) as tandem:
        yield tandem


async def until(condition: Any, timeout_s: float = 20.0) -> None:
    """Return as soon as the condition holds; fail if it does not in time."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


async def ask(stream: ClientConnection, frame: bytes | str) -> dict[str, Any]:
    await stream.send(frame)
    return await answer(stream)


async def answer(stream: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(30):
        body: dict[str, Any] = json.loads(await stream.recv())
    return body


async def closure(stream: ClientConnection) -> tuple[int, str]:
    """Return the code and reason of the service's close frame; skip other messages."""
    async with asyncio.timeout(30):
        with contextlib.suppress(ConnectionClosed):
            while True:
                await stream.recv()
        await stream.wait_closed()
    assert stream.close_code is not None
    return stream.close_code, stream.close_reason or ""


# answers


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
async def test_answers_a_frame_as_a_photo_is_answered(tandem: Served, kind: str) -> None:
    photo = encoded(astronaut(), kind)
    async with httpx.AsyncClient() as client:
        url = f"http://127.0.0.1:{tandem.port}/v1/emotions"
        expected = (await client.post(url, files={"image": photo}, timeout=60)).json()
    async with tandem.stream() as stream:
        body = await ask(stream, photo)
    assert (body.pop("frame"), body.pop("dropped")) == (1, 0)
    assert [face.pop("track") for face in body["faces"]] == [None]
    assert body == expected


async def test_numbers_the_frames(tandem: Served) -> None:
    async with tandem.stream() as stream:
        assert [(await ask(stream, PHOTO))["frame"] for _ in range(3)] == [1, 2, 3]


async def test_a_frame_without_a_face_has_none(tandem: Served) -> None:
    async with tandem.stream() as stream:
        assert (await ask(stream, encoded(astronaut().crop((300, 300, 500, 500)))))["faces"] == []


async def test_accepts_the_parameters_of_a_photo(tandem: Served) -> None:
    async with tandem.stream("?max_faces=2&fields=box,emotion") as stream:
        body = await ask(stream, encoded(tiles(2, 2)))
    assert [set(face) for face in body["faces"]] == [{"box", "emotion", "track"}] * 2


async def test_tracks_a_face_that_moves_and_smooths_it(tandem: Served) -> None:
    async with tandem.stream("?track=true") as raw, tandem.stream("?smooth=0.8") as smooth:
        first = encoded(astronaut().crop((0, 0, 400, 400)))
        then = encoded(astronaut().crop((40, 10, 440, 410)).point(lambda value: value // 2))
        before = (await ask(smooth, first))["faces"][0]
        assert before["emotions"] == (await ask(raw, first))["faces"][0]["emotions"]
        now, single = (await ask(smooth, then))["faces"][0], (await ask(raw, then))["faces"][0]
    assert before["track"] == now["track"] == single["track"] == 1
    assert single["box"]["x"] == pytest.approx(before["box"]["x"] - 40, abs=8)
    for label, probability in now["emotions"].items():
        expected = 0.8 * before["emotions"][label] + 0.2 * single["emotions"][label]
        assert probability == pytest.approx(expected, abs=1e-5)
    assert now["confidence"] == max(now["emotions"].values()) == now["emotions"][now["emotion"]]


async def test_the_newest_frame_wins(triton_home: Path, tmp_path: Path) -> None:
    repository = write_repository(tmp_path, work=60)  # slow enough that frames arrive during an inference
    with LocalTriton(home=triton_home, model_repository=repository) as triton:
        async with served(triton_url=triton.grpc_url) as tandem, tandem.stream() as stream:
            answers, last = [], 20
            for number in range(last):
                await stream.send(PHOTO if number < last - 1 else encoded(tiles(2, 1)))
            while not answers or answers[-1]["frame"] < last:
                answers.append(await answer(stream))
            metrics = (await tandem.get("/metrics")).text
    assert len(answers) < last / 2
    assert answers[-1]["dropped"] > 0
    # Each answer counts the frames dropped before it.
    before = 0
    for body in answers:
        assert body["frame"] == before + body["dropped"] + 1
        before = body["frame"]
    assert len(answers[-1]["faces"]) == 2
    dropped = sum(body["dropped"] for body in answers)
    assert f'tandem_frames_total{{outcome="dropped"}} {dropped:.1f}' in metrics
    assert f'tandem_frames_total{{outcome="answered"}} {len(answers):.1f}' in metrics


async def test_a_bad_frame_is_a_problem_and_the_stream_goes_on(tandem: Served) -> None:
    async with tandem.stream(additional_headers={"X-Request-ID": "mine"}) as stream:
        text = await ask(stream, b"This is a text.")
        broken = await ask(stream, PHOTO[:20_000])
        empty = await ask(stream, b"")
        assert len((await ask(stream, PHOTO))["faces"]) == 1
    assert text["type"] == "urn:tandem:problem:unsupported-photo"
    assert (text["status"], text["frame"], text["dropped"]) == (415, 1, 0)
    assert broken["type"] == "urn:tandem:problem:unreadable-photo"
    assert (broken["status"], broken["frame"]) == (422, 2)
    assert empty["status"] == 415
    assert text["request_id"] == broken["request_id"] == "mine"


async def test_goes_on_without_triton(toy_triton: LocalTriton) -> None:
    async with served(triton_url="127.0.0.1:9") as tandem, tandem.stream() as stream:
        body = await ask(stream, PHOTO)
        assert (body["type"], body["status"]) == ("urn:tandem:problem:triton-unavailable", 503)
        await tandem.gateway.triton.reconnect(toy_triton.grpc_url)
        assert len((await ask(stream, PHOTO))["faces"]) == 1


# closing


async def test_text_closes_with_1003(tandem: Served) -> None:
    async with tandem.stream() as stream:
        await stream.send("a frame")
        assert (await closure(stream))[0] == 1003


async def test_a_frame_too_big_closes_with_1009(toy_triton: LocalTriton) -> None:
    limit = 1024 * 1024
    async with served(triton_url=toy_triton.grpc_url, max_frame_bytes=limit) as tandem, tandem.stream() as stream:
        await stream.send(bytes(limit + 100_000))
        code, reason = await closure(stream)
    assert code == 1009
    assert "1.1 MiB; the limit is 1.0 MiB (TANDEM_MAX_FRAME_BYTES)" in reason


async def test_too_many_frames_a_second_close_with_1008(toy_triton: LocalTriton) -> None:
    async with served(triton_url=toy_triton.grpc_url, max_frames_per_s=5) as tandem, tandem.stream() as stream:
        with contextlib.suppress(ConnectionClosed):
            for _ in range(20):
                await stream.send(PHOTO)
        code, reason = await closure(stream)
    assert code == 1008
    assert "TANDEM_MAX_FRAMES_PER_S" in reason


async def test_silence_closes_with_1008(toy_triton: LocalTriton) -> None:
    async with served(triton_url=toy_triton.grpc_url, stream_idle_s=0.2) as tandem, tandem.stream() as stream:
        code, reason = await closure(stream)
    assert code == 1008
    assert "0.2 s (TANDEM_STREAM_IDLE_S)" in reason


@pytest.mark.parametrize(
    ("query", "start"),
    [
        ("?smooth=1", "smooth: "),
        ("?track=perhaps", "track: "),
        ("?trak=true", "trak: "),
        ("?max_faces=101", "max_faces is 101; the limit is 100 (TANDEM_MAX_FACES)"),
    ],
)
async def test_an_invalid_parameter_closes_with_1008(tandem: Served, query: str, start: str) -> None:
    async with tandem.stream(query) as stream:
        body = await answer(stream)
        assert body["type"] == "urn:tandem:problem:bad-parameter"
        assert body["detail"].startswith(start)
        assert "frame" not in body
        code, reason = await closure(stream)
    assert code == 1008
    assert body["detail"].startswith(reason)


async def test_a_stream_over_the_limit_closes_with_1013(toy_triton: LocalTriton) -> None:
    async with served(triton_url=toy_triton.grpc_url, max_streams=1) as tandem:
        async with tandem.stream() as first:
            await ask(first, PHOTO)
            assert "tandem_streams 1.0" in (await tandem.get("/metrics")).text
            async with tandem.stream() as second:
                assert (await answer(second))["type"] == "urn:tandem:problem:too-many-streams"
                code, reason = await closure(second)
                assert code == 1013
                assert "the limit is 1 (TANDEM_MAX_STREAMS)" in reason
            await ask(first, PHOTO)
        await until(lambda: len(tandem.gateway.streams) == 0)
        async with tandem.stream() as third:
            assert len((await ask(third, PHOTO))["faces"]) == 1


async def test_streams_close_with_1001_when_the_service_stops(toy_triton: LocalTriton) -> None:
    async with served(triton_url=toy_triton.grpc_url) as tandem, tandem.stream() as stream:
        await ask(stream, PHOTO)
        await tandem.gateway.streams.close()
        assert (await closure(stream))[0] == 1001
        async with tandem.stream() as late:
            assert (await answer(late))["type"] == "urn:tandem:problem:draining"
            assert (await closure(late))[0] == 1001


def test_sigterm_closes_the_streams_of_the_process_with_1001(toy_triton: LocalTriton) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")}
    environment |= {"TANDEM_PORT": "0", "TANDEM_TRITON_URL": toy_triton.grpc_url}
    command = [sys.executable, "-m", "service.cli", "serve"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout
            announced = re.search(r"http://([\d.:]+)", process.stdout.readline())
            assert announced
            with connect_blocking(f"ws://{announced[1]}/v1/stream") as stream:
                stream.send(PHOTO)
                assert json.loads(stream.recv(30))["frame"] == 1
                process.terminate()
                with pytest.raises(ConnectionClosed) as closed:
                    stream.recv(30)
            assert closed.value.rcvd
            assert closed.value.rcvd.code == 1001
            _, log = process.communicate(timeout=30)
            assert process.returncode == 0
            (line,) = [entry for entry in map(json.loads, log.splitlines()) if entry["message"] == "stream"]
            assert (line["code"], line["frames"], line["answered"], line["dropped"]) == (1001, 1, 1, 0)
        finally:
            process.kill()


async def test_a_page_of_another_site_is_refused(tandem: Served, toy_triton: LocalTriton) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with tandem.stream(origin="https://evil.example"):
            pass
    response = refused.value.response
    assert response.status_code == 403
    assert response.headers["Content-Type"] == "application/problem+json"
    assert json.loads(response.body or b"")["type"] == "urn:tandem:problem:foreign-origin"
    async with tandem.stream(origin=f"http://127.0.0.1:{tandem.port}") as stream:
        assert (await ask(stream, PHOTO))["frame"] == 1
    settings = {"triton_url": toy_triton.grpc_url, "cors_origins": ("https://shop.example",)}
    async with served(**settings) as other, other.stream(origin="https://shop.example") as stream:
        assert (await ask(stream, PHOTO))["frame"] == 1


HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


async def test_a_key_is_accepted_in_a_header_or_a_subprotocol(toy_triton: LocalTriton) -> None:
    key = create_key("page")
    async with served(triton_url=toy_triton.grpc_url, api_keys=(key.line,)) as tandem:
        with pytest.raises(InvalidStatus) as refused:
            async with tandem.stream():
                pass
        assert refused.value.response.status_code == 401
        assert b"urn:tandem:problem:unauthorized" in (refused.value.response.body or b"")
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{tandem.port}") as client:
            metrics = (await client.get("/metrics")).text
            assert 'tandem_rejected_total{reason="unauthorized"} 1.0' in metrics
            other = await client.get("/nowhere", headers=HANDSHAKE)
            assert other.status_code == 404
            assert other.json()["type"] == "urn:tandem:problem:not-found"
            assert other.headers["X-Request-ID"]
        async with tandem.stream(additional_headers={"X-API-Key": key.secret}) as stream:
            assert (await ask(stream, PHOTO))["frame"] == 1
        async with tandem.stream(subprotocols=["tandem.v1", f"tandem.key.{key.secret}"]) as stream:
            assert stream.subprotocol == "tandem.v1"
            assert (await ask(stream, PHOTO))["frame"] == 1


async def test_frames_count_towards_the_rate_limit(toy_triton: LocalTriton) -> None:
    limits = {"rate_limit": 3, "rate_window_s": 600}  # the stream itself is one of the three
    async with served(triton_url=toy_triton.grpc_url, **limits) as tandem, tandem.stream() as stream:
        assert [(await ask(stream, PHOTO)).get("status", 200) for _ in range(3)] == [200, 200, 429]


async def test_nothing_is_left_of_a_client_that_vanishes(
    toy_triton: LocalTriton, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(triton_url=toy_triton.grpc_url) as tandem:
        with caplog.at_level(logging.INFO, logger="tandem.requests"):
            stream = await connect(tandem.url, compression=None)
            await stream.send(PHOTO)
            await until(lambda: len(tandem.gateway.streams) == 1)
            stream.transport.abort()
            await until(lambda: len(tandem.gateway.streams) == 0)
            await until(lambda: any(record.message == "stream" for record in caplog.records))
        (record,) = [record for record in caplog.records if record.message == "stream"]
        assert record.fields["reason"] == "closed by the client"  # type: ignore[attr-defined]
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert (await tandem.get("/readyz")).status_code == 200


async def test_half_a_request_is_not_a_stream(tandem: Served) -> None:
    with socket.create_connection(("127.0.0.1", tandem.port)) as raw:
        raw.sendall(b"GET /v1/stream HTTP/1.1\r\nHost: x\r\n\r\n")
        raw.setblocking(False)
        loop = asyncio.get_running_loop()
        assert b" 404 " in await loop.sock_recv(raw, 4096)
