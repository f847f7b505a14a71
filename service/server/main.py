"""Runs the gateway, and a local Triton unless it is told to use an existing one."""

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from types import FrameType

import uvicorn
from fastapi import FastAPI
from starlette.types import Scope

from service.api.app import create_app, create_operations_app
from service.api.dependencies import AppState, app_state_of
from service.budget import Budget
from service.errors import TandemError
from service.observability.request_context import RequestContext
from service.server.core_dumps import disable_core_dumps
from service.server.http_protocol import HttpProtocol
from service.server.malloc_tuning import return_large_blocks
from service.server.triton_watchdog import TritonWatchdog
from service.server.websocket_protocol import WebSocketProtocol
from service.settings import Settings
from service.triton.server import LocalTriton
from service.workers.gc_tuning import freeze_heap

READY_POLL_S = 0.25
"""Seconds between inferences at the start, until the first one succeeds."""

LISTEN_BACKLOG = 2048

logger = logging.getLogger("tandem.server")


class PortInUse(Exception):
    """Another process listens on the HTTP port."""


class NotReady(Exception):
    """No inference succeeded within ``start_timeout_s``."""


def listen(host: str, port: int, *, setting: str = "TANDEM_PORT") -> socket.socket:
    """Open a listening socket. It listens right away, because two sockets that are only bound can share a port.

    Raises:
        PortInUse: another process listens there.
        OSError: ``host`` is not an address of this machine, or the port is not permitted.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.getaddrinfo(host, port)
    except (socket.gaierror, ValueError) as error:  # ValueError: not a host's name at all
        reason = error.strerror if isinstance(error, OSError) else error
        raise OSError(f"TANDEM_HOST is {host!r}, which cannot be resolved: {reason}") from None
    try:
        return socket.create_server((host, port), family=family, backlog=LISTEN_BACKLOG)
    except OSError as error:
        with socket.socket(family) as probe:
            probe.settimeout(1)
            in_use = port != 0 and probe.connect_ex((host, port)) == 0
        if in_use:
            raise PortInUse(
                f"port {port} on {host} is already in use: stop that program, or set another port, such as "
                f"{setting}={port % 65535 + 1}"
            ) from None
        raise OSError(
            f"cannot listen on {host} (TANDEM_HOST) port {port} ({setting}): {error.strerror or error}"
        ) from None


def _base_url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(settings: Settings, *, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C. The local Triton is always stopped.

    Args:
        settings: if ``triton_url`` is unset, a local Triton is started.
        announce: called with the base URL once a real inference has succeeded.

    Raises:
        PortInUse: another process listens on the HTTP port; nothing was started.
        OSError: the HTTP port cannot be opened; nothing was started.
        LocalTritonError: the local Triton cannot be started.
        NotReady: the local Triton runs, but no inference succeeds.
    """
    return_large_blocks()
    disable_core_dumps()
    with ExitStack() as sockets:
        listeners = [sockets.enter_context(listen(settings.host, settings.port))]
        if settings.operations_port is not None:
            operations = listen(settings.host, settings.operations_port, setting="TANDEM_OPERATIONS_PORT")
            listeners.append(sockets.enter_context(operations))
        if settings.triton_url is not None:
            _run(settings, listeners, announce, triton=None)
            return
        triton = LocalTriton(
            home=settings.triton_home,
            model_repository=settings.model_repository,
            runtime=settings.runtime,
            start_timeout_s=settings.start_timeout_s,
            log_level=settings.log_level,
        )
        # Before uvicorn installs its handlers and after it removes them, SIGTERM must not skip stopping Triton.
        previous = signal.signal(signal.SIGTERM, _exit)
        try:
            triton.start()
            _run(settings.model_copy(update={"triton_url": triton.grpc_url}), listeners, announce, triton)
        finally:
            triton.stop()
            signal.signal(signal.SIGTERM, previous)


def _exit(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def _run(
    settings: Settings,
    listeners: Sequence[socket.socket],
    announce: Callable[[str], None],
    triton: LocalTriton | None,
) -> None:
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        http=partial(HttpProtocol, timeout_s=settings.upload_timeout_s, metrics=app.state.metrics),  # type: ignore[arg-type]
        ws=partial(  # type: ignore[arg-type]
            WebSocketProtocol,
            timeout_s=settings.upload_timeout_s,
            metrics=app.state.metrics,
            memory_for=partial(_upload_memory, app),
        ),
        ws_per_message_deflate=False,  # photos are compressed already
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_keep_alive=settings.keep_alive_s,  # type: ignore[arg-type]
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        ws_max_size=settings.max_frame_bytes,
        timeout_graceful_shutdown=round(settings.request_timeout_s) + 1,
    )
    operations = _OperationsServer(app, listeners[1], settings.upload_timeout_s) if len(listeners) > 1 else None
    server = _Server(config, app, settings, triton, announce, operations)
    server.run(sockets=[listeners[0]])
    if server.failure:
        raise server.failure


