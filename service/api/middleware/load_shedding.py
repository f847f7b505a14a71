"""Load shedding: refuse photos that cannot be worked on, at the lowest cost."""

from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.dependencies import app_state_of
from service.api.middleware.auth import PHOTO_ROUTE
from service.api.problems import from_error
from service.errors import Overloaded
from service.observability.request_context import RequestContext


class LoadSheddingMiddleware:
    """Pure ASGI middleware: answers 503 to a photo before it is routed, parsed or read.

    At twice the load that the service can bear, every second photo is refused, and the time spent on refusals is
    lost to the others. The queue decides, here and again when it admits the photo after its upload.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._route = Route(PHOTO_ROUTE, app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request or pass it on."""
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] == PHOTO_ROUTE:
            try:
                app_state_of(scope["app"]).queue.check(RequestContext.of(scope).deadline)
            except Overloaded as error:
                scope["route"] = self._route  # for the metrics, as if it had been routed
                await from_error(scope, error)(scope, receive, send)
                return
        await self._app(scope, receive, send)
