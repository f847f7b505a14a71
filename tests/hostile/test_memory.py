"""Memory stays within limits: of each decoder, and of a service under many requests at once."""

import asyncio
import base64
import io
import select
import socket
import struct
import time
import zipfile
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack

import httpx
import pytest
from PIL import Image

from service.vision.decoding import open_photo

from .conftest import Served
from .seeds import encoded
from .trial import KIB_PER_MIB, MAX_PIXELS, memory, reset_peak

SIDES = {"HEIF": (1600, 1200), "AVIF": (2000, 1500)}
"""Smaller than the 12 Mpx of other formats, which x265 would take half a minute to encode."""

FORMATS = {
    "JPEG": ("RGB", {}),
    "JPEG progressive": ("RGB", {"progressive": True, "subsampling": 0}),
    "JPEG progressive in CMYK": ("CMYK", {"progressive": True}),
    "PNG": ("RGBA", {"compress_level": 1}),
    "PNG of 1 bit": ("1", {}),
    "PNG of gray and alpha": ("LA", {"compress_level": 1}),
    "PNG of 16 bits": ("I;16", {"compress_level": 1}),
    "WEBP": ("RGB", {"method": 0}),
    "WEBP with alpha": ("RGBA", {"method": 0, "lossless": True, "quality": 0}),
    "HEIF": ("RGB", {}),
    "AVIF": ("RGB", {"speed": 10}),
    "AVIF with alpha": ("RGBA", {"speed": 10, "subsampling": "4:4:4"}),
    "GIF": ("P", {"transparency": 3}),
    "BMP": ("RGB", {}),
    "TIFF": ("RGB", {}),
    "TIFF in one turned strip": ("RGBA", {"compression": "tiff_lzw", "strip_size": 2**28, "tiffinfo": {274: 6}}),
    "TIFF in JPEG": ("RGB", {"compression": "jpeg", "strip_size": 2**28}),
}


def photo_in(name: str, sides: tuple[int, int] = (4000, 3000)) -> bytes:
    kind = name.partition(" ")[0]
    mode, options = FORMATS[name]
    sides = SIDES.get(kind, sides)
    shades = Image.linear_gradient("L").resize(sides)
    if mode == "RGBA":
        image = Image.merge(mode, [shades] * 4)  # convert() would make the image opaque
    elif mode == "LA":
        image = Image.merge(mode, [shades] * 2)
    else:
        image = shades.convert("RGB").convert(mode) if mode in ("RGB", "CMYK") else shades.convert(mode)
    return encoded(image, kind, **options)


@pytest.mark.parametrize("name", FORMATS)
def test_decoders_stay_within_decoding_bytes(name: str) -> None:
    photo = photo_in(name)
    before = reset_peak()
    with open_photo(photo, max_pixels=MAX_PIXELS) as opened:
        limit_kib = opened.decoding_bytes / 1024
        pixels = opened.decode()
    assert pixels.shape[2] == 3
    assert memory("VmHWM") - before <= limit_kib + 8 * KIB_PER_MIB


UPLOADS_MIB = 64
DECODING_MIB = 320
"""Enough for one of the photos below at a time."""

WORKERS = 4

SLACK_MIB = 170
"""For networks, copies and the heap."""

BUFFERS_MIB = 100
"""For the unread parts of uploads."""

REJECTED_METRIC = 'tandem_requests_total{method="POST",route="/v1/emotions",status="503"}'

UPLOAD_BYTES = 8_000_000
"""Of an unfinished upload; at most eight are held at a time."""

COPIES_MIB = WORKERS * 2 * UPLOAD_BYTES / 1024 / 1024
"""For the copies of uploads in the workers."""


@pytest.fixture(scope="module")
def served(serve: Callable[..., Served]) -> Served:
    return serve(
        workers=WORKERS,
        max_waiting=100,
        request_timeout_s=240,
        upload_timeout_s=120,
        max_upload_bytes=16 * 1024 * 1024,
        max_batch_bytes=32 * 1024 * 1024,
        max_held_bytes=UPLOADS_MIB * 1024 * 1024,
        max_pixels=24_000_000,
        max_decoding_bytes=DECODING_MIB * 1024 * 1024,
    )


