"""Memory stays within its limits: of each decoder, and of a service that gets everything at once."""

import asyncio
import base64
import io
import zipfile
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
from PIL import Image

from service.vision.decoding import open_photo

from .conftest import Served
from .seeds import encoded
from .trial import MAX_PIXELS, MIB, forget_peak, memory

SIDES = {"HEIF": (1600, 1200)}
"""The others have 12 Mpx; x265 would encode that for half a minute."""

PICTURES = {
    "JPEG": ("RGB", {}),
    "JPEG progressive": ("RGB", {"progressive": True, "subsampling": 0}),
    "JPEG progressive in CMYK": ("CMYK", {"progressive": True}),
    "PNG": ("RGBA", {"compress_level": 1}),
    "PNG of 1 bit": ("1", {}),
    "PNG of grey and alpha": ("LA", {"compress_level": 1}),
    "PNG of 16 bits": ("I;16", {"compress_level": 1}),
    "WEBP": ("RGB", {"method": 0}),
    "WEBP with alpha": ("RGBA", {"method": 0, "lossless": True, "quality": 0}),
    "HEIF": ("RGB", {}),
}


def picture(name: str, sides: tuple[int, int] = (4000, 3000)) -> bytes:
    kind = name.partition(" ")[0]
    mode, options = PICTURES[name]
    sides = SIDES.get(kind, sides)
    shades = Image.linear_gradient("L").resize(sides)
    if mode == "RGBA":
        image = Image.merge(mode, [shades] * 4)  # convert() would make it opaque
    elif mode == "LA":
        image = Image.merge(mode, [shades] * 2)
    else:
        image = shades.convert("RGB").convert(mode) if mode in ("RGB", "CMYK") else shades.convert(mode)
    return encoded(image, kind, **options)


@pytest.mark.parametrize("name", PICTURES)
def test_no_decoder_takes_more_than_is_reckoned_with(name: str) -> None:
    data = picture(name)
    before = forget_peak()
    with open_photo(data, max_pixels=MAX_PIXELS) as photo:
        reckoned = photo.decoding_bytes / 1024
        pixels = photo.decode()
    assert pixels.shape[2] == 3
    assert memory("VmHWM") - before <= reckoned + 8 * MIB


HELD, DECODING, WORKERS = 64, 320, 4
"""MiB of uploads, MiB of pixels (one photo of those below at a time), and processes that would like to decode."""

SLACK, BUFFERS = 170, 100
"""MiB for what else there is: networks, copies, the heap; and, for uploads alone, what of them is not read."""

REFUSED = 'tandem_requests_total{method="POST",route="/v1/emotions",status="503"}'

HALF = 8_000_000
"""Bytes of an upload that goes on later; eight are held at a time, at most."""

COPIES = WORKERS * 2 * HALF / 1024 / 1024
"""MiB of those that the processes read: as they came, and unpacked."""


@pytest.fixture(scope="module")
def served(serve: Callable[..., Served]) -> Served:
    return serve(
        workers=WORKERS,
        max_waiting=100,
        request_timeout_s=240,
        upload_timeout_s=120,
        max_upload_bytes=16 * 1024 * 1024,
        max_batch_bytes=32 * 1024 * 1024,
        max_held_bytes=HELD * 1024 * 1024,
        max_pixels=24_000_000,
        max_decoding_bytes=DECODING * 1024 * 1024,
    )


@pytest.fixture
async def client(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the service whose processes have all worked, and whose peak is forgotten."""
    small = encoded(Image.linear_gradient("L").resize((1500, 1500)), "JPEG")
    async with httpx.AsyncClient(
        base_url=served.url, timeout=240, limits=httpx.Limits(max_connections=99)
    ) as client:
        await asyncio.gather(*(post(client, small) for _ in range(2 * WORKERS)))
        served.forget_peak()
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


async def count_of_refused(client: httpx.AsyncClient) -> float:
    lines = (await client.get("/metrics")).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(REFUSED))


@pytest.mark.anyio
async def test_no_more_bytes_of_uploads_are_held_than_may_be(served: Served, client: httpx.AsyncClient) -> None:
    before, go_on, uploads = served.memory_mib(), asyncio.Event(), 36

    async def half() -> AsyncIterator[bytes]:
        yield bytes(HALF)
        await go_on.wait()
        yield b"the rest"

    answers = [asyncio.create_task(post(client, half())) for _ in range(uploads)]
    try:
        async with asyncio.timeout(60):
            while await count_of_refused(client) < uploads - HELD * 1024 * 1024 // HALF:
                await asyncio.sleep(0.1)
    finally:
        go_on.set()
    refused = [each for each in await asyncio.gather(*answers) if each.status_code == 503]
    assert uploads > len(refused) >= uploads - HELD * 1024 * 1024 // HALF
    for each in refused:
        assert int(each.headers["Retry-After"]) >= 1
        assert "TANDEM_MAX_HELD_BYTES" in each.json()["detail"]
    assert served.memory_mib() - before <= HELD + COPIES + BUFFERS


@pytest.mark.anyio
async def test_a_hostile_mix_stays_within_the_limits(served: Served, client: httpx.AsyncClient) -> None:
    """A photo for each process, each of which could decode at once, and much else."""
    names = ("JPEG progressive", "JPEG progressive in CMYK", "PNG of grey and alpha", "WEBP")
    photos = [(picture(name, (6000, 4000)), f"image/{name.partition(' ')[0].lower()}") for name in names]
    base64_of_zeros = b'{"image":"' + base64.b64encode(bytes(11_000_000)) + b'"}'
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        for number in range(4):
            zipped.writestr(f"{number}.jpg", photos[0][0] + bytes(6_000_000))
    before, arrived, all_arrived = served.memory_mib(), 0, asyncio.Event()

    async def together(photo: bytes) -> AsyncIterator[bytes]:
        nonlocal arrived
        yield photo[:-1]
        arrived += 1
        if arrived == WORKERS:
            all_arrived.set()
        await all_arrived.wait()
        yield photo[-1:]

    answers = await asyncio.gather(
        *(post(client, together(photo), kind) for photo, kind in photos * (WORKERS // len(photos)))
    )
    grown = served.memory_mib() - before
    assert [answer.status_code for answer in answers] == [200] * WORKERS, [answer.text for answer in answers]
    assert grown <= DECODING + SLACK, f"{grown:.0f} MiB"

    mix = [
        *(post(client, photo, kind) for photo, kind in photos),
        post(client, *photos[0], Accept="image/png"),
        *(post(client, base64_of_zeros, "application/json") for _ in range(4)),
        post(client, archive.getvalue(), "application/zip", "/v1/emotions/batch"),
    ]
    statuses = [answer.status_code for answer in await asyncio.gather(*mix)]
    assert set(statuses) <= {200, 415, 503}
    grown = served.memory_mib() - before
    assert grown <= HELD + DECODING + SLACK, f"{grown:.0f} MiB"
