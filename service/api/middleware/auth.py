"""Who may call the API, and how often: around every route below ``/v1/``."""

import ipaddress
from functools import lru_cache
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from service.api.middleware.rate_limit import RateLimiter
from service.api.middleware.request_log import request_id_of
from service.api.problems import from_error
from service.api_keys import KeyRing
from service.errors import Overloaded, TandemError, TooManyRequests, Unauthorized
from service.settings import Settings

GUARDED = "/v1/"
"""What needs a key. The page, the reference and the operations routes tell nothing of photos."""

PHOTO_ROUTE = "/v1/emotions"
"""Where «overloaded» says that photos find no room; elsewhere it may be about places for batches."""

REALM: Final = 'Bearer realm="tandem"'

MAX_KEY_LENGTH = 256

KEY_PROTOCOL: Final = "tandem.key."
"""What a key follows in the name of a WebSocket subprotocol."""


class AuthMiddleware:
    """Pure ASGI middleware: knows the caller by its key, else by its address, and keeps it to its limits."""

    def __init__(self, app: ASGIApp, keys: KeyRing, limits: RateLimiter) -> None:
        self._app = app
        self._keys = keys
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401 or 429, or hand the request on."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["spend"] = _nothing
        state["take_frame"] = _nothing_taken
        if not scope["path"].startswith(GUARDED):
            await self._app(scope, receive, send)
            return
        try:
            caller = self._identify(scope)
        except Unauthorized as error:
            await _refuse(error, {"WWW-Authenticate": REALM}, scope, receive, send)
            return
        try:
            self._limits.enter(caller)
        except TooManyRequests as error:
            await _refuse(error, self._limits.headers(caller), scope, receive, send)
            return
        state["spend"] = lambda photos: self._limits.spend(caller, photos)
        state["take_frame"] = lambda: self._limits.take(caller)

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._limits.headers(caller))
            await send(message)

        try:
            await self._app(scope, receive, send_with_limits)
        finally:
            if state.get("problem") == Overloaded.slug and scope["path"] == PHOTO_ROUTE:
                self._limits.scarce()
            self._limits.leave(caller)

    def _identify(self, scope: Scope) -> str:
        if not self._keys.keys:
            return f"address {network_of(scope)}"
        presented = presented_key(Headers(scope=scope))
        if presented is None:
            raise Unauthorized(
                "the request carries no API key, as Authorization: Bearer <key> or X-API-Key: <key>"
            )
        name = self._keys.name_of(presented)
        if name is None:
            raise Unauthorized("the API key is not known here")
        scope["state"]["caller"] = name
        return f"key {name}"


def presented_key(headers: Headers) -> str | None:
    """The key in ``Authorization: Bearer`` or ``X-API-Key``, whatever it is worth; None where there is none.

    A browser's WebSocket can send neither: there it is offered as a subprotocol, after ``KEY_PROTOCOL``.
    """
    scheme, _, token = headers.get("authorization", "").partition(" ")
    key = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "").strip()
    if not key:
        offered = (protocol.strip() for protocol in headers.get("sec-websocket-protocol", "").split(","))
        key = next((name.removeprefix(KEY_PROTOCOL) for name in offered if name.startswith(KEY_PROTOCOL)), "")
    return key[:MAX_KEY_LENGTH] or None


def network_of(scope: Scope) -> str:
    """The client's address; of IPv6 the first 64 bits, since whoever has one address has all of those."""
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
    """All keys of the settings and of the file that they name.

    Raises:
        OSError, ValueError: the file cannot be read, or is none of keys.
    """
    lines = list(settings.api_keys)
    if settings.api_keys_file:
        lines += settings.api_keys_file.read_text().splitlines()
    return KeyRing.from_lines(lines)


async def _refuse(error: TandemError, headers: dict[str, str], scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        scope["state"]["request_id"] = request_id_of(scope)
        await WebSocket(scope, receive, send).send_denial_response(from_error(scope, error, headers=headers))
    else:
        await from_error(scope, error, headers=headers)(scope, receive, send)


def _nothing(_photos: int) -> None:
    """No limit counts what a request spends."""


def _nothing_taken() -> None:
    """No limit counts the frames of a stream."""