@pytest.fixture
async def client(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the service, after every worker has decoded a photo and the peak was reset."""
    small = encoded(Image.linear_gradient("L").resize((1500, 1500)), "JPEG")
    async with httpx.AsyncClient(
        base_url=served.url, timeout=240, limits=httpx.Limits(max_connections=99)
    ) as client:
        await asyncio.gather(*(post(client, small) for _ in range(2 * WORKERS)))
        served.reset_peak()
        yield client
        assert (await post(client, small)).status_code == 200


async def post(
    client: httpx.AsyncClient,
    content: bytes | AsyncIterator[bytes],
    kind: str = "image/jpeg",
    path: str = "/v1/emotions",
    **headers: str,
) -> httpx.Response:
    return await client.post(path, content=content, headers={"Content-Type": kind, **headers})


async def count_rejected(client: httpx.AsyncClient) -> float:
    lines = (await client.get("/metrics")).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(REJECTED_METRIC))


@pytest.mark.anyio
async def test_held_uploads_stay_within_their_limit(served: Served, client: httpx.AsyncClient) -> None:
    before, resume, uploads = served.memory_mib(), asyncio.Event(), 36

    async def pausing_upload() -> AsyncIterator[bytes]:
        yield bytes(UPLOAD_BYTES)
        await resume.wait()
        yield b"the rest"

    answers = [asyncio.create_task(post(client, pausing_upload())) for _ in range(uploads)]
    try:
        async with asyncio.timeout(60):
            while await count_rejected(client) < uploads - UPLOADS_MIB * 1024 * 1024 // UPLOAD_BYTES:
                await asyncio.sleep(0.1)
    finally:
        resume.set()
    rejected = [each for each in await asyncio.gather(*answers) if each.status_code == 503]
    assert uploads > len(rejected) >= uploads - UPLOADS_MIB * 1024 * 1024 // UPLOAD_BYTES
    for each in rejected:
        assert int(each.headers["Retry-After"]) >= 1
        assert "TANDEM_MAX_HELD_BYTES" in each.json()["detail"]
    assert served.memory_mib() - before <= UPLOADS_MIB + COPIES_MIB + BUFFERS_MIB


@pytest.mark.anyio
async def test_the_uploads_of_one_caller_leave_memory_for_others(client: httpx.AsyncClient) -> None:
    resume, uploads = asyncio.Event(), 12
    fit = UPLOADS_MIB * 1024 * 1024 * 2 // 3 // UPLOAD_BYTES
    rejected_before = await count_rejected(client)

    async def pausing_upload() -> AsyncIterator[bytes]:
        yield bytes(UPLOAD_BYTES)
        await resume.wait()
        yield b"the rest"

    greedy = [asyncio.create_task(post(client, pausing_upload())) for _ in range(uploads)]
    photo = photo_in("JPEG", (1000, 1000))
    try:
        async with asyncio.timeout(60):
            while await count_rejected(client) < rejected_before + uploads - fit:
                await asyncio.sleep(0.1)
        other = {"X-Forwarded-For": "203.0.113.9"}
        answer = await post(client, photo + bytes(UPLOAD_BYTES), **other)
        assert answer.status_code == 200, answer.text
    finally:
        resume.set()
    assert [each.status_code for each in await asyncio.gather(*greedy)].count(503) == uploads - fit


def _open_stream(port: int, handshake: bytes) -> socket.socket:
    """Open a stream; the callers of the tests before share the service for some seconds more."""
    for _ in range(60):
        stream = socket.create_connection(("127.0.0.1", port), timeout=30)
        stream.sendall(handshake)
        answer = stream.recv(1000)
        if b" 429 " not in answer:
            break
        stream.close()
        time.sleep(0.5)
    assert b" 101 " in answer
    return stream


def test_unfinished_frames_count_as_uploads(served: Served) -> None:
    handshake = (
        b"GET /v1/stream HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    frame_bytes, streams = 2 * 1024 * 1024, 30
    fit = UPLOADS_MIB * 1024 * 1024 * 2 // 3 // (frame_bytes - 1)
    with ExitStack() as stack:
        opened = []
        for _ in range(streams):
            opened.append(stack.enter_context(_open_stream(served.port, handshake)))
            opened[-1].sendall(b"\x82\xff" + struct.pack("!Q", frame_bytes) + bytes(4 + frame_bytes - 1))
        refused = []
        for stream in opened[fit:]:
            received = b""
            while len(received) < 4:
                received += stream.recv(65_536)
            refused.append(received.rpartition(b"\x03\xf5memory for uploads")[1])  # a close frame with 1013
        assert all(refused)
        assert not select.select(opened[:fit], [], [], 0)[0]


@pytest.mark.anyio
async def test_a_hostile_mix_stays_within_the_limits(served: Served, client: httpx.AsyncClient) -> None:
    """Send a photo per worker, so that all could decode at once, and then a mix of requests."""
    names = ("JPEG progressive", "JPEG progressive in CMYK", "PNG of gray and alpha", "WEBP")
    photos = [(photo_in(name, (6000, 4000)), f"image/{name.partition(' ')[0].lower()}") for name in names]
    base64_of_zeros = b'{"image":"' + base64.b64encode(bytes(11_000_000)) + b'"}'
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        for number in range(4):
            zipped.writestr(f"{number}.jpg", photos[0][0] + bytes(6_000_000))
    before, arrived, all_arrived = served.memory_mib(), 0, asyncio.Event()

    async def simultaneously(photo: bytes) -> AsyncIterator[bytes]:
        nonlocal arrived
        yield photo[:-1]
        arrived += 1
        if arrived == WORKERS:
            all_arrived.set()
        await all_arrived.wait()
        yield photo[-1:]

    answers = await asyncio.gather(
        *(post(client, simultaneously(photo), kind) for photo, kind in photos * (WORKERS // len(photos)))
    )
    growth = served.memory_mib() - before
    assert [answer.status_code for answer in answers] == [200] * WORKERS, [answer.text for answer in answers]
    assert growth <= DECODING_MIB + SLACK_MIB, f"{growth:.0f} MiB"

    mix = [
        *(post(client, photo, kind) for photo, kind in photos),
        post(client, *photos[0], Accept="image/png"),
        *(post(client, base64_of_zeros, "application/json") for _ in range(4)),
        post(client, archive.getvalue(), "application/zip", "/v1/emotions/batch"),
    ]
    statuses = [answer.status_code for answer in await asyncio.gather(*mix)]
    assert set(statuses) <= {200, 415, 503}
    growth = served.memory_mib() - before
    assert growth <= UPLOADS_MIB + DECODING_MIB + SLACK_MIB, f"{growth:.0f} MiB"
