"""Errors as ``application/problem+json`` (RFC 9457)."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from service.errors import BadParameter, TandemError
from service.observability.request_context import RequestContext
from service.schemas import ParameterError, Problem

PROBLEM_TYPE = "application/problem+json"


def problem_response(
    scope: Scope,
    *,
    status: int,
    slug: str,
    title: str,
    detail: str,
    headers: Mapping[str, str] | None = None,
    errors: list[ParameterError] | None = None,
) -> Response:
    """Answer with a problem, and note its slug for metrics and logs."""
    context = RequestContext.of(scope)
    context.problem = slug
    problem = Problem(
        type=f"urn:tandem:problem:{slug}",
        title=title,
        status=status,
        detail=detail,
        request_id=context.request_id,
        errors=errors,
    )
    return Response(
        problem.model_dump_json(exclude_none=True),
        status_code=status,
        headers=dict(headers or {}),
        media_type=PROBLEM_TYPE,
    )


def describe(error: TandemError, request_id: str) -> Problem:
    """Describe one of our own errors, as a part of an answer."""
    return Problem(
        type=f"urn:tandem:problem:{error.slug}",
        title=error.title,
        status=error.status,
        detail=error.detail,
        request_id=request_id,
    )


def from_error(
    scope: Scope,
    error: TandemError,
    errors: list[ParameterError] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Answer with one of our own errors."""
    retry = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    return problem_response(
        scope,
        status=error.status,
        slug=error.slug,
        title=error.title,
        detail=error.detail,
        headers={**retry, **(headers or {})},
        errors=errors,
    )


def documented(description: str) -> dict[str, Any]:
    """Describe a problem as a route's response in the OpenAPI document."""
    schema = {"$ref": f"#/components/schemas/{Problem.__name__}"}
    return {"description": description, "content": {PROBLEM_TYPE: {"schema": schema}}}


ACCESS_PROBLEMS: dict[int | str, dict[str, Any]] = {
    401: documented("The service requires an API key, and the request carries no valid one."),
    429: documented("The caller has exceeded a limit; Retry-After says when to retry."),
}

UNAVAILABLE: dict[int | str, dict[str, Any]] = {
    503: documented("Overloaded, shutting down, or without a working inference server; see Retry-After."),
    504: documented("The inference server did not answer in time."),
}

PHOTO_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: documented("The request carries no photo, or is broken."),
    **ACCESS_PROBLEMS,
    406: documented("The Accept header allows none of the available formats."),
    408: documented("The upload did not arrive in time."),
    413: documented("Too many bytes or too many pixels."),
    415: documented("The content type or the image format is not supported."),
    422: documented("The image cannot be decoded or fetched, or a parameter is invalid."),
    **UNAVAILABLE,
    504: documented("The answer did not come in time."),
}


def add_problem_handlers(app: FastAPI) -> None:
    """Answer every error of a route or of the routing with a problem."""
    app.add_exception_handler(TandemError, _on_tandem_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_validation_error)


async def _on_tandem_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, TandemError)  # noqa: S101 - the registration above
    return from_error(request.scope, error)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - the registration above
    phrase = HTTPStatus(error.status_code).phrase
    hint = ""
    if error.status_code == HTTPStatus.NOT_FOUND:
        hint = "; /docs lists all routes"
    elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED and (error.headers or {}).get("Allow"):
        hint = f"; use {(error.headers or {})['Allow']}"
    return problem_response(
        request.scope,
        status=error.status_code,
        slug=phrase.lower().replace(" ", "-"),
        title=phrase,
        detail=f"{request.method} {request.url.path}: {error.detail}{hint}",
        headers=error.headers,
    )


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - the registration above
    errors = [
        ParameterError(parameter=".".join(str(part) for part in e["loc"][1:]), message=e["msg"])
        for e in error.errors()
    ]
    detail = "; ".join(f"{e.parameter}: {e.message}" for e in errors)
    return from_error(request.scope, BadParameter(detail), errors)
