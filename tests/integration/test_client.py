"""The typed client, with and without asyncio, against a running gateway."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from photos import astronaut, encoded
from PIL import Image
from served import served

from service.api_keys import create_key
from service.cli.output_files import ResultLog
from service.cli.photo_files import FoundPhotos, find_photos
from service.cli.predict import RunAborted, predict_photos
from service.client import AsyncClient, Client, NoAnswer, Options, Refused
from service.settings import Settings
from service.triton.server import LocalTriton
from service.vision.decoding import decode_photo

PHOTO = encoded(astronaut())
KEY = create_key("client")


@pytest.fixture(scope="module")
def url(toy_triton: LocalTriton) -> Iterator[str]:
    with served(Settings(triton_url=toy_triton.grpc_url, workers=1, api_keys=(KEY.line,))) as url:
        yield url


def test_reads_annotates_and_describes(url: str, tmp_path: Path) -> None:
    file = tmp_path / "photo.jpg"
    file.write_bytes(PHOTO)
    with Client(url, api_key=KEY.secret) as client:
        answer = client.read(PHOTO)
        assert answer == client.read(file) == client.read(str(file)) == client.read(bytearray(PHOTO))
        pixels = decode_photo(PHOTO, max_pixels=10**6)
        assert client.read(pixels) == client.read(Image.fromarray(pixels)) == answer
        assert answer.faces[0].emotion in client.model().labels
        assert client.read(PHOTO, Options(min_face_size=500)).faces == []
        assert answer.faces[0].crop is None
        assert answer.summary == {answer.faces[0].emotion: 1}
        cut_out = client.read(PHOTO, Options(crops=True)).faces[0]
        assert (cut_out.crop or "").startswith("data:image/jpeg;base64,")
        assert cut_out.model_copy(update={"crop": None}) == answer.faces[0]
        assert client.annotate(PHOTO, media_type="image/png").startswith(b"\x89PNG")
        lines = list(client.read_batch([('"a"\n[b]', PHOTO), ("b", b"broken"), file, pixels]))
    assert {line.name: bool(line.answer) for line in lines} == {
        '"a"\n[b]': True, "b": False, str(file): True, "": True
    }  # fmt: skip


@pytest.mark.anyio
async def test_asyncio_client_does_the_same(url: str) -> None:
    async with AsyncClient(url, api_key=KEY.secret) as client:
        answer = await client.read(PHOTO, Options(max_faces=1))
        assert len(answer.faces) == 1
        assert (await client.model()).name == answer.model.name
        assert (await client.annotate(PHOTO)).startswith(b"\xff\xd8")
        lines = [line async for line in client.read_batch([("a", PHOTO), ("b", b"")])]
        assert {line.name: line.problem is None for line in lines} == {"a": True, "b": False}
        with pytest.raises(Refused) as raised:
            await client.read(b"text")
    assert raised.value.problem.type == "urn:tandem:problem:unsupported-photo"


def test_problems_are_raised_with_status_and_type(url: str) -> None:
    with Client(url) as client, pytest.raises(Refused) as missing:
        client.read(PHOTO)
    assert missing.value.problem.status == 401
    assert missing.value.problem.type == "urn:tandem:problem:unauthorized"
    assert missing.value.problem.detail == str(missing.value)
    with Client(url, api_key="wrong") as client, pytest.raises(Refused) as unknown:
        list(client.read_batch([("a", PHOTO)]))
    assert unknown.value.problem.status == 401
    assert unknown.value.problem.detail != missing.value.problem.detail
    with Client("http://127.0.0.1:9") as client, pytest.raises(NoAnswer, match=r"http://127\.0\.0\.1:9"):
        client.model()


def test_a_server_that_is_not_a_gateway_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nhi")

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with Client(url) as client, pytest.raises(NoAnswer, match="404"):
            client.model()
        thread.join()


def test_retries_wait_as_long_as_the_gateway_asks(toy_triton: LocalTriton) -> None:
    settings = Settings(triton_url=toy_triton.grpc_url, rate_limit=1, rate_window_s=1)
    with served(settings) as url, Client(url, retries=0) as once, Client(url, retries=3) as retrying:
        once.read(PHOTO)
        with pytest.raises(Refused) as raised:
            once.read(PHOTO)
        assert raised.value.retry_after_s == 1
        assert retrying.read(PHOTO).faces


def test_importing_the_client_imports_little() -> None:
    heavy = "{'cv2', 'onnxruntime', 'grpc', 'fastapi', 'numpy', 'torch'}"
    code = f"import service.client, sys; sys.exit(' '.join({heavy} & {{*sys.modules}}) or 0)"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr


@pytest.mark.anyio
async def test_an_aborted_run_continues_where_it_stopped(url: str, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for number in range(6):
        path = photos / f"{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PHOTO if number != 3 else PHOTO[:5000])
    (photos / ".hidden.jpg").write_bytes(PHOTO)
    (photos / "notes.txt").write_text("not a photo")
    found = find_photos([photos])
    assert [path.name for path in found.paths] == ["0.jpg", "2.jpg", "4.jpg", "1.jpg", "3.jpg", "5.jpg"]
    out = tmp_path / "out.jsonl"
    done: list[str] = []

    async def run(target: str, photos: FoundPhotos) -> None:
        log = ResultLog(out)
        try:
            async with AsyncClient(target, api_key=KEY.secret) as client:
                await predict_photos(
                    client, photos, log, concurrency=3, on_done=lambda photo, _: done.append(photo.name)
                )
        finally:
            log.close()

    await run(url, find_photos(found.paths[:2]))
    with pytest.raises(RunAborted, match=r"127\.0\.0\.1:9"):
        await run("http://127.0.0.1:9", found)
    assert sorted(done) == ["0.jpg", "2.jpg"]
    await run(url, found)
    assert sorted(done) == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg"]
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert sum("error" in line for line in lines) == 1
    assert sum("faces" in line for line in lines) == 5