def _upload_memory(app: FastAPI, scope: Scope) -> AbstractContextManager[Budget]:
    return app_state_of(app).uploads.part(RequestContext.of(scope).caller)


class _OperationsServer(uvicorn.Server):
    """A second server on the same event loop, for the operations routes. It stops last."""

    def __init__(self, app: FastAPI, listener: socket.socket, timeout_s: float) -> None:
        config = uvicorn.Config(
            create_operations_app(app),
            http=partial(HttpProtocol, timeout_s=timeout_s, metrics=app.state.metrics),  # type: ignore[arg-type]
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
        )
        super().__init__(config)
        self._listener = listener
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the main server."""
        yield

    def start(self) -> None:
        self._task = asyncio.create_task(self.serve(sockets=[self._listener]))
        logger.info("operations routes at %s", _base_url(self._listener))

    async def stop(self) -> None:
        self.should_exit = True
        if self._task:
            await self._task


class _Server(uvicorn.Server):
    """uvicorn plus the watchdog of a local Triton, and draining that load balancers can see."""

    def __init__(
        self,
        config: uvicorn.Config,
        app: FastAPI,
        settings: Settings,
        triton: LocalTriton | None,
        announce: Callable[[str], None],
        operations: _OperationsServer | None,
    ) -> None:
        super().__init__(config)
        self._operations = operations
        self.failure: Exception | None = None
        self._app = app
        self._settings = settings
        self._triton = triton
        self._announce = announce
        self._drain_deadline = float("inf")
        self._watchdog: asyncio.Task[None] | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGHUP too, which would end the process at once, unless it is ignored as by nohup."""
        previous = signal.getsignal(signal.SIGHUP)
        if previous is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self.handle_exit)
        try:
            with super().capture_signals():
                yield
        finally:
            signal.signal(signal.SIGHUP, previous)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            if self._operations:
                self._operations.start()
            self._watchdog = asyncio.create_task(self._run_watchdog(_base_url(sockets[0])))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._watchdog:
            self._watchdog.cancel()
            await asyncio.gather(self._watchdog, return_exceptions=True)
        # Close streams before uvicorn does: it would use code 1012, which announces a restart of this service.
        await self._app_state.streams.close()
        await super().shutdown(sockets)
        if self._operations:
            await self._operations.stop()

    async def on_tick(self, counter: int) -> bool:
        if time.monotonic() >= self._drain_deadline:
            self.should_exit = True
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain on SIGTERM and SIGHUP, exit without draining on Ctrl-C or a second signal, at once on a third.

        Unlike uvicorn's handler, this one does not raise the signal again later: that would end the process
        before Triton is stopped.
        """
        if self.should_exit:
            self.force_exit = True
        elif sig in (signal.SIGTERM, signal.SIGHUP) and self._drain_deadline == float("inf"):
            self._drain_deadline = time.monotonic() + self._settings.drain_s
        else:
            self.should_exit = True
        if hasattr(self._app.state, "app_state"):  # not yet set early in the startup
            self._app_state.draining = True

    @property
    def _app_state(self) -> AppState:
        return app_state_of(self._app)

    async def _run_watchdog(self, url: str) -> None:
        try:
            await self._await_ready()
            freeze_heap()
            self._announce(url)
            if self._triton:
                await TritonWatchdog(self._triton, self._app_state.triton).run()
        except Exception as error:
            # An exception in this task would go unnoticed; `serve` raises it when the server has stopped.
            self.failure = error
            self.should_exit = True

    async def _await_ready(self) -> None:
        """Wait for a successful inference, for a local Triton at most ``start_timeout_s``."""
        deadline = time.monotonic() + self._settings.start_timeout_s
        reported = ""
        while True:
            try:
                await self._app_state.triton.ready()
                return
            except TandemError as error:
                if self._triton and time.monotonic() > deadline:
                    raise NotReady(
                        f"no inference succeeded within {self._settings.start_timeout_s:g} s "
                        f"(TANDEM_START_TIMEOUT_S): {error.detail}"
                    ) from None
                if error.detail != reported:
                    reported = error.detail
                    logger.warning("waiting for Triton: %s", reported)
            await asyncio.sleep(READY_POLL_S)
