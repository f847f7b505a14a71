"""The OpenAPI document, completed with what FastAPI does not know about the routes."""

from typing import Any, Final

from fastapi import FastAPI
from pydantic import BaseModel

from service.api.middleware.auth import GUARDED, KEY_PROTOCOL
from service.api.routes.stream import (
    GOING_AWAY,
    INTERNAL,
    POLICY,
    PROTOCOL,
    TOO_BIG,
    TRY_LATER,
    UNSUPPORTED,
    StreamQuery,
)
from service.schemas import BatchLine, FrameEmotions, FrameProblem, Problem
from service.settings import Settings

SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, if the service requires one."},
    "header": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "The same key.",
    },
}

REFERENCES: Final = "#/components/schemas/{model}"

FRAME_TYPES: Final = ("image/jpeg", "image/png", "image/webp")

CLOSE_CODES: Final = {
    GOING_AWAY: "The service is shutting down.",
    UNSUPPORTED: "A text message was sent; a frame must be a binary message.",
    POLICY: "A parameter is invalid, frames came faster than TANDEM_MAX_FRAMES_PER_S, or none came for "
    "TANDEM_STREAM_IDLE_S.",
    TOO_BIG: "A frame exceeded TANDEM_MAX_FRAME_BYTES.",
    INTERNAL: "Something went wrong; the log has more.",
    TRY_LATER: "Too many streams are open, or too much memory is in use.",
}

STREAM: Final = (
    "A WebSocket. Each binary message is one frame: a JPEG, PNG or WebP. Each answer is a text message of JSON: "
    "FrameEmotions, or FrameProblem for a frame that cannot be read, after which the stream goes on. Both name "
    "the frame that they are for. When frames come faster than answers, the newest wins and the others are "
    "dropped, so a client may send without waiting. If the service ends the stream, the close code says why, "
    "and a FrameProblem before it may say more. Before the stream is open, an invalid key or a page of another "
    "site is answered as on any other route. A browser, which cannot send a key in a header, offers "
    f"the subprotocols {PROTOCOL} and {KEY_PROTOCOL}<key>."
)

STREAM_EXAMPLE: Final = """\
const stream = new WebSocket("ws://127.0.0.1:8080/v1/stream?track=true&smooth=0.8");
stream.onmessage = ({ data }) => console.log(JSON.parse(data).faces);
stream.onopen = () => stream.send(photo);  // a Blob or an ArrayBuffer: a JPEG, PNG or WebP"""


def openapi_document(app: FastAPI, settings: Settings) -> dict[str, Any]:
    """Complete FastAPI's document; it is built once and cached by the app.

    OpenAPI cannot describe WebSockets: the stream is described under ``x-websockets`` and in the text of a tag.
    """
    if app.openapi_schema is None:
        document = FastAPI.openapi(app)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for model in (Problem, BatchLine, FrameEmotions, FrameProblem):
            schemas[model.__name__] = _schema(model, schemas)
        # We answer invalid parameters with a Problem instead.
        for former in ("HTTPValidationError", "ValidationError"):
            schemas.pop(former, None)
        document["components"]["securitySchemes"] = SECURITY
        for path, operations in document["paths"].items():
            if path.startswith(GUARDED):
                for operation in operations.values():
                    _set_limit(operation, settings)
                    operation["security"] = [{}, *({name: []} for name in SECURITY)]
        document["tags"] = [{"name": "stream", "description": f"`WS /v1/stream`: {STREAM}"}]
        document["x-websockets"] = {"/v1/stream": _stream(settings)}
        app.openapi_schema = document
    return app.openapi_schema


def _schema(model: type[BaseModel], schemas: dict[str, Any]) -> dict[str, Any]:
    """Return a model's schema, and add the schemas that it refers to to ``schemas``."""
    schema = model.model_json_schema(ref_template=REFERENCES, mode="serialization")
    schemas.update(schema.pop("$defs", {}))
    return schema


def _stream(settings: Settings) -> dict[str, Any]:
    """Describe the stream like an operation, with its messages and close codes."""
    query = StreamQuery.model_json_schema()
    parameters = [
        {"name": name, "in": "query", "required": False, "description": field.pop("description"), "schema": field}
        for name, field in query["properties"].items()
    ]
    stream = {
        "summary": "Read a stream of frames, such as those of a webcam",
        "description": STREAM,
        "parameters": parameters,
        "subprotocols": [PROTOCOL],
        "sent": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in FRAME_TYPES},
        "received": {
            "application/json": {
                "schema": {
                    "oneOf": [{"$ref": REFERENCES.format(model=m.__name__)} for m in (FrameEmotions, FrameProblem)]
                }
            }
        },
        "closeCodes": {str(code): reason for code, reason in CLOSE_CODES.items()},
        "example": STREAM_EXAMPLE,
        "security": [{}, *({name: []} for name in SECURITY)],
    }
    _set_limit(stream, settings)
    return stream


def _set_limit(operation: dict[str, Any], settings: Settings) -> None:
    """Set the maximum of ``max_faces``, which is a setting of the service."""
    for parameter in operation.get("parameters", []):
        if parameter["name"] == "max_faces":
            for option in parameter["schema"]["anyOf"]:
                if option["type"] == "integer":
                    option["maximum"] = settings.max_faces
