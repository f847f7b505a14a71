"""The OpenAPI document is checked against the running service, with valid and invalid requests made from it."""

import base64
import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from jsonschema_rs import validator_for
from photos import astronaut, encoded
from PIL import Image
from schemathesis import GenerationMode
from served import served
from waiting import wait_until
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from zips import packed

from service.api.openapi import STREAM_EXAMPLE
from service.api.routes.stream import INTERNAL
from service.settings import Settings
from service.triton.server import LocalTriton
from service.vision.decoding import MEDIA_TYPES

PHOTOS = [
    encoded(Image.new("RGB", (1, 1)), "PNG"),
    encoded(astronaut().resize((64, 64))),
    encoded(astronaut().crop((150, 20, 300, 200)), "WEBP"),
]

# Schemas can only say "binary": the service recognizes the format of a photo by its bytes.
photos = st.sampled_from(PHOTOS)
for kind in MEDIA_TYPES:
    schemathesis.openapi.media_type(kind, photos)
schemathesis.openapi.media_type("application/zip", photos.map(lambda photo: packed([("a", photo), ("b", photo)])))
schemathesis.openapi.format("binary", photos)
schemathesis.openapi.format("byte", photos.map(lambda photo: base64.b64encode(photo).decode()))


@pytest.fixture(scope="module")
def url(toy_triton: LocalTriton) -> Iterator[str]:
    with served(Settings(triton_url=toy_triton.grpc_url, workers=1, request_timeout_s=60)) as url:
        yield url


@pytest.fixture(scope="module")
def document(url: str) -> dict[str, Any]:
    return dict(httpx.get(f"{url}/openapi.json").json())


LATER = (503, 504)
"""Documented answers of a machine that is too busy; they prove nothing."""


def answered(case: schemathesis.Case) -> schemathesis.Response:
    """Call a case again until the answer is not one of ``LATER``."""
    responses: list[schemathesis.Response] = []

    def is_answered() -> bool:
        responses.append(case.call(timeout=120))
        return responses[-1].status_code not in LATER

    wait_until(is_answered, f"{case.method} {case.path} is answered", timeout_s=60)
    return responses[-1]


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_answers_are_as_documented(url: str, mode: GenerationMode) -> None:
    """For every operation, with requests that conform to the document or violate it."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    tried = set()
    for result in schema.get_all_operations():
        operation = result.ok()

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=20,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        def holds(case: schemathesis.Case) -> None:
            response = answered(case)
            case.validate_response(response)
            tried.add(case.path)

        try:
            holds()
        except Unsatisfiable:  # an operation without input has no invalid requests
            assert mode is GenerationMode.NEGATIVE
            assert not operation.body
    assert {"/v1/emotions", "/v1/emotions/batch"} <= tried


def test_answers_are_documented_for_a_triton_that_never_responds() -> None:
    """Triton accepts connections and sends nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = Settings(
            triton_url=f"127.0.0.1:{silent.getsockname()[1]}", upload_timeout_s=0.5, request_timeout_s=1
        )
        with served(settings) as url:
            document = httpx.get(f"{url}/openapi.json").json()
            requests = {
                ("get", "/readyz"): {},
                ("get", "/v1/model"): {},
                ("post", "/v1/emotions"): {"files": {"image": PHOTOS[1]}},
                ("post", "/v1/emotions/batch"): {"files": {"images": PHOTOS[1]}},
            }
            for (method, path), content in requests.items():
                response = httpx.request(method, f"{url}{path}", timeout=60, **content)
                assert response.status_code in LATER, (path, response.text)
                assert f"{response.status_code}" in document["paths"][path][method]["responses"]
                assert {"503", "504"} <= document["paths"][path][method]["responses"].keys()


def test_the_stream_is_as_documented(document: dict[str, Any], url: str) -> None:
    """Parameters, the schemas of answers, and close codes."""
    (path, stream), *others = document["x-websockets"].items()
    assert not others
    values = {
        "max_faces": 1,
        "min_face_size": 5,
        "threshold": 0.5,
        "fields": "box",
        "track": "true",
        "smooth": 0.5,
    }
    assert {parameter["name"] for parameter in stream["parameters"]} == values.keys()
    assert all(parameter["description"] for parameter in stream["parameters"])
    received = stream["received"]["application/json"]["schema"]
    schema = validator_for({**received, "components": document["components"]})
    address = url.replace("http", "ws") + path
    assert address.removeprefix(url.replace("http", "ws")) in STREAM_EXAMPLE
    assert {"image/png", "image/jpeg", "image/webp"} == stream["sent"].keys()
    with connect(address, subprotocols=stream["subprotocols"]) as open_stream:
        for photo in (*PHOTOS, b"no photo"):
            open_stream.send(photo)
            answer = json.loads(open_stream.recv(timeout=60))
            schema.validate(answer)
            assert ("status" in answer) == (photo == b"no photo")
    with connect(f"{address}?{urlencode(values)}") as open_stream:
        open_stream.send(PHOTOS[2])
        (face,) = json.loads(open_stream.recv(timeout=60))["faces"]
        assert face.keys() == {"box", "track"}
    for query, message in (("?max_faces=0", PHOTOS[0]), ("?no=1", PHOTOS[0]), ("", "text"), ("", bytes(3 << 20))):
        code = closing_code(address + query, message)
        assert f"{code}" in stream["closeCodes"]
        assert code != INTERNAL


def closing_code(address: str, message: bytes | str) -> int | None:
    """Send a message to a stream, and return its close code."""
    with connect(address) as stream:
        with suppress(ConnectionClosed):
            stream.send(message)
            while True:
                stream.recv(timeout=60)
        return stream.close_code


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


def test_examples_of_answers_match_their_schemas(document: dict[str, Any]) -> None:
    held = 0
    for name, schema in document["components"]["schemas"].items():
        for example in schema.get("examples", []):
            reference = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
            validator_for(reference).validate(example)
            held += 1
    assert held


def test_every_field_parameter_and_answer_is_described(document: dict[str, Any]) -> None:
    for name, schema in document["components"]["schemas"].items():
        for field, of in schema.get("properties", {}).items():
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
