"""The OpenAPI document is true: requests made from it, right ones and wrong ones, against the running service."""

import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from jsonschema_rs import validator_for
from photos import astronaut, encoded
from PIL import Image
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection
from test_gateway_batch import packed
from waiting import wait_until

from service.app import create_app
from service.serving import bind
from service.settings import Settings
from service.triton.server import LocalTriton

PHOTOS = [
    encoded(Image.new("RGB", (1, 1)), "PNG"),
    encoded(astronaut().resize((64, 64))),
    encoded(astronaut().crop((150, 20, 300, 200)), "WEBP"),
]

# What a schema can only call «binary»: photos, whose format the service reads off the bytes.
photos = st.sampled_from(PHOTOS)
for kind in ("image/jpeg", "image/png", "image/webp", "image/heic"):
    schemathesis.openapi.media_type(kind, photos)
schemathesis.openapi.media_type("application/zip", photos.map(lambda photo: packed([("a", photo), ("b", photo)])))
schemathesis.openapi.format("binary", photos)
schemathesis.openapi.format("byte", photos.map(lambda photo: base64.b64encode(photo).decode()))


@contextmanager
def served(config: Settings) -> Iterator[str]:
    """The service on a port of this machine, in a thread."""
    with bind("127.0.0.1", 0) as listener:
        server = uvicorn.Server(uvicorn.Config(create_app(config), log_config=None, lifespan="on"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_until(lambda: server.started, "the server is up")
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)


@pytest.fixture(scope="module")
def url(toy_triton: LocalTriton) -> Iterator[str]:
    with served(Settings(triton_url=toy_triton.grpc_url, workers=1)) as url:
        yield url


@pytest.fixture(scope="module")
def document(url: str) -> dict[str, Any]:
    return dict(httpx.get(f"{url}/openapi.json").json())


# A null in place of the photos arrives as a part of four bytes: no photo, which its line of the answer says.
UNDECIDABLE = {"/v1/emotions/batch": [negative_data_rejection]}


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_every_answer_is_as_the_document_says(url: str, mode: GenerationMode) -> None:
    """Requests that keep to the document and such that break it, for every operation."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    tried = set()
    for result in schema.get_all_operations():
        operation = result.ok()

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=40,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        def holds(case: schemathesis.Case) -> None:
            case.call_and_validate(excluded_checks=UNDECIDABLE.get(case.path, []))
            tried.add(case.path)

        try:
            holds()
        except Unsatisfiable:  # nothing of such an operation can be wrong: it takes no input
            assert mode is GenerationMode.NEGATIVE
            assert not operation.body
    assert {"/v1/emotions", "/v1/emotions/batch"} <= tried


def test_examples_of_requests_are_answered(document: dict[str, Any], url: str) -> None:
    replayed = 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for kind, content in operation.get("requestBody", {}).get("content", {}).items():
                if "example" in content:
                    assert kind == "application/json"
                    response = httpx.request(method, f"{url}{path}", json=content["example"])
                    assert response.status_code == 200
                    replayed += 1
    assert replayed


def test_examples_of_answers_keep_to_their_schemas(document: dict[str, Any]) -> None:
    held = 0
    for name, schema in document["components"]["schemas"].items():
        for example in schema.get("examples", []):
            reference = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
            validator_for(reference).validate(example)
            held += 1
    assert held


def test_every_field_parameter_and_answer_is_described(document: dict[str, Any]) -> None:
    for name, schema in document["components"]["schemas"].items():
        for field, of in schema["properties"].items():
            assert of.get("description"), f"{name}.{field}"
            options = [of, *of.get("anyOf", [])]
            if name != "Point" and any(option.get("type") in ("integer", "number") for option in options):
                assert any("minimum" in option for option in options), f"{name}.{field} has no range"
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], path
            assert operation["description"], path
            assert all(parameter["description"] for parameter in operation.get("parameters", [])), path
            assert all(answer["description"] for answer in operation["responses"].values()), path
            errors = {status for status in operation["responses"] if status >= "400"}
            if path.startswith("/v1/emotions"):
                assert {"400", "401", "408", "413", "415", "422", "429", "503"} <= errors, (path, method)
