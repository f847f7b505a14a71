"""The HTTP interface on real parts: a real Triton, real photos."""

import asyncio
import base64
import io
import logging
import os
import signal
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from unittest.mock import Mock, patch

import anyio
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from gateways import app_state_of, gateway, post, problem
from https_server import https_server, make_certificate
from photos import astronaut, encoded, oriented, png_bomb, tiles
from PIL import Image, ImageChops
from toy_model import TEMPLATE, write_repository
from waiting import wait_until

from service.api.uploads import by_url
from service.api.uploads.by_url import PhotoFetcher
from service.settings import MEBIBYTE
from service.triton.server import LocalTriton
from service.vision.alignment import crop_boxes, crop_faces
from service.vision.face_pipeline import FacePipeline
from service.vision.onnx import open_session
from service.workers import process as process_module

pytestmark = pytest.mark.anyio

GAP_S = 0.5
"""Pause between two requests, and again before the end of the first one's photo."""

LABELS = ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt"]


# answers


async def test_answers_the_face_in_a_photo(client: httpx.AsyncClient) -> None:
    response = await post(client, encoded(astronaut()))
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Cache-Control"] == "no-store"
    body = response.json()
    assert body["image"] == {"width": 512, "height": 512}
    assert body["model"] == {"name": "tandem", "version": "1"}
    (face,) = body["faces"]
    assert face["box"] == pytest.approx({"x": 178, "y": 63, "width": 90, "height": 113}, abs=12)
    assert 0.8 < face["detection_score"] <= 1
    marks = face["landmarks"]
    assert marks["left_eye"]["x"] < marks["nose"]["x"] < marks["right_eye"]["x"]
    assert marks["left_eye"]["y"] < marks["nose"]["y"] < marks["mouth_left"]["y"]
    assert list(face["emotions"]) == LABELS
    assert sum(face["emotions"].values()) == pytest.approx(1, abs=1e-5)
    assert face["confidence"] == max(face["emotions"].values()) == face["emotions"][face["emotion"]]


async def test_reports_how_long_each_stage_took(client: httpx.AsyncClient) -> None:
    timing = (await post(client, encoded(astronaut()))).headers["Server-Timing"]
    steps = dict(part.split(";dur=") for part in timing.split(", "))
    assert list(steps) == ["wait", "decode", "detect", "landmarks", "align", "triton"]
    assert all(float(milliseconds) >= 0 for milliseconds in steps.values())


async def test_the_three_forms_give_the_same_answer(client: httpx.AsyncClient) -> None:
    photo = encoded(astronaut())
    raw = await post(client, photo)
    form = await client.post("/v1/emotions", files={"image": ("x.jpg", photo)})
    text = await client.post("/v1/emotions", json={"image": base64.b64encode(photo).decode()})
    assert raw.json() == form.json() == text.json()


async def test_the_same_bytes_get_the_same_answer_whatever_else_is_read(local_triton: LocalTriton) -> None:
    """Faces of several photos share calls to Triton, in batches of any size; the answers must not show it."""
    photos = [encoded(astronaut()), encoded(tiles(3, 2)), encoded(tiles(2, 1), "PNG")]
    async with gateway(triton_url=local_triton.grpc_url, workers=1) as client:
        alone = [(await post(client, photo)).json() for photo in photos]
        together = await asyncio.gather(*(post(client, photo) for photo in photos * 3))
    assert [response.json() for response in together] == alone * 3


