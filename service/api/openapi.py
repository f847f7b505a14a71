"""The OpenAPI document, completed with what FastAPI does not know about the routes."""

import copy
from typing import Any, Final

from fastapi import FastAPI
from pydantic import BaseModel

from service.api.dependencies import app_state_of
from service.api.middleware.auth import GUARDED, KEY_PROTOCOL
from service.api.responses import JSON_TYPE
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
from service.api.uploads.by_url import MAX_URL_LENGTH
from service.schemas import FrameEmotions, FrameProblem, Problem, SelectedBatchLine
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


EMOTIONS: Final = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
"""The labels to document until the served model's are known."""


TAGS: Final = [
    {"name": "emotions", "description": "Photos in, emotions out, in the form that suits the caller."},
    {
        "name": "one form",
        "description": "The same under addresses that each take one form of body and give one form of answer, for "
        "clients made by code generators.",
    },
    {"name": "stream", "description": f"`WS /v1/stream`: {STREAM}"},
    {"name": "model", "description": "What answers, and within which limits."},
    {"name": "operation", "description": "For operators."},
]


def openapi_document(app: FastAPI, settings: Settings) -> dict[str, Any]:
    """Complete FastAPI's document; it is built once for each model's labels.

    OpenAPI cannot describe WebSockets: the stream is described under ``x-websockets`` and in the text of a tag.
    """
    labels = _labels(app)
    document = app.openapi_schema
    if document is None or document["components"]["schemas"]["Emotion"]["enum"] != labels:
        app.openapi_schema = None  # else FastAPI returns it
        document = copy.deepcopy(FastAPI.openapi(app))  # it refers to what the routes document
        schemas = document["components"]["schemas"]
        for model in (Problem, SelectedBatchLine, FrameEmotions, FrameProblem):
            schemas[model.__name__] = _schema(model, schemas)
        # We answer invalid parameters with a Problem instead.
        for former in ("HTTPValidationError", "ValidationError"):
            schemas.pop(former, None)
        _name_labels(schemas, labels)
        _name_bodies(document)
        if settings.fetch_hosts:
            _add_url(document)
        for name in ("Problem", "BatchLine", "SelectedBatchLine", "FrameProblem"):
            for field in schemas[name]["properties"].values():
                _remove_null(field)  # a field without a value is left out
        document["servers"] = [{"url": "/", "description": "Where this document comes from."}]
        document["components"]["securitySchemes"] = SECURITY
        for path, operations in document["paths"].items():
            for operation in operations.values():
                for parameter in operation.get("parameters", []):
                    _remove_null(parameter["schema"])  # a query has no null
                if path.startswith(GUARDED):
                    _set_limit(operation, settings)
                    operation["security"] = [{}, *({name: []} for name in SECURITY)]
        document["tags"] = TAGS
        document["x-websockets"] = {"/v1/stream": _stream(settings)}
        app.openapi_schema = document
    return document


def _labels(app: FastAPI) -> list[str]:
    """The labels of the served model, if it is known."""
    spec = app_state_of(app).triton.known_spec if hasattr(app.state, "app_state") else None
    return list(spec.labels if spec else EMOTIONS)


def _name_labels(schemas: dict[str, Any], labels: list[str]) -> None:
    """Replace texts that are labels by an enumeration, and the probabilities of labels by an object with each."""
    schemas["Emotion"] = {
        "title": "Emotion",
        "description": "What a face shows: a label of the model that is served.",
        "type": "string",
        "enum": labels,
    }
    probability = {"type": "number", "minimum": 0, "maximum": 1}
    schemas["Probabilities"] = {
        "title": "Probabilities",
        "description": "The probability of every label of the model that is served; they sum to 1.",
        "type": "object",
        "properties": {
            label: {**probability, "description": f"Probability of {label}, 0 to 1."} for label in labels
        },
        "required": labels,
        "additionalProperties": False,
    }
    for face in ("FaceEmotion", "SelectedFace", "TrackedFace"):
        for field, schema in (("emotion", "Emotion"), ("emotions", "Probabilities")):
            description = schemas[face]["properties"][field]["description"]
            reference = {"$ref": REFERENCES.format(model=schema), "description": description}
            schemas[face]["properties"][field] = reference
    schemas["ModelDescription"]["properties"]["labels"]["items"] = {"$ref": REFERENCES.format(model="Emotion")}


def _name_bodies(document: dict[str, Any]) -> None:
    """Make a schema of each body with a title, after which generated clients name their types."""
    for operations in document["paths"].values():
        for operation in operations.values():
            for content in operation.get("requestBody", {}).get("content", {}).values():
                name = content["schema"].get("title")
                if name:
                    document["components"]["schemas"][name] = content["schema"]
                    content["schema"] = {"$ref": REFERENCES.format(model=name)}


def _add_url(document: dict[str, Any]) -> None:
    """Document that a photo can be fetched, which is off by default."""
    document["components"]["schemas"]["PhotoUrl"] = {
        "title": "PhotoUrl",
        "type": "object",
        "required": ["url"],
        "properties": {
            "url": {
                "type": "string",
                "maxLength": MAX_URL_LENGTH,
                "description": "Where to fetch the photo: an https:// or s3:// URL of a host or bucket that the "
                "service fetches from.",
            }
        },
    }
    content = document["paths"]["/v1/emotions"]["post"]["requestBody"]["content"][JSON_TYPE]
    content["schema"] = {"oneOf": [content["schema"], {"$ref": REFERENCES.format(model="PhotoUrl")}]}


def _remove_null(schema: dict[str, Any]) -> None:
    """Remove null from the types of an optional value."""
    options = [option for option in schema.get("anyOf", []) if option != {"type": "null"}]
    if len(options) == 1:
        del schema["anyOf"]
        schema.pop("default", None)
        schema.update(options[0])


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
    for parameter in parameters:
        _remove_null(parameter["schema"])
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
            parameter["schema"]["maximum"] = settings.max_faces
