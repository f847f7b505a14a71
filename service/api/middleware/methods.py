"""What HTTP asks of every route: HEAD wherever GET is answered, OPTIONS, and paths with a slash at the end."""

from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


class TrailingSlashMiddleware:
    """Pure ASGI middleware: ``/v1/emotions/`` is ``/v1/emotions``. A redirection would lose the photo."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with the path of the route."""
        if scope["type"] in ("http", "websocket"):
            scope["path"] = scope["path"].rstrip("/") or "/"
        await self._app(scope, receive, send)


class MethodsMiddleware:
    """Pure ASGI middleware: answers HEAD like GET without the body (RFC 9110, 9.3.2), OPTIONS with Allow."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer OPTIONS, let a route that knows only GET answer HEAD, or pass the request on."""
        if scope["type"] == "http" and scope["method"] in ("HEAD", "OPTIONS"):
            allowed = allowed_methods(scope)
            if scope["method"] == "OPTIONS" and allowed:
                await Response(status_code=204, headers={"Allow": ", ".join(allowed)})(scope, receive, send)
                return
            if scope["method"] == "HEAD" and "GET" in allowed:
                await self._answer_head(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _answer_head(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_head(message: Message) -> None:
            scope["method"] = "HEAD"  # the server reads it again to know that no body follows
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        scope["method"] = "GET"
        try:
            await self._app(scope, receive, send_head)
        finally:
            scope["method"] = "HEAD"


def allowed_methods(scope: Scope) -> list[str]:
    """Return the methods of the routes with a request's path; none if there is no such route."""
    routes: list[BaseRoute] = scope["app"].routes
    found = [
        method
        for method in METHODS
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in routes)
    ]
    return [*found, *(["HEAD"] if "GET" in found else []), "OPTIONS"] if found else []
