"""The OpenAPI document, completed with what FastAPI does not know of the routes."""

from typing import Any

from fastapi import FastAPI

from service.access import GUARDED
from service.schemas import BatchLine, Problem
from service.settings import Settings

SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, where the service has any."},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key, otherwise."},
}


def complete(app: FastAPI, settings: Settings) -> dict[str, Any]:
    """FastAPI's document with the problems' schema in it; made once, then kept by the app."""
    if app.openapi_schema is None:
        document = FastAPI.openapi(app)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for model in (Problem, BatchLine):
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}", mode="serialization")
            schemas.update(schema.pop("$defs", {}))
            schemas[model.__name__] = schema
        # Its own shape of a wrong parameter is not ours.
        for former in ("HTTPValidationError", "ValidationError"):
            schemas.pop(former, None)
        document["components"]["securitySchemes"] = SECURITY
        for path, operations in document["paths"].items():
            if path.startswith(GUARDED):
                for operation in operations.values():
                    _set_limit(operation, "max_faces", settings.max_faces)
                    operation["security"] = [{}, *({name: []} for name in SECURITY)]
        app.openapi_schema = document
    return app.openapi_schema


def _set_limit(operation: dict[str, Any], name: str, most: int) -> None:
    """A parameter's largest value, which is a setting of this very service."""
    for parameter in operation.get("parameters", []):
        if parameter["name"] == name:
            for option in parameter["schema"]["anyOf"]:
                if option["type"] == "integer":
                    option["maximum"] = most