@pytest.mark.parametrize(("channels", "size"), [(1, 48), (3, 64)])
async def test_a_face_in_doubt_is_read_from_four_views_of_the_size_and_color_that_the_model_wants(
    triton_home: Path, tmp_path: Path, channels: int, size: int
) -> None:
    """The toy model, which is not trained, is never sure."""
    repository = write_repository(tmp_path, box_template="0.1,0.0,0.9,1.0", channels=channels, size=size)
    pixels = np.asarray(astronaut())
    faces = FacePipeline().find_faces(pixels)
    template = [[float(number) for number in point.split(",")] for point in TEMPLATE.split(";")]
    crop = partial(crop_faces, pixels, faces, template=template, size=(size, size), channels=channels)
    aligned = crop()
    boxed = partial(crop_boxes, *crop.args, **crop.keywords)(box_template=[0.1, 0, 0.9, 1])
    views = np.concatenate([aligned, aligned[..., ::-1], boxed, boxed[..., ::-1]])
    (expected,) = open_session((repository / "tandem" / "1" / "model.onnx").read_bytes()).run(
        None, {"face": views}
    )
    assert np.ptp(expected, axis=0).max() > 0.01, "one view would be noticed"
    with LocalTriton(home=triton_home, model_repository=repository) as triton:
        for more_views, answer in ((True, expected.mean(axis=0)), (False, expected[0])):
            async with gateway(triton_url=triton.grpc_url, more_views=more_views) as client:
                shown = (await client.get("/v1/model")).json()["crop"]
                (face,) = (await post(client, encoded(astronaut(), "PNG"), "image/png")).json()["faces"]
            np.testing.assert_allclose(list(face["emotions"].values()), answer, atol=1e-4)
            assert shown == {"width": size, "height": size, "channels": channels}
            assert face["reliable"] is False
            assert face["unreliable_because"] == ["ambiguous"]  # judged by the same gray crop in every case


async def test_all_faces_of_a_photo_are_one_request_to_triton(
    client: httpx.AsyncClient, toy_triton: LocalTriton
) -> None:
    photo = encoded(tiles(4, 3))
    with triton_grpc.InferenceServerClient(toy_triton.grpc_url) as triton:

        def served() -> tuple[int, int, int]:
            stats = triton.get_inference_statistics("tandem").model_stats[0]
            return stats.inference_stats.success.count, stats.execution_count, stats.inference_count

        before = served()
        response = await post(client, photo)
        await anyio.to_thread.run_sync(lambda: wait_until(lambda: served() != before, "Triton has counted it"))
        after = served()
    assert len(response.json()["faces"]) == 12
    assert np.subtract(after, before).tolist() == [1, 1, 12]


