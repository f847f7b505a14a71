"""What is promised of photos and keys: nothing of them is in any file that the service made, nor in its log."""

import base64
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
from websockets.sync.client import connect

from service.api_keys import create_key

from .conftest import Served
from .seeds import encoded, exif, face

MARK = b"a mark that is in no other file: " + os.urandom(16).hex().encode()
NAME = "name-of-the-photo-" + os.urandom(8).hex()
PIECE = 24
"""Bytes of a photo that are looked for at several places of it: so many do not come together by chance."""


def traces(photo: bytes, secrets: tuple[str, ...]) -> Iterator[bytes]:
    """What would show that the photo or a secret was kept: its bytes, plain and in base64, and its sums."""
    text = base64.b64encode(photo)
    for share in (0.3, 0.5, 0.7):
        at = int(len(photo) * share) // 3 * 3
        yield photo[at : at + PIECE]
        yield text[at // 3 * 4 : at // 3 * 4 + PIECE]
    yield MARK
    for algorithm in ("md5", "sha1", "sha256"):
        digest = hashlib.new(algorithm, photo, usedforsecurity=False)
        yield digest.hexdigest().encode()
        yield digest.digest()
    for secret in secrets:
        yield secret.encode()


def made_since(moment_ns: int, served: Served) -> dict[Path, bytes]:
    """The service's log, every file below its folder, and what it has open or left in the usual places."""
    places = [served.folder, Path("/dev/shm"), Path("/var/tmp")]  # noqa: S108
    files = [file for place in places for file in place.rglob("*") if file.is_file() and not file.is_symlink()]
    processes = [served.process.pid, *served.children()]
    descriptors = [each for process in processes for each in Path(f"/proc/{process}/fd").iterdir()]
    opened = [descriptor.resolve() for descriptor in descriptors if descriptor.resolve().is_file()]
    new = {file for file in [*files, *opened] if file.exists() and file.stat().st_mtime_ns >= moment_ns}
    return {file: file.read_bytes() for file in {*new, served.log}}


def test_nothing_of_a_photo_or_a_key_is_in_any_file_or_line(serve: Callable[..., Served], tmp_path: Path) -> None:
    key, wrong = create_key("caller"), create_key("stranger").secret
    begun = os.stat(tmp_path).st_mtime_ns
    served = serve(log_level="debug", api_keys=json.dumps([key.line]))
    photo = encoded(face(), "JPEG", comment=MARK, exif=exif(make=MARK.decode()))
    broken = photo[: len(photo) // 2]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"{NAME}.jpg", photo)
    with httpx.Client(base_url=served.url, timeout=60, headers={"X-API-Key": key.secret}) as client:
        for content in (photo, broken):
            upload = {"image": (f"{NAME}.jpg", content)}
            client.post("/v1/emotions", files=upload)
            client.post("/v1/emotions", files=upload, headers={"Accept": "image/png"})
            client.post("/v1/emotions", json={"image": base64.b64encode(content).decode()})
            client.post("/v1/emotions", content=content, headers={"Content-Type": "image/jpeg"})
        client.post("/v1/emotions", content=photo, headers={"Content-Type": NAME})
        lines = client.post(
            "/v1/emotions/batch", content=buffer.getvalue(), headers={"Content-Type": "application/zip"}
        )
        assert len(json.loads(lines.text)["answer"]["faces"]) == 1
        assert client.post("/v1/emotions", content=photo, headers={"X-API-Key": wrong}).status_code == 401
        assert client.get(f"/v1/emotions?key={wrong}").status_code == 405
        metrics = client.get("/metrics").content
    stream = connect(
        served.url.replace("http", "ws") + "/v1/stream", subprotocols=["tandem.v1", f"tandem.key.{key.secret}"]
    )
    with stream as frames:
        frames.send(photo)
        assert len(json.loads(frames.recv(60))["faces"]) == 1

    found = made_since(begun, served)
    log = found[served.log].decode()
    assert log.count('"route": "/v1/emotions"') >= 9, log
    sought = list(traces(photo, (key.secret, wrong, NAME)))
    for where, content in {**found, Path("/metrics"): metrics}.items():
        for trace in sought:
            assert trace not in content, f"{where} holds {trace!r}"


def test_the_search_would_find_them(tmp_path: Path) -> None:
    photo = encoded(face(), "JPEG", comment=MARK)
    for kept in (photo, base64.b64encode(photo), hashlib.sha256(photo).hexdigest().encode(), NAME.encode()):
        assert any(trace in b"before" + kept + b"after" for trace in traces(photo, (NAME,)))
