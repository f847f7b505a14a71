"""The contents and formats of answers, with a real Triton."""

import base64
import io
import json

import httpx
import numpy as np
import pytest
from gateways import post, problem
from photos import astronaut, encoded, tiles
from PIL import Image, ImageFilter

from service.schemas import FACE_FIELDS

pytestmark = pytest.mark.anyio


async def only_face(client: httpx.AsyncClient, photo: Image.Image) -> dict[str, object]:
    (face,) = (await post(client, encoded(photo, "PNG"), "image/png")).json()["faces"]
    assert isinstance(face, dict)
    return face


async def test_a_portrait_is_doubted_only_for_its_probabilities(client: httpx.AsyncClient) -> None:
    face = await only_face(client, astronaut())
    # The probabilities of the toy model are close.
    assert (face["reliable"], face["unreliable_because"]) == (False, ["ambiguous"])
    assert face["pose"]["roll"] == pytest.approx(4, abs=5)
    assert face["pose"]["yaw"] == pytest.approx(0, abs=20)
    assert face["quality"]["size"] == min(face["box"]["width"], face["box"]["height"])
    assert 0.05 < face["quality"]["sharpness"] < 2
    assert 0.4 < face["quality"]["brightness"] < 0.9


async def test_roll_follows_the_photo(client: httpx.AsyncClient) -> None:
    upright = await only_face(client, astronaut())
    turned = await only_face(client, astronaut().rotate(-20, Image.Resampling.BICUBIC, center=(220, 120)))
    assert turned["pose"]["roll"] - upright["pose"]["roll"] == pytest.approx(20, abs=4)


@pytest.mark.parametrize(
    ("photo", "reason"),
    [
        (astronaut().filter(ImageFilter.GaussianBlur(7)), "blurred"),
        (astronaut().point(lambda value: value // 12), "dark"),
        (astronaut().resize((80, 80)).crop((10, 0, 60, 45)), "small"),
        (astronaut().crop((205, 0, 512, 400)), "cut_off"),
    ],
    ids=["blurred", "dark", "small", "cut_off"],
)
async def test_an_unreliable_face_has_a_reason(client: httpx.AsyncClient, photo: Image.Image, reason: str) -> None:
    face = await only_face(client, photo)
    assert face["reliable"] is False
    assert reason in face["unreliable_because"]


async def test_only_the_requested_fields_are_returned(client: httpx.AsyncClient) -> None:
    photo = encoded(astronaut())
    whole = (await post(client, photo)).json()
    assert set(whole["faces"][0]) == set(FACE_FIELDS) - {"crop"}
    some = (await post(client, photo, query="?fields=emotion,confidence")).json()
    assert some["faces"] == [{key: whole["faces"][0][key] for key in ("emotion", "confidence")}]
    assert some["image"] == whole["image"]


async def test_faces_are_cut_out_on_request(client: httpx.AsyncClient) -> None:
    for factor in (1, 4):  # a large photo is searched at a fraction of its size
        photo = astronaut().resize((512 * factor, 512 * factor))
        response = await post(client, encoded(photo, quality=95), query="?fields=box,crop")
        (face,) = response.json()["faces"]
        assert face.keys() == {"box", "crop"}
        head, _, content = face["crop"].partition(",")
        assert head == "data:image/jpeg;base64"
        box = face["box"]
        half = 0.65 * max(box["width"], box["height"])
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        with Image.open(io.BytesIO(base64.b64decode(content))) as cutout:
            assert cutout.format == "JPEG"
            assert cutout.size == pytest.approx((min(160, 2 * half),) * 2, abs=2)
            around = (x - half, y - half, x + half, y + half)
            expected = photo.resize(cutout.size, Image.Resampling.BOX, box=around)
            assert np.abs(np.asarray(cutout).astype(int) - np.asarray(expected)).mean() < 8


async def test_the_summary_counts_faces_by_emotion(client: httpx.AsyncClient) -> None:
    photo = encoded(tiles(2, 1))
    answer = (await post(client, photo)).json()
    emotions = [face["emotion"] for face in answer["faces"]]
    assert len(emotions) > 1
    assert answer["summary"] == {emotion: emotions.count(emotion) for emotion in emotions}
    assert (await post(client, photo, query="?fields=box")).json()["summary"] == answer["summary"]
    assert (await post(client, encoded(Image.new("RGB", (64, 64)), "PNG"), "image/png")).json()["summary"] == {}


async def test_an_unknown_field_is_named(client: httpx.AsyncClient) -> None:
    response = await post(client, encoded(astronaut()), query="?fields=emotion,age")
    assert "'age'" in problem(response, 422, "bad-parameter")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
async def test_mixed_answers_carry_both_formats(client: httpx.AsyncClient, kind: str) -> None:
    photo = encoded(astronaut())
    accept = f"multipart/mixed, image/{kind.lower()};q=0.5"
    response = await post(client, photo, query="?fields=emotion", Accept=accept)
    media_type, _, boundary = response.headers["Content-Type"].partition("; boundary=")
    assert media_type == "multipart/mixed"
    before, text, picture, after = response.content.split(f"--{boundary}".encode())
    assert (before, after) == (b"", b"--\r\n")
    head, _, body = text.partition(b"\r\n\r\n")
    assert b"Content-Type: application/json" in head
    assert json.loads(body) == (await post(client, photo, query="?fields=emotion")).json()
    head, _, body = picture.partition(b"\r\n\r\n")
    assert f"Content-Type: image/{kind.lower()}\r\n".encode() in head
    with Image.open(io.BytesIO(body[:-2])) as drawn:
        assert (drawn.format, drawn.size) == (kind, (512, 512))


@pytest.mark.parametrize("size", [(48, 48), (160, 160), (4000, 3000)])
async def test_draws_in_photos_of_any_size(client: httpx.AsyncClient, size: tuple[int, int]) -> None:
    photo = astronaut().crop((120, 0, 376, 256)).resize(size)
    response = await post(client, encoded(photo, quality=95), Accept="image/webp")
    with Image.open(io.BytesIO(response.content)) as drawn:
        assert drawn.size == size
        change = np.abs(np.asarray(drawn.convert("RGB")).astype(int) - np.asarray(photo)).max(axis=2) > 60
    assert 0.01 < change.mean() < 0.4
