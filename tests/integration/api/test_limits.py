"""``GET /v1/limits``."""

import pytest
from gateways import gateway

from service.vision.decoding import MEDIA_TYPES

pytestmark = pytest.mark.anyio


async def test_states_the_settings() -> None:
    settings = {
        "max_pixels": 12_345_678,
        "max_batch_photos": 7,
        "rate_limit": 9,
        "max_streams": 0,
        "max_faces": 11,
    }
    async with gateway(triton_url="127.0.0.1:9", **settings) as client:  # no Triton is needed
        limits = (await client.get("/v1/limits")).json()
    assert limits["photo"]["max_pixels"] == 12_345_678
    assert limits["photo"]["max_jpeg_pixels"] == 5 * 12_345_678
    assert limits["photo"]["max_bytes"] == 20 * 1024**2
    assert limits["batch"]["max_photos"] == 7
    assert limits["stream"]["max_concurrent"] == 0
    assert limits["rate"] == {"max_photos": 9, "window_s": 60, "max_concurrent": None}
    assert limits["max_faces"] == 11
    assert limits["formats"] == list(MEDIA_TYPES)
    assert "multipart/mixed" in limits["answer_formats"]
