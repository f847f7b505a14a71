"""Refusing photos that there is no room for, at the least cost."""

import time

from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.dependencies import app_state_of
from service.api.middleware.auth import PHOTO_ROUTE
from service.api.problems import from_error
from service.errors import Overloaded


class LoadSheddingMiddleware:
    """Pure ASGI middleware: answers 503 to a photo before it is routed, parsed or read.

    Under twice the load that can be borne every second photo is refused: what that costs is lost to the others.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._route = Route(PHOTO_ROUTE, app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or hand the request on."""
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] == PHOTO_ROUTE:
            app_state = app_state_of(scope["app"])
            try:
                app_state.queue.check(time.monotonic() + app_state.settings.request_timeout_s)
            except Overloaded as error:
                scope["route"] = self._route  # for the metrics, as if it had been found
                await from_error(scope, error)(scope, receive, send)
                return
        await self._app(scope, receive, send)
