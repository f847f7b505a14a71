"""The routes with one form of body and of answer, with a real Triton."""

import json

import httpx
import pytest
from gateways import problem
from photos import astronaut, encoded
from zips import packed

pytestmark = pytest.mark.anyio

PHOTO = encoded(astronaut())
OCTETS = {"Content-Type": "application/octet-stream"}


async def test_photos_are_answered_as_on_the_route_with_all_forms(client: httpx.AsyncClient) -> None:
    expected = (await client.post("/v1/emotions", files={"image": PHOTO})).json()
    form = await client.post("/v1/emotions/form", files={"image": PHOTO}, headers={"Accept": "image/png"})
    raw = await client.post("/v1/emotions/raw", content=PHOTO, headers=OCTETS)
    assert form.json() == raw.json() == expected


@pytest.mark.parametrize(
    ("accept", "media_type", "start"),
    [
        ("*/*", "image/jpeg", b"\xff\xd8\xff"),
        ("image/png", "image/png", b"\x89PNG"),
        ("application/octet-stream", "application/octet-stream", b"\xff\xd8\xff"),
    ],
)
async def test_a_picture_is_a_jpeg_unless_accept_asks_for_more(
    client: httpx.AsyncClient, accept: str, media_type: str, start: bytes
) -> None:
    headers = {**OCTETS, "Accept": accept}
    response = await client.post("/v1/emotions/picture", content=PHOTO, headers=headers)
    assert response.headers["Content-Type"] == media_type
    assert response.content.startswith(start)


async def test_a_picture_cannot_be_json(client: httpx.AsyncClient) -> None:
    headers = {**OCTETS, "Accept": "application/json"}
    response = await client.post("/v1/emotions/picture", content=PHOTO, headers=headers)
    assert "image/webp" in problem(response, 406, "not-acceptable")


async def test_a_batch_is_one_document_in_the_order_of_the_upload(client: httpx.AsyncClient) -> None:
    photos = [("large.png", encoded(astronaut().resize((1500, 1500)), "PNG")), ("no.jpg", b"\xffno"), ("c", PHOTO)]
    form = await client.post("/v1/emotions/batch/form", files=[("images", photo) for photo in photos])
    archive = await client.post("/v1/emotions/batch/zip", content=packed(photos), headers=OCTETS)
    for response in (form, archive):
        assert response.headers["Content-Type"] == "application/json"
        lines = response.json()["photos"]
        assert [(line["index"], line["name"]) for line in lines] == [(0, "large.png"), (1, "no.jpg"), (2, "c")]
        assert [len(line.get("answer", {}).get("faces", ())) for line in lines] == [1, 0, 1]
        assert lines[1]["problem"]["type"] == "urn:tandem:problem:unsupported-photo"
    lines = (await client.post("/v1/emotions/batch", content=packed(photos), headers=OCTETS)).text.splitlines()
    assert (
        sorted((json.loads(line) for line in lines), key=lambda line: line["index"])[2] == form.json()["photos"][2]
    )


async def test_a_text_in_place_of_a_file_is_refused(client: httpx.AsyncClient) -> None:
    for text in ("null", "", "[1, 2]"):
        files = [("images", ("a.jpg", PHOTO)), ("images", (None, text))]
        response = await client.post("/v1/emotions/batch", files=files)
        assert repr(text) in problem(response, 400, "broken-upload")
    unnamed = await client.post("/v1/emotions/batch", files=[("images", (None, PHOTO))])
    assert len(json.loads(unnamed.text)["answer"]["faces"]) == 1


async def test_metrics_count_them_with_the_route_with_all_forms(client: httpx.AsyncClient) -> None:
    await client.post("/v1/emotions/raw", content=PHOTO, headers=OCTETS)
    await client.post("/v1/emotions/batch/zip", content=packed([("a", PHOTO)]), headers=OCTETS)
    lines = (await client.get("/metrics")).text.splitlines()
    counted = [line for line in lines if line.startswith("tandem_requests_total") and 'status="200"' in line]
    assert any('route="/v1/emotions"' in line for line in counted)
    assert any('route="/v1/emotions/batch"' in line for line in counted)
    assert not any("/raw" in line or "/zip" in line for line in counted)