async def test_photos_in_the_queue_share_requests_to_triton(
    toy_triton: LocalTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.inference.micro_batcher.MAX_DELAY_S", 60)
    photos = [encoded(astronaut()), encoded(tiles(2, 1)), encoded(tiles(1, 3))] * 2
    async with gateway(triton_url=toy_triton.grpc_url, workers=1) as client:
        alone = [(await post(client, photo)).json() for photo in photos]
        with triton_grpc.InferenceServerClient(toy_triton.grpc_url) as triton:

            def served() -> tuple[int, int]:
                stats = triton.get_inference_statistics("tandem").model_stats[0]
                return stats.inference_stats.success.count, stats.inference_count

            def read() -> np.ndarray:
                return np.subtract(served(), before)

            before = served()
            answers = await asyncio.gather(*(post(client, photo) for photo in photos))
            await anyio.to_thread.run_sync(lambda: wait_until(lambda: read()[1] == 12, "Triton has counted them"))
            assert read()[0] < len(photos)
    for answer, expected in zip(answers, alone, strict=True):
        for face, other in zip(answer.json()["faces"], expected["faces"], strict=True):
            assert face["emotions"] == pytest.approx(other["emotions"], abs=1e-5)


async def test_more_faces_than_a_batch_are_split(
    triton_home: Path, tmp_path: Path, client: httpx.AsyncClient
) -> None:
    photo = encoded(tiles(4, 3))
    expected = (await post(client, photo)).json()
    repository = write_repository(tmp_path, max_batch_size=5)
    with LocalTriton(home=triton_home, model_repository=repository) as triton:
        async with gateway(triton_url=triton.grpc_url) as small:
            body = (await post(small, photo)).json()
    assert [face["emotion"] for face in body["faces"]] == [face["emotion"] for face in expected["faces"]]
    for face, other in zip(body["faces"], expected["faces"], strict=True):
        assert face["emotions"] == pytest.approx(other["emotions"], abs=1e-5)


async def test_parameters_select_faces(client: httpx.AsyncClient) -> None:
    photo = Image.new("RGB", (1000, 520))
    photo.paste(astronaut(), (0, 0))
    photo.paste(astronaut().resize((256, 256)), (600, 100))
    data = encoded(photo)
    both = (await post(client, data)).json()["faces"]
    assert len(both) == 2
    assert both[0]["box"]["width"] > both[1]["box"]["width"]
    assert (await post(client, data, query="?max_faces=1")).json()["faces"] == both[:1]
    assert (await post(client, data, query="?min_face_size=60")).json()["faces"] == both[:1]
    assert (await post(client, data, query="?min_face_size=500")).json()["faces"] == []
    assert (await post(client, data, query="?threshold=1")).json()["faces"] == []


async def test_a_photo_without_a_face_has_none(client: httpx.AsyncClient) -> None:
    response = await post(client, encoded(Image.effect_noise((640, 480), 20).convert("RGB")))
    assert response.status_code == 200
    assert response.json()["faces"] == []


async def test_one_pixel_is_a_photo_without_a_face(client: httpx.AsyncClient) -> None:
    response = await post(client, encoded(Image.new("RGB", (1, 1)), "PNG"), "image/png")
    assert response.status_code == 200
    assert response.json() == {
        "image": {"width": 1, "height": 1},
        "faces": [],
        "summary": {},
        "model": {"name": "tandem", "version": "1"},
    }


async def test_all_eight_orientations_give_the_same_face_in_upright_coordinates(client: httpx.AsyncClient) -> None:
    photo = astronaut().crop((0, 0, 512, 400))
    answers = [(await post(client, oriented(photo, number))).json() for number in range(1, 9)]
    for answer in answers:
        assert answer["image"] == {"width": 512, "height": 400}
        (face,) = answer["faces"]
        assert face["box"] == pytest.approx(answers[0]["faces"][0]["box"], abs=2)
        for name, point in face["landmarks"].items():
            assert point == pytest.approx(answers[0]["faces"][0]["landmarks"][name], abs=2)


FORMS = [
    "CMYK JPEG",
    "16-bit gray PNG",
    "PNG with alpha",
    "WebP",
    "HEIC",
    "gray JPEG",
    "AVIF",
    "GIF",
    "BMP",
    "TIFF",
]


@pytest.mark.parametrize("form", [*FORMS, "animated AVIF", "animated GIF", "TIFF of two pages"])
async def test_reads_less_common_formats(client: httpx.AsyncClient, form: str) -> None:
    photo = astronaut()
    turned = photo.rotate(180)
    gray = np.asarray(photo.convert("L")).astype(np.uint16) * 257
    data = {
        "CMYK JPEG": lambda: encoded(photo.convert("CMYK")),
        "16-bit gray PNG": lambda: encoded(Image.fromarray(gray), "PNG"),
        "PNG with alpha": lambda: encoded(photo.convert("RGBA"), "PNG"),
        "WebP": lambda: encoded(photo, "WEBP"),
        "HEIC": lambda: encoded(photo, "HEIF"),
        "gray JPEG": lambda: encoded(photo.convert("L")),
        **{kind: partial(encoded, photo, kind) for kind in ("AVIF", "GIF", "BMP", "TIFF")},
        "animated AVIF": lambda: encoded(photo, "AVIF", save_all=True, append_images=[turned]),
        "animated GIF": lambda: encoded(photo, "GIF", save_all=True, append_images=[turned]),
        "TIFF of two pages": lambda: encoded(photo, "TIFF", save_all=True, append_images=[turned]),
    }[form]()
    body = (await post(client, data, "image/png")).json()
    (face,) = body["faces"]
    assert face["box"] == pytest.approx({"x": 178, "y": 63, "width": 90, "height": 113}, abs=12)


@pytest.mark.parametrize(
    ("accept", "kind"), [("image/jpeg", "JPEG"), ("image/png", "PNG"), ("image/webp", "WEBP")]
)
async def test_draws_the_answer_if_an_image_is_requested(
    client: httpx.AsyncClient, accept: str, kind: str
) -> None:
    photo = encoded(astronaut(), "PNG")
    response = await post(client, photo, "image/png", Accept=accept)
    assert response.headers["Content-Type"] == accept
    assert response.headers["Vary"] == "Accept"
    assert "draw;dur=" in response.headers["Server-Timing"]
    with Image.open(io.BytesIO(response.content)) as drawn:
        assert (drawn.format, drawn.size) == (kind, (512, 512))
        change = np.abs(np.asarray(drawn.convert("RGB")).astype(int) - np.asarray(astronaut())).max(axis=2) > 60
    rows, columns = np.nonzero(change)
    assert 20 < rows.min() < 63
    assert rows.max() < 190
    assert columns.min() > 165
    assert columns.max() < 300


@pytest.mark.parametrize(("accept", "limit"), [("image/webp", "16,383"), ("image/jpeg", "65,500")])
async def test_a_picture_that_a_format_cannot_hold_is_refused(
    client: httpx.AsyncClient, accept: str, limit: str
) -> None:
    photo = encoded(Image.new("RGB", (65_520, 40), "gray"), "PNG")
    detail = problem(await post(client, photo, Accept=accept), 406, "not-acceptable")
    assert f"65,520 x 40 pixels, and {accept} allows {limit} a side; ask for image/png" in detail
    assert (await post(client, photo, Accept="image/png")).headers["Content-Type"] == "image/png"


async def test_health_and_model_answer_head(client: httpx.AsyncClient) -> None:
    for path in ("/livez", "/readyz/", "/v1/model", "/metrics"):
        response = await client.head(path)
        assert (response.status_code, response.content) == (200, b""), path


# refusals


@pytest.mark.parametrize(
    ("content", "status", "slug"),
    [
        (b"", 400, "broken-upload"),
        (b"This is a text, whatever its name.", 415, "unsupported-photo"),
        (encoded(astronaut())[:20_000], 422, "unreadable-photo"),
        (encoded(astronaut(), "JPEG2000"), 415, "unsupported-photo"),
        (b"GIF89a", 422, "unreadable-photo"),
        (b"\x89PNG\r\n\x1a\n", 422, "unreadable-photo"),
    ],
    ids=["empty", "text", "truncated", "JPEG 2000", "GIF header", "PNG header"],
)
async def test_refuses_what_is_not_a_photo(
    client: httpx.AsyncClient, content: bytes, status: int, slug: str
) -> None:
    detail = problem(await post(client, content), status, slug)
    if slug == "unsupported-photo":
        assert "not a photo in JPEG, PNG, WebP, HEIC, AVIF, GIF, BMP or TIFF; it looks like " in detail


async def test_a_bomb_is_refused_by_its_header(client: httpx.AsyncClient) -> None:
    bomb = png_bomb(20_000)
    assert len(bomb) < 100_000
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = peak_memory()
    detail = problem(await post(client, bomb, "image/png"), 413, "photo-too-large")
    assert "20,000 x 20,000 = 400.0 Mpx; the limit is 50.0 Mpx (TANDEM_MAX_PIXELS)" in detail
    assert peak_memory() - before < 20 * MEBIBYTE


def peak_memory() -> int:
    """Return the peak memory of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


async def test_an_upload_of_25_megabytes_is_refused(client: httpx.AsyncClient) -> None:
    upload = bytes(25 * MEBIBYTE)
    detail = problem(await post(client, upload), 413, "upload-too-large")
    assert "25.0 MiB; the limit is 20.0 MiB (TANDEM_MAX_UPLOAD_BYTES)" in detail
    problem(await client.post("/v1/emotions", files={"image": upload}), 413, "upload-too-large")


async def test_refuses_a_form_without_the_field(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/emotions", files={"photo": encoded(astronaut())})
    detail = problem(response, 400, "broken-upload")
    assert "'image'" in detail
    assert "'photo'" in detail


async def test_refuses_another_content_type(client: httpx.AsyncClient) -> None:
    detail = problem(await post(client, b"x", "text/plain"), 415, "unsupported-upload")
    assert "text/plain" in detail
    assert "JPEG, PNG, WebP" in detail


async def test_refuses_json_that_is_not_base64(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/emotions", json={"image": "not base64!"})
    assert "'image'" in problem(response, 400, "broken-upload")


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("?max_faces=0", "max_faces"),
        ("?max_faces=many", "max_faces"),
        ("?min_face_size=-1", "min_face_size"),
        ("?min_face_size=nan", "min_face_size"),
        ("?threshold=1.1", "threshold"),
        ("?treshold=0.5", "treshold"),
    ],
)
async def test_refuses_invalid_parameters(client: httpx.AsyncClient, query: str, parameter: str) -> None:
    response = await post(client, encoded(astronaut()), query=query)
    assert problem(response, 422, "bad-parameter").startswith(f"{parameter}: ")
    assert [error["parameter"] for error in response.json()["errors"]] == [parameter]


async def test_refuses_more_faces_than_the_limit(client: httpx.AsyncClient) -> None:
    response = await post(client, encoded(astronaut()), query="?max_faces=101")
    detail = problem(response, 422, "bad-parameter")
    assert "101; the limit is 100 (TANDEM_MAX_FACES)" in detail


async def test_refuses_to_answer_in_another_format(client: httpx.AsyncClient) -> None:
    response = await post(client, encoded(astronaut()), Accept="image/gif")
    assert "application/json, image/jpeg" in problem(response, 406, "not-acceptable")


async def test_routing_errors_are_problems(client: httpx.AsyncClient) -> None:
    assert "/docs" in problem(await client.get("/v2"), 404, "not-found")
    assert problem(await client.get("/v1/emotions"), 405, "method-not-allowed").endswith("; use POST")


async def test_a_slow_upload_and_a_slow_triton_share_one_deadline(toy_triton: LocalTriton) -> None:
    """The request that came first times out first, however late its photo arrives."""
    photo, ended, begun, sent = encoded(astronaut()), list[str](), asyncio.Event(), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield photo[:1000]
        begun.set()
        await sent.wait()
        await asyncio.sleep(GAP_S)
        yield photo[1000:]

    async def quickly() -> AsyncIterator[bytes]:
        yield photo
        sent.set()

    async with gateway(triton_url=toy_triton.grpc_url, upload_timeout_s=4, request_timeout_s=5) as client:
        assert (await post(client, photo)).status_code == 200

        async def ask(name: str, body: AsyncIterator[bytes]) -> None:
            answer = await client.post("/v1/emotions", content=body, headers={"Content-Type": "image/jpeg"})
            problem(answer, 504, "deadline-exceeded")
            ended.append(name)

        os.kill(toy_triton.pid, signal.SIGSTOP)
        try:
            first = asyncio.create_task(ask("first", slowly()))
            await begun.wait()
            await asyncio.sleep(GAP_S)
            await asyncio.gather(first, ask("second", quickly()))
        finally:
            os.kill(toy_triton.pid, signal.SIGCONT)
    assert ended == ["first", "second"]


# other routes


async def test_is_ready_when_an_inference_works(client: httpx.AsyncClient) -> None:
    assert (await client.get("/livez")).json() == {"status": "alive"}
    response = await client.get("/readyz")
    assert response.json() == {"status": "ready", "model": {"name": "tandem", "version": "1"}}


async def test_is_not_ready_without_a_worker_process(
    toy_triton: LocalTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gateway(triton_url=toy_triton.grpc_url, workers=1) as client:
        used = 'tandem_photo_process_cpu_seconds_total{process="0"}'
        assert used in (await client.get("/metrics")).text
        with monkeypatch.context() as patch:
            patch.setattr(process_module, "_spawn", Mock(side_effect=OSError("no memory")))
            (process,) = app_state_of(client).queue._pool.pids()
            assert process
            os.kill(process, signal.SIGKILL)
            response = await until(client, 503)
            problem(response, 503, "no-photo-process")
            assert used not in (await client.get("/metrics")).text
        await until(client, 200)
        assert used in (await client.get("/metrics")).text
        assert (await post(client, encoded(astronaut()))).status_code == 200


async def until(client: httpx.AsyncClient, status: int) -> httpx.Response:
    """Ask /readyz until it answers with this status."""
    async with asyncio.timeout(30):
        while (response := await client.get("/readyz")).status_code != status:
            await asyncio.sleep(0.05)
    return response


async def test_describes_the_model(client: httpx.AsyncClient) -> None:
    body = (await client.get("/v1/model")).json()
    assert body["labels"] == LABELS
    assert body["crop"] == {"width": 48, "height": 48, "channels": 1}
    assert body["provenance"]["commit"] == "toy"


async def test_a_photo_that_would_miss_its_deadline_is_refused_unread(toy_triton: LocalTriton) -> None:
    read: list[bytes] = []

    async def upload() -> AsyncIterator[bytes]:
        read.append(encoded(astronaut()))
        yield read[0]

    async with gateway(triton_url=toy_triton.grpc_url, workers=1) as client:
        queue = app_state_of(client).queue
        queue._record(1000)  # as if recent photos had taken so long
        with queue.admit():
            response = await client.post("/v1/emotions", content=upload())
        assert "(TANDEM_REQUEST_TIMEOUT_S)" in problem(response, 503, "overloaded")
        assert not read
        metrics = (await client.get("/metrics")).text
        assert 'tandem_requests_total{method="POST",route="/v1/emotions",status="503"} 1.0' in metrics
        assert (await post(client, encoded(astronaut()))).status_code == 200


async def test_metrics_count_what_happened(toy_triton: LocalTriton) -> None:
    async with gateway(triton_url=toy_triton.grpc_url) as client:
        await post(client, encoded(tiles(2, 1)))
        await post(client, b"no photo")
        text = (await client.get("/metrics")).text
    assert 'tandem_requests_total{method="POST",route="/v1/emotions",status="200"} 1.0' in text
    assert 'tandem_rejected_total{reason="unsupported-photo"} 1.0' in text
    assert "tandem_faces_per_photo_sum 2.0" in text
    assert 'tandem_stage_seconds_count{route="/v1/emotions",stage="triton"} 1.0' in text
    assert 'tandem_model_info{name="tandem",version="1"} 1.0' in text


async def test_has_api_docs(client: httpx.AsyncClient) -> None:
    response = await client.get("/docs")
    assert response.status_code == 200
    assert "swagger-ui" in response.text
    assert (await client.get("/openapi.json")).json()["info"]["title"] == "Tandem"


async def test_nothing_of_a_photo_is_logged(client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    photo = encoded(astronaut())
    with caplog.at_level(logging.DEBUG):
        await client.post("/v1/emotions", files={"image": ("private-name.jpg", photo)})
        await client.post("/v1/emotions", json={"image": base64.b64encode(photo).decode()})
        await client.post("/v1/emotions", files={"image": ("private-name.jpg", photo[:9000])})
    log = caplog.text + "".join(str(record.__dict__) for record in caplog.records)
    assert "private-name" not in log
    assert base64.b64encode(photo[:30]).decode() not in log
    assert str(photo[:20])[2:-1] not in log
    assert len(log) < 200_000


# without Triton


async def test_starts_without_triton_and_says_why_it_is_not_ready() -> None:
    async with gateway(triton_url="127.0.0.1:9") as client:
        assert (await client.get("/livez")).status_code == 200
        for path in ("/readyz", "/v1/model"):
            detail = problem(await client.get(path), 503, "triton-unavailable")
            assert "127.0.0.1:9" in detail
        problem(await post(client, encoded(astronaut())), 503, "triton-unavailable")


async def test_is_alive_but_not_ready_when_triton_stops(triton_home: Path, tmp_path: Path) -> None:
    triton = LocalTriton(home=triton_home, model_repository=write_repository(tmp_path))
    with triton:
        async with gateway(triton_url=triton.grpc_url) as client:
            assert (await client.get("/readyz")).status_code == 200
            triton.stop()
            problem(await post(client, encoded(astronaut())), 503, "triton-unavailable")
            assert (await client.get("/livez")).status_code == 200


async def test_only_so_many_photos_wait_for_triton(toy_triton: LocalTriton) -> None:
    async with gateway(triton_url=toy_triton.grpc_url, workers=1, max_inferring=1) as client:
        os.kill(toy_triton.pid, signal.SIGSTOP)
        try:
            calls = [asyncio.create_task(post(client, encoded(astronaut()))) for _ in range(2)]
            (refused,), (waiting,) = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        finally:
            os.kill(toy_triton.pid, signal.SIGCONT)
        assert "TANDEM_MAX_INFERRING" in problem(refused.result(), 503, "overloaded")
        assert (await waiting).status_code == 200


async def test_a_model_with_an_invalid_spec_is_not_used(triton_home: Path, tmp_path: Path) -> None:
    repository = write_repository(tmp_path, labels="neutral,happiness")
    with LocalTriton(home=triton_home, model_repository=repository) as triton:
        async with gateway(triton_url=triton.grpc_url) as client:
            for response in (await client.get("/readyz"), await post(client, encoded(astronaut()))):
                assert "labels" in problem(response, 503, "contract-unreadable")


async def test_an_unknown_model_is_named(toy_triton: LocalTriton) -> None:
    async with gateway(triton_url=toy_triton.grpc_url, model_name="other") as client:
        response = await client.get("/readyz")
        assert response.status_code == 503
        assert "other" in response.json()["detail"]


async def test_a_jpeg_over_the_pixel_limit_is_answered_in_pixels_of_its_full_size(toy_triton: LocalTriton) -> None:
    photo = encoded(astronaut())
    async with gateway(triton_url=toy_triton.grpc_url, max_pixels=100_000, workers=1) as client:
        halved = await post(client, photo)
        picture = await post(client, photo, Accept="image/png")
        refused = await post(client, encoded(astronaut(), "PNG"), "image/png")
    async with gateway(triton_url=toy_triton.grpc_url, workers=1) as client:
        full = await post(client, photo)
    assert halved.json()["image"] == {"width": 512, "height": 512}
    box, expected = (response.json()["faces"][0]["box"] for response in (halved, full))
    assert all(abs(box[side] - expected[side]) < 12 for side in expected)
    drawn = Image.open(io.BytesIO(picture.content)).convert("RGB")
    assert drawn.size == (256, 256)
    # The left edge of the box is drawn where the face is in the half.
    x, y = round(box["x"] / 2), round((box["y"] + box["height"] / 2) / 2)
    difference = ImageChops.difference(drawn, astronaut().resize((256, 256))).crop((x - 2, y, x + 3, y + 1))
    assert max(max(channel) for channel in difference.getextrema()) > 60
    assert "0.5 Mpx for a JPEG" in problem(refused, 413, "photo-too-large")


async def test_a_photo_is_fetched_by_its_url(toy_triton: LocalTriton, tmp_path: Path) -> None:
    photo = encoded(astronaut())
    server, trusting = make_certificate(tmp_path, "photos.example.org")

    async def resolve(_host: str, _port: int) -> list[str]:
        return ["127.0.0.1"]

    settings = {"triton_url": toy_triton.grpc_url, "workers": 1, "fetch_hosts": ["photos.example.org"]}
    async with (
        https_server(server, lambda _: ("200 OK", {"Content-Type": "image/jpeg"}, photo)) as port,
        gateway(**settings) as client,
    ):
        url = {"url": f"https://photos.example.org:{port}/a.jpg"}
        refused = await client.post("/v1/emotions", json=url)
        assert f"port {port}" in problem(refused, 422, "url-refused")
        assert "PhotoUrl" in (await client.get("/openapi.json")).json()["components"]["schemas"]
        with patch.object(by_url, "HTTPS_PORT", port):
            private = await client.post("/v1/emotions", json={"url": "https://localhost/"})
            problem(private, 422, "url-refused")
            app_state_of(client).fetcher = PhotoFetcher(
                ["photos.example.org"], resolve=resolve, is_allowed=lambda _: True, tls=trusting
            )
            fetched = await client.post("/v1/emotions", json=url)
        assert len(fetched.json()["faces"]) == 1
        both = await client.post("/v1/emotions", json={**url, "image": ""})
        assert "both" in problem(both, 400, "broken-upload")
        number = await client.post("/v1/emotions", json={"url": 1})
        assert "a number" in problem(number, 400, "broken-upload")


async def test_no_photo_is_fetched_by_default(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/emotions", json={"url": "https://photos.example.org/a.jpg"})
    assert "TANDEM_FETCH_HOSTS" in problem(response, 400, "broken-upload")
    assert "PhotoUrl" not in (await client.get("/openapi.json")).text
