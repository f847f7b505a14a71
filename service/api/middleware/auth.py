"""Authentication and rate limiting of every route below ``/v1/``."""

import ipaddress
from functools import lru_cache
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from service.api.middleware.rate_limit import RateLimiter
from service.api.problems import from_error
from service.api_keys import KeyRing
from service.errors import Overloaded, TandemError, TooManyRequests, Unauthorized
from service.observability.request_context import RequestContext
from service.settings import Settings

GUARDED = "/v1/"
"""Prefix of the routes that need a key. The page, the docs and the health routes reveal nothing about photos."""

PHOTO_ROUTE = "/v1/emotions"
"""The route where "overloaded" means too many photos; on other routes it may mean too many batches."""

REALM: Final = 'Bearer realm="tandem"'

MAX_KEY_LENGTH = 256

KEY_PROTOCOL: Final = "tandem.key."
"""Prefix of a WebSocket subprotocol that carries a key."""


class AuthMiddleware:
    """Pure ASGI middleware: identifies the caller by its key, or else by its address, and applies its limits."""

    def __init__(self, app: ASGIApp, keys: KeyRing, limiter: RateLimiter) -> None:
        self._app = app
        self._keys = keys
        self._limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401 or 429, or pass the request on."""
        if scope["type"] not in ("http", "websocket") or not scope["path"].startswith(GUARDED):
            await self._app(scope, receive, send)
            return
        context = RequestContext.of(scope)
        try:
            context.caller, context.key_name = self._identify(scope)
        except Unauthorized as error:
            await _refuse(error, {"WWW-Authenticate": REALM}, scope, receive, send)
            return
        caller = context.caller
        try:
            self._limiter.reserve(caller)
        except TooManyRequests as error:
            await _refuse(error, self._limiter.headers(caller), scope, receive, send)
            return

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._limiter.headers(caller))
            await send(message)

        try:
            await self._app(scope, receive, send_with_limits)
        finally:
            if context.problem == Overloaded.slug and context.route == PHOTO_ROUTE:
                self._limiter.report_overload()
            self._limiter.release(caller)

    def _identify(self, scope: Scope) -> tuple[str, str | None]:
        """Return whom the request counts for, and the name of its key if keys are configured."""
        if not self._keys.keys:
            return f"address {network_of(scope)}", None
        presented = presented_key(Headers(scope=scope))
        if presented is None:
            raise Unauthorized("the request carries no API key (Authorization: Bearer <key> or X-API-Key: <key>)")
        name = self._keys.name_of(presented)
        if name is None:
            raise Unauthorized("the API key is unknown")
        return f"key {name}", name


def presented_key(headers: Headers) -> str | None:
    """Return the key in ``Authorization: Bearer`` or ``X-API-Key``, unchecked; None if there is none.

    WebSockets of browsers can send neither header and offer the key as a subprotocol, after ``KEY_PROTOCOL``.
    """
    scheme, _, token = headers.get("authorization", "").partition(" ")
    key = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "").strip()
    if not key:
        offered = (protocol.strip() for protocol in headers.get("sec-websocket-protocol", "").split(","))
        key = next((name.removeprefix(KEY_PROTOCOL) for name in offered if name.startswith(KEY_PROTOCOL)), "")
    return key[:MAX_KEY_LENGTH] or None


def network_of(scope: Scope) -> str:
    """Return the client's address; for IPv6 its /64 network, since one client usually has all of it."""
    return _network(scope["client"][0] if scope.get("client") else "")


@lru_cache(maxsize=1024)
def _network(host: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return str(host)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False).network_address)
    return str(address)


def key_ring(settings: Settings) -> KeyRing:
    """Collect the keys of the settings and of the file that they name.

    Raises:
        OSError, ValueError: The file cannot be read, or has other lines than keys.
    """
    lines = list(settings.api_keys)
    if settings.api_keys_file:
        lines += settings.api_keys_file.read_text().splitlines()
    return KeyRing.from_lines(lines)


async def _refuse(error: TandemError, headers: dict[str, str], scope: Scope, receive: Receive, send: Send) -> None:
    response = from_error(scope, error, headers=headers)
    if scope["type"] == "websocket":
        await WebSocket(scope, receive, send).send_denial_response(response)
    else:
        await response(scope, receive, send)
