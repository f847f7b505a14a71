"""Memory stays within its limits: of each decoder, and of a service that gets everything at once."""

import asyncio
import base64
import io
import zipfile
from collections.abc import Callable

import httpx
import pytest
from PIL import Image

from service.faces.decode import open_photo

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


def picture(name: str) -> bytes:
    kind = name.partition(" ")[0]
    mode, options = PICTURES[name]
    sides = SIDES.get(kind, (4000, 3000))
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
        reckoned = photo.memory / 1024
        pixels = photo.decode()
    assert pixels.shape[2] == 3
    assert memory("VmHWM") - before <= reckoned + 8 * MIB


HELD, DECODING, WORKERS = 64, 200, 6
SLACK = 250
"""MiB for what the networks and the allocator take beside it: six threads look for faces at once."""


@pytest.fixture(scope="module")
def served(serve: Callable[..., Served]) -> Served:
    return serve(
        workers=WORKERS,
        max_waiting=100,
        request_timeout_s=120,
        upload_timeout_s=120,
        max_upload_bytes=16 * 1024 * 1024,
        max_batch_bytes=32 * 1024 * 1024,
        max_held_bytes=HELD * 1024 * 1024,
        max_pixels=12_000_000,
        max_decoding_bytes=DECODING * 1024 * 1024,
    )


@pytest.mark.anyio
async def test_a_hostile_mix_stays_within_the_limits(served: Served) -> None:
    small = encoded(Image.linear_gradient("L").resize((1500, 1500)), "JPEG")
    large = {
        f"image/{name.partition(' ')[0].lower()}": picture(name) for name in ("WEBP", "PNG of grey and alpha")
    }
    progressive = picture("JPEG progressive")
    halves = asyncio.Event()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(4):
            archive.writestr(f"{number}.jpg", progressive + bytes(6_000_000))

    async with httpx.AsyncClient(
        base_url=served.url, timeout=240, limits=httpx.Limits(max_connections=99)
    ) as client:

        async def post(content: object, kind: str, path: str = "/v1/emotions", **headers: str) -> httpx.Response:
            return await client.post(path, content=content, headers={"Content-Type": kind, **headers})

        async def half() -> object:
            yield bytes(8_000_000)
            await halves.wait()
            yield b"the rest"

        await asyncio.gather(*(post(small, "image/jpeg") for _ in range(2 * WORKERS)))
        before = served.memory_mib()
        slow = [asyncio.create_task(post(half(), "image/jpeg")) for _ in range(12)]  # 92 MiB, more than is held
        async with asyncio.timeout(60):
            while (refused := await post(bytes(16_000_000), "image/jpeg")).status_code != 503:
                await asyncio.sleep(0.05)  # till enough of the halves have come
        halves.set()
        await asyncio.gather(*slow)
        mix = [
            *(post(photo, kind) for kind, photo in large.items() for _ in range(3)),
            *(post(progressive, "image/jpeg") for _ in range(4)),
            post(progressive, "image/jpeg", Accept="image/png"),
            *(
                post(b'{"image":"' + base64.b64encode(bytes(11_000_000)) + b'"}', "application/json")
                for _ in range(4)
            ),
            post(buffer.getvalue(), "application/zip", "/v1/emotions/batch"),
        ]
        answers = await asyncio.gather(*mix)
        after = await post(small, "image/jpeg")

    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) >= 1
    assert "TANDEM_MAX_HELD_BYTES" in refused.json()["detail"]
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) <= {200, 415, 503}, [answer.text for answer in answers]
    assert statuses.count(200) >= 6, statuses
    assert after.status_code == 200
    grown = served.memory_mib() - before
    assert grown <= HELD + DECODING + SLACK, f"{grown:.0f} MiB"
