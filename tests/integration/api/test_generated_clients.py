"""Clients that code generators make of the OpenAPI document, and one real call of each operation with them."""

import base64
import importlib
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from photos import astronaut, encoded
from served import served
from toy_model import LABELS
from zips import packed

from service.settings import Settings
from service.triton.server import LocalTriton
from service.vision.decoding import MEDIA_TYPES

ROOT = Path(__file__).parents[3]
TYPESCRIPT = ROOT / "tests/fixtures/openapi_ts"
INSTALLED = ROOT / "build/openapi_ts"
"""The TypeScript generator is installed here, once."""

PHOTO = encoded(astronaut())
ARCHIVE = packed([("a.jpg", PHOTO), ("b.jpg", PHOTO)])

UNSUPPORTED_BY_PYTHON = {"image", "application/zip", "application/x-ndjson"}
"""Only the operations with all forms have these; what they stand for has an operation of its own."""


@pytest.fixture(scope="module")
def url(toy_triton: LocalTriton) -> Iterator[str]:
    with served(Settings(triton_url=toy_triton.grpc_url, workers=1, request_timeout_s=60)) as url:
        yield url


@pytest.fixture(scope="module")
def document(url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("document") / "openapi.json"
    path.write_bytes(httpx.get(f"{url}/openapi.json").content)
    return path


def run(command: list[str | Path], **options: Any) -> str:
    completed = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, **options)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return completed.stdout


@pytest.fixture(scope="module")
def python_client(document: Path) -> Iterator[SimpleNamespace]:
    """The package that openapi-python-client makes, as its modules by name."""
    folder = document.parent / "generated"
    tool = Path(sys.executable).parent / "openapi-python-client"
    log = run([tool, "generate", "--path", document, "--output-path", folder, "--meta", "none"])
    warnings = [line for line in log.splitlines() if "nsupported content" in line]
    assert all(any(kind in line for kind in UNSUPPORTED_BY_PYTHON) for line in warnings), log
    sys.path.insert(0, str(document.parent))
    try:
        package = importlib.import_module("generated")
        modules = {
            path.stem: importlib.import_module(f"generated.api.{path.parent.name}.{path.stem}")
            for path in folder.glob("api/*/[a-z]*.py")
        }
        yield SimpleNamespace(
            package=package,
            models=importlib.import_module("generated.models"),
            File=importlib.import_module("generated.types").File,
            **modules,
        )
    finally:
        sys.path.remove(str(document.parent))


def test_the_python_client_works(python_client: SimpleNamespace, url: str) -> None:
    with python_client.package.Client(base_url=url) as client:
        call_each_operation(python_client, client)


def call_each_operation(api: SimpleNamespace, client: Any) -> None:
    models = api.models

    def file(content: bytes = PHOTO, name: str = "a.jpg") -> Any:
        return api.File(io.BytesIO(content), file_name=name)

    form = api.read_emotions_from_form.sync(client=client, body=models.PhotoForm(image=file()))
    assert isinstance(form, models.PhotoEmotions)
    (face,) = form.faces
    assert isinstance(face.emotion, models.Emotion)
    assert face.emotion in LABELS.split(",")
    assert sum(face.emotions.to_dict().values()) == pytest.approx(1, abs=1e-5)
    assert face.emotions.to_dict().keys() == set(LABELS.split(","))
    assert all(isinstance(reason, models.Reason) for reason in face.unreliable_because)

    raw = api.read_emotions_from_bytes.sync(client=client, body=file(), threshold=0.5)
    assert [each.emotion for each in raw.faces] == [face.emotion]
    picture = api.draw_emotions.sync(client=client, body=file())
    assert picture.payload.read(3) == b"\xff\xd8\xff"
    for body in (
        models.PhotoJson(image=base64.b64encode(PHOTO).decode()),
        models.PhotoForm(image=file()),
        file(),
    ):
        any_form = api.read_emotions.sync(client=client, body=body, fields="emotion")
        assert [each.emotion for each in any_form.faces] == [face.emotion]

    batch = api.read_batch_from_form.sync(client=client, body=models.BatchForm(images=[file(), file()]))
    assert [[each.emotion for each in line.answer.faces] for line in batch.photos] == [[face.emotion]] * 2
    archive = api.read_batch_from_zip.sync(client=client, body=file(ARCHIVE))
    assert [line.name for line in archive.photos] == ["a.jpg", "b.jpg"]
    lines = api.read_batch.sync_detailed(client=client, body=models.BatchForm(images=[file(), file(b"no photo")]))
    assert len(lines.content.splitlines()) == 2

    assert api.get_model.sync(client=client).labels == LABELS.split(",")
    assert api.get_limits.sync(client=client).photo.max_bytes == Settings().max_upload_bytes
    assert api.is_alive.sync(client=client).status == "alive"
    assert api.is_ready.sync(client=client).status == "ready"
    assert "tandem_requests_total" in api.get_metrics.sync(client=client)
    refused = api.read_emotions_from_bytes.sync(client=client, body=file(b"no photo"))
    assert isinstance(refused, models.Problem)
    assert refused.status == 415


@pytest.fixture(scope="module")
def typescript() -> Path:
    """The folder of openapi-ts and the compiler."""
    if not shutil.which("npm"):
        pytest.skip("needs Node.js with npm")
    lock = INSTALLED / "package-lock.json"
    if not lock.exists() or lock.read_bytes() != (TYPESCRIPT / lock.name).read_bytes():
        shutil.rmtree(INSTALLED, ignore_errors=True)
        shutil.copytree(TYPESCRIPT, INSTALLED)
        command = ["npm", "ci", "--no-audit", "--no-fund", "--fetch-retries=0"]
        npm = subprocess.run(command, cwd=INSTALLED, capture_output=True, text=True, timeout=200, check=False)
        if npm.returncode:
            shutil.rmtree(INSTALLED)
            pytest.skip(f"npm cannot install openapi-ts, probably for want of a network: {npm.stderr[:300]}")
    return INSTALLED / "node_modules/.bin"


def test_the_typescript_client_compiles_and_works(typescript: Path, document: Path, url: str) -> None:
    folder = document.parent / "typescript"
    folder.mkdir()
    shutil.copy(TYPESCRIPT / "calls.ts", folder)
    run([typescript / "openapi-ts", "-i", document, "-o", folder / "client"])
    options = ["--module", "commonjs", "--target", "es2022", "--lib", "es2022,dom,dom.iterable"]
    run([typescript / "tsc", "--strict", *options, folder / "calls.ts"])
    photo, archive = (base64.b64encode(content).decode() for content in (PHOTO, ARCHIVE))
    found = json.loads(run(["node", folder / "calls.js", url, photo, archive]))
    emotion = found.pop("emotion")
    assert emotion in LABELS.split(",")
    assert 0 < found.pop("happiness") < 1
    assert isinstance(found.pop("reasons"), list)
    assert found == {
        "json": emotion,
        "raw": emotion,
        "picture": "\ufffdPNG\r\n\x1a\n",
        "lines": 2,
        "batch": [1, 1],
        "archive": ["a.jpg", "b.jpg"],
        "labels": LABELS.split(","),
        "formats": list(MEDIA_TYPES),
        "alive": "alive",
        "ready": "ready",
        "metrics": True,
        "refused": "urn:tandem:problem:unsupported-upload",
    }
