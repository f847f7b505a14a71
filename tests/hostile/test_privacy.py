"""The service writes no part of a photo or an API key to a file or its log."""

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

MARK = b"a mark that occurs in no other file: " + os.urandom(16).hex().encode()
NAME = "name-of-the-photo-" + os.urandom(8).hex()
PIECE_BYTES = 24
"""Length of the pieces of a photo to search for; pieces of this length do not match by chance."""


def traces(photo: bytes, secrets: tuple[str, ...]) -> Iterator[bytes]:
    """Generate what would show that a photo or secret was stored: its bytes, also in base64, and its hashes."""
    text = base64.b64encode(photo)
    for share in (0.3, 0.5, 0.7):
        at = int(len(photo) * share) // 3 * 3
        yield photo[at : at + PIECE_BYTES]
        yield text[at // 3 * 4 : at // 3 * 4 + PIECE_BYTES]
    yield MARK
    for algorithm in ("md5", "sha1", "sha256"):
        digest = hashlib.new(algorithm, photo, usedforsecurity=False)
        yield digest.hexdigest().encode()
        yield digest.digest()
    for secret in secrets:
        yield secret.encode()


def written_since(moment_ns: int, served: Served) -> dict[Path, bytes]:
    """Read the service's log, every new file in its folder and in temporary folders, and its open files."""
    folders = [served.folder, Path("/dev/shm"), Path("/var/tmp")]  # noqa: S108
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
    processes = [served.process.pid, *served.children()]
    descriptors = [each for process in processes for each in Path(f"/proc/{process}/fd").iterdir()]
    opened = [descriptor.resolve() for descriptor in descriptors if descriptor.resolve().is_file()]
    new = {file for file in [*files, *opened] if file.exists() and file.stat().st_mtime_ns >= moment_ns}
    return {file: file.read_bytes() for file in {*new, served.log}}


def test_no_file_contains_a_photo_or_a_key(serve: Callable[..., Served], tmp_path: Path) -> None:
    key, wrong = create_key("caller"), create_key("stranger").secret
    started = os.stat(tmp_path).st_mtime_ns
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

    found = written_since(started, served)
    log = found[served.log].decode()
    assert log.count('"route": "/v1/emotions"') >= 9, log
    sought = list(traces(photo, (key.secret, wrong, NAME)))
    for where, content in {**found, Path("/metrics"): metrics}.items():
        for trace in sought:
            assert trace not in content, f"{where} holds {trace!r}"


def test_finds_stored_photos_and_names(tmp_path: Path) -> None:
    photo = encoded(face(), "JPEG", comment=MARK)
    for stored in (photo, base64.b64encode(photo), hashlib.sha256(photo).hexdigest().encode(), NAME.encode()):
        assert any(trace in b"before" + stored + b"after" for trace in traces(photo, (NAME,)))
