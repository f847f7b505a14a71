"""Batches, with a real Triton and real photos."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import httpx
import pytest
import worker_tasks
from gateways import gateway, post, problem
from photos import astronaut, encoded, oriented, png_bomb, tiles
from PIL import Image
from zips import packed

from service.api.app import create_app
from service.settings import MEBIBYTE, Settings
from service.triton.server import LocalTriton

pytestmark = pytest.mark.anyio

PHOTO = encoded(astronaut())


def mixed() -> tuple[list[tuple[str, bytes]], set[int]]:
    """Return 100 photos of many kinds, and the indices of five broken ones."""
    kinds = [
        encoded(astronaut().resize((256, 256))),
        encoded(astronaut().crop((100, 0, 356, 256)), "PNG"),
        encoded(astronaut().resize((300, 300)), "WEBP"),
        encoded(astronaut().resize((280, 280)), "HEIF"),
        oriented(astronaut().crop((0, 0, 400, 300)), 6),
        encoded(tiles(2, 1)),
        encoded(Image.new("RGB", (200, 150), "teal")),
    ]
    photos = [(f"folder/photo-{number}", kinds[number % len(kinds)]) for number in range(100)]
    broken = {
        3: b"",
        17: b"This is no photo.",
        42: PHOTO[:15_000],
        77: png_bomb(20_000),
        99: bytes(21 * MEBIBYTE),
    }
    for index, content in broken.items():
        photos[index] = (f"broken-{index}", content)
    return photos, set(broken)


async def send(client: httpx.AsyncClient, photos: list[tuple[str, bytes]], query: str = "") -> httpx.Response:
    return await client.post(f"/v1/emotions/batch{query}", files=[("images", photo) for photo in photos])


def lines(response: httpx.Response) -> list[dict[str, object]]:
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


@pytest.mark.parametrize("form", ["multipart", "zip"])
async def test_five_broken_photos_of_100_do_not_affect_the_others(client: httpx.AsyncClient, form: str) -> None:
    photos, broken = mixed()
    if form == "zip":
        headers = {"Content-Type": "application/zip"}
        response = await client.post("/v1/emotions/batch", content=packed(photos), headers=headers)
    else:
        response = await send(client, photos)
    answers = lines(response)
    assert sorted(line["index"] for line in answers) == list(range(100))
    assert all(line["name"] == photos[line["index"]][0] for line in answers)
    good = [line for line in answers if "answer" in line]
    bad = {line["index"]: line["problem"] for line in answers if "problem" in line}
    assert (len(good), len(bad)) == (95, 5)
    assert set(bad) == broken
    assert {index: (p["status"], p["type"].rpartition(":")[2]) for index, p in bad.items()} == {
        3: (400, "broken-upload"),
        17: (415, "unsupported-photo"),
        42: (422, "unreadable-photo"),
        77: (413, "photo-too-large"),
        99: (413, "upload-too-large"),
    }
    for line in good[:10]:
        alone = await post(client, photos[line["index"]][1])
        assert line["answer"] == alone.json()


async def test_lines_come_in_the_order_in_which_photos_are_done(toy_triton: LocalTriton) -> None:
    slow, quick = encoded(tiles(12, 12), quality=95), encoded(astronaut().resize((64, 64)))
    async with gateway(triton_url=toy_triton.grpc_url, workers=2) as client:
        answers = lines(await send(client, [("slow", slow), *[(f"quick-{n}", quick) for n in range(5)]]))
    assert answers[0]["name"] == "quick-0"
    assert {line["name"] for line in answers} == {"slow", *[f"quick-{n}" for n in range(5)]}


async def test_parameters_apply_to_each_photo(client: httpx.AsyncClient) -> None:
    photos = [("a", encoded(tiles(3, 1))), ("b", encoded(tiles(2, 1)))]
    answers = lines(await send(client, photos, "?max_faces=1&fields=emotion"))
    assert [list(line["answer"]["faces"][0]) for line in answers] == [["emotion"], ["emotion"]]
    assert [len(line["answer"]["faces"]) for line in answers] == [1, 1]


async def test_a_batch_waits_while_single_photos_go_first(toy_triton: LocalTriton) -> None:
    """With one worker and a short queue, a batch would fail at once if it did not wait."""
    async with gateway(triton_url=toy_triton.grpc_url, workers=1, max_waiting=2) as client:
        batch = asyncio.create_task(send(client, [(f"{n}", PHOTO) for n in range(12)]))
        singles = 0
        while not batch.done():
            response = await post(client, PHOTO)
            assert response.status_code == 200
            singles += 1
        answers = lines(await batch)
    assert singles >= 3
    assert all("answer" in line for line in answers)


async def test_a_batch_waits_only_for_so_long(
    toy_triton: LocalTriton, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(worker_tasks.__file__).parent))
    app = create_app(Settings(triton_url=toy_triton.grpc_url, workers=1, batch_patience_s=0.2))
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://tandem", timeout=60) as client,
    ):
        hold = partial(worker_tasks.hold, begun=tmp_path / "begun", go=tmp_path / "go")
        held = asyncio.create_task(app.state.app_state.queue.run(hold, b"", worker_tasks.parse_fields))
        (line,) = lines(await send(client, [("a", PHOTO)]))
        (tmp_path / "go").touch()
        await held
    assert line["problem"]["status"] == 503
    assert "0.2 s" in line["problem"]["detail"]
    assert "(TANDEM_BATCH_PATIENCE_S)" in line["problem"]["detail"]


async def test_the_number_of_batches_is_limited(toy_triton: LocalTriton) -> None:
    async with gateway(triton_url=toy_triton.grpc_url, max_batches=1) as client:
        first = asyncio.create_task(send(client, [(f"{n}", PHOTO) for n in range(8)]))
        await asyncio.sleep(0)
        responses = await asyncio.gather(*(send(client, [("a", PHOTO)]) for _ in range(2)))
        assert "the limit is 1 (TANDEM_MAX_BATCHES)" in problem(responses[-1], 503, "overloaded")
        assert len(lines(await first)) == 8
        problem(await client.post("/v1/emotions/batch", content=b"x"), 415, "unsupported-upload")
        assert len(lines(await send(client, [("a", PHOTO)]))) == 1


@pytest.mark.parametrize(
    ("content", "kind", "status", "slug", "named"),
    [
        (b"x", "text/plain", 415, "unsupported-upload", "text/plain"),
        (b'{"image": "AAAA"}', "application/json", 415, "unsupported-upload", "it looks like JSON"),
        (b"%PDF-1.7", "application/octet-stream", 415, "unsupported-upload", "it looks like a PDF document"),
        (b"no archive", "application/zip", 400, "broken-upload", "ZIP"),
        (packed([]), "application/zip", 400, "broken-upload", "no files"),
        (b"", "multipart/form-data; boundary=x", 400, "broken-upload", "cut off"),
        (b"--x--\r\n", "multipart/form-data", 400, "broken-upload", "boundary"),
        (packed([(f"{n}", b"") for n in range(101)]), "application/zip", 413, "too-many-photos", "101 files"),
    ],
)
async def test_refuses_a_batch_as_a_whole(
    client: httpx.AsyncClient, content: bytes, kind: str, status: int, slug: str, named: str
) -> None:
    response = await client.post("/v1/emotions/batch", content=content, headers={"Content-Type": kind})
    assert named in problem(response, status, slug)


async def test_bytes_decide_what_a_batch_is(client: httpx.AsyncClient) -> None:
    for kind in ("application/octet-stream", "application/x-www-form-urlencoded", "image/jpeg"):
        headers = {"Content-Type": kind}
        (line,) = lines(await client.post("/v1/emotions/batch", content=packed([("a", PHOTO)]), headers=headers))
        assert (line["name"], len(line["answer"]["faces"])) == ("a", 1)
        (line,) = lines(await client.post("/v1/emotions/batch", content=PHOTO, headers=headers))
        assert (line["name"], len(line["answer"]["faces"])) == ("", 1)


@pytest.mark.parametrize("field", ["image", "images[]", "images[0]", "image[a]"])
async def test_fields_may_be_written_as_lists(client: httpx.AsyncClient, field: str) -> None:
    text = f"data:image/jpeg;base64,{base64.b64encode(PHOTO).decode()}"
    answers = lines(
        await client.post(
            "/v1/emotions/batch", files=[(field, ("a", PHOTO)), (field, (None, text)), (field, ("b", ""))]
        )
    )
    assert {line["index"]: len(line.get("answer", {}).get("faces", [])) for line in answers} == {0: 1, 1: 1, 2: 0}


async def test_an_archive_in_a_form_is_told_where_it_goes(client: httpx.AsyncClient) -> None:
    for files in (
        [("a.jpg", PHOTO), ("a.zip", packed([("a", PHOTO)]))],
        [("a.zip", packed([("a", bytes(10**7))]))],
    ):
        detail = problem(await send(client, files), 415, "unsupported-upload")
        assert "field 'images' holds a ZIP archive ('a.zip')" in detail
        assert "as the body itself with Content-Type: application/zip" in detail


async def test_limits_apply_while_reading(toy_triton: LocalTriton) -> None:
    async with gateway(triton_url=toy_triton.grpc_url, max_batch_photos=2, max_batch_bytes=100_000) as client:
        response = await send(client, [(f"{n}", b"x") for n in range(3)])
        assert "2 photos (TANDEM_MAX_BATCH_PHOTOS)" in problem(response, 413, "too-many-photos")
        response = await send(client, [("a", bytes(150_000))])
        assert "the limit is 0.1 MiB (TANDEM_MAX_BATCH_BYTES)" in problem(response, 413, "upload-too-large")

        async def endless() -> AsyncIterator[bytes]:
            while True:
                yield bytes(10_000)

        response = await client.post(
            "/v1/emotions/batch", content=endless(), headers={"Content-Type": "application/zip"}
        )
        problem(response, 413, "upload-too-large")


async def test_without_triton_the_whole_batch_is_one_problem() -> None:
    async with gateway(triton_url="127.0.0.1:9") as client:
        problem(await send(client, [("a", PHOTO), ("b", PHOTO)]), 503, "triton-unavailable")
