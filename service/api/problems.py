"""Every error as ``application/problem+json`` (RFC 9457)."""

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
    """A problem as answer; its slug is left in the scope's state for metrics and log."""
    state = scope["state"]
    state["problem"] = slug
    problem = Problem(
        type=f"urn:tandem:problem:{slug}",
        title=title,
        status=status,
        detail=detail,
        request_id=state["request_id"],
        errors=errors,
    )
    return Response(
        problem.model_dump_json(exclude_none=True),
        status_code=status,
        headers=dict(headers or {}),
        media_type=PROBLEM_TYPE,
    )


def describe(error: TandemError, request_id: str) -> Problem:
    """One of the service's own errors, as part of an answer."""
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
    """The answer for one of the service's own errors."""
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
    """A problem as a route's answer in the OpenAPI document."""
    schema = {"$ref": f"#/components/schemas/{Problem.__name__}"}
    return {"description": description, "content": {PROBLEM_TYPE: {"schema": schema}}}


ACCESS_PROBLEMS: dict[int | str, dict[str, Any]] = {
    401: documented("API keys are configured, and the request carries none of them."),
    429: documented("The caller is over its limit; Retry-After says when to retry."),
}

UNAVAILABLE: dict[int | str, dict[str, Any]] = {
    503: documented("Busy, shutting down, or without a working inference server; Retry-After says when to retry."),
    504: documented("The inference server did not answer in time."),
}


def add_problem_handlers(app: FastAPI) -> None:
    """Answer every error that a route or the routing raises as a problem."""
    app.add_exception_handler(TandemError, _on_tandem_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_validation_error)


async def _on_tandem_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, TandemError)  # noqa: S101 - the registration above
    return from_error(request.scope, error)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - the registration above
    phrase = HTTPStatus(error.status_code).phrase
    return problem_response(
        request.scope,
        status=error.status_code,
        slug=phrase.lower().replace(" ", "-"),
        title=phrase,
        detail=f"{request.method} {request.url.path}: {error.detail}",
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
