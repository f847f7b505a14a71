"""Open a client for a command: of a running gateway, or of one inside this process."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from urllib.parse import urlsplit

import httpx  # noqa: TID251 - calls a gateway for its user

from service.api.app import create_app
from service.cli.console import print_error, print_status
from service.cli.triton_download import install_triton
from service.client import DEFAULT_URL, AsyncClient
from service.settings import Settings
from service.triton.server import LocalTriton

MAX_RETRIES = 10
"""Retries per photo while the gateway is busy. Its Retry-After header says how long to wait before each."""

ClientContext = AbstractAsyncContextManager[AsyncClient]
"""A client that is opened, along with its gateway if need be, when the context is entered."""


def open_client(url: str | None, settings: Settings, api_key: str | None) -> ClientContext:
    """Return a client of the gateway at ``url``, or of the one on this machine, or of one in this process."""
    if url is None and is_listening(own_url(settings)):
        url = own_url(settings)
    return remote_client(url, settings, api_key) if url else local_client(settings)


def own_url(settings: Settings) -> str:
    """Return the URL at which a gateway with these settings is reached on this machine."""
    return url_of(settings.host, settings.port) if settings.port else DEFAULT_URL


def url_of(host: str, port: int) -> str:
    """Return the URL of what listens on an address; one that stands for all addresses is reached by loopback."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - connects only
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_listening(url: str) -> bool:
    """Return whether a server accepts connections at an http URL."""
    parts = urlsplit(url)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=1):
            return True
    except OSError:
        return False


@asynccontextmanager
async def remote_client(url: str, settings: Settings, api_key: str | None = None) -> AsyncIterator[AsyncClient]:
    """Connect to the gateway at ``url``."""
    timeout_s = settings.request_timeout_s + 1  # lets the gateway answer 504 first
    async with AsyncClient(url, api_key=api_key, timeout_s=timeout_s, retries=MAX_RETRIES) as client:
        yield client


@asynccontextmanager
async def local_client(settings: Settings) -> AsyncIterator[AsyncClient]:
    """Run a gateway in this process, with a local Triton unless ``triton_url`` is set.

    Raises:
        LocalTritonError: Triton cannot be started.
    """
    # API keys and limits are meant for callers over the network.
    settings = settings.model_copy(
        update={"api_keys": (), "api_keys_file": None, "rate_limit": None, "concurrent_limit": None}
    )
    if settings.triton_url is not None:
        async with _asgi_client(settings) as client:
            yield client
        return
    print_status(
        f"no service at {own_url(settings)}; starting one for this command; --url names another, "
        "and `tandem serve` one that stays"
    )
    await asyncio.to_thread(install_triton, settings.triton_home)
    with LocalTriton(
        home=settings.triton_home,
        model_repository=settings.model_repository,
        runtime=settings.runtime,
        start_timeout_s=settings.start_timeout_s,
        show_log=False,
    ) as triton:
        try:
            async with _asgi_client(settings.model_copy(update={"triton_url": triton.grpc_url})) as client:
                yield client
        finally:
            if not triton.alive():
                print_error(f"Triton has ended:\n{triton.log}")


@asynccontextmanager
async def _asgi_client(settings: Settings) -> AsyncIterator[AsyncClient]:
    app = create_app(settings)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        AsyncClient("http://tandem", timeout_s=None, retries=MAX_RETRIES, transport=transport) as client,
    ):
        yield client
