"""Runs the gateway as a process, with a local Triton beside it unless there is one elsewhere."""

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from types import FrameType

import uvicorn
from fastapi import FastAPI

from service.api.app import create_app, create_operations_app
from service.api.dependencies import AppState, app_state_of
from service.errors import TandemError
from service.server.http_protocol import HttpProtocol
from service.server.triton_watchdog import TritonWatchdog
from service.settings import Settings
from service.triton.server import LocalTriton
from service.workers.gc_tuning import freeze_heap

ASK_S = 0.25
"""How often Triton is asked, until an inference works."""

logger = logging.getLogger("tandem.serving")


class PortTaken(Exception):
    """The HTTP port belongs to another process."""


class NotReady(Exception):
    """No inference worked within ``start_timeout_s``."""


def bind(host: str, port: int, *, setting: str = "TANDEM_PORT") -> socket.socket:
    """A listening socket; listening at once, since two that are only bound may share a port.

    Raises:
        PortTaken: somebody listens there.
        OSError: the address is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        with socket.socket(family) as probe:
            probe.settimeout(1)
            taken = port != 0 and probe.connect_ex((host, port)) == 0
        if taken:
            raise PortTaken(f"port {port} on {host} is taken ({setting})") from None
        raise OSError(f"cannot listen on {host} port {port}: {error.strerror or error}") from None


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(settings: Settings, *, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C; the local Triton is stopped whatever happens.

    Args:
        settings: without a ``triton_url`` a local Triton is started.
        announce: called with the base URL once a real inference has worked.

    Raises:
        PortTaken, OSError: the HTTP port cannot be had; nothing was started.
        LocalTritonError: the local Triton cannot be started.
        NotReady: it runs, but no inference works.
    """
    with ExitStack() as sockets:
        listeners = [sockets.enter_context(bind(settings.host, settings.port))]
        if settings.operations_port is not None:
            operations = bind(settings.host, settings.operations_port, setting="TANDEM_OPERATIONS_PORT")
            listeners.append(sockets.enter_context(operations))
        if settings.triton_url is not None:
            _run(settings, listeners, announce, triton=None)
            return
        triton = LocalTriton(
            home=settings.triton_home,
            model_repository=settings.model_repository,
            start_timeout_s=settings.start_timeout_s,
            log_level=settings.log_level,
        )
        # Before uvicorn's handlers are there, and after them, SIGTERM would end us without stopping Triton.
        former = signal.signal(signal.SIGTERM, _exit)
        try:
            triton.start()
            _run(settings.model_copy(update={"triton_url": triton.grpc_url}), listeners, announce, triton)
        finally:
            triton.stop()
            signal.signal(signal.SIGTERM, former)


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
        http=partial(HttpProtocol, patience_s=settings.upload_timeout_s),  # type: ignore[arg-type]
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        ws_max_size=settings.max_frame_bytes,
        timeout_graceful_shutdown=round(settings.request_timeout_s) + 1,
    )
    operations = _OperationsServer(app, listeners[1]) if len(listeners) > 1 else None
    server = _Server(config, app, settings, triton, announce, operations)
    server.run(sockets=[listeners[0]])
    if server.failure:
        raise server.failure


class _OperationsServer(uvicorn.Server):
    """A second server in the same loop, for the operations routes; it stops last."""

    def __init__(self, app: FastAPI, listener: socket.socket) -> None:
        config = uvicorn.Config(
            create_operations_app(app), log_config=None, access_log=False, server_header=False, lifespan="off"
        )
        super().__init__(config)
        self._listener = listener
        self._running: asyncio.Task[None] | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the other server."""
        yield

    def begin(self) -> None:
        self._running = asyncio.create_task(self.serve(sockets=[self._listener]))
        logger.info("operations routes at %s", _url(self._listener))

    async def end(self) -> None:
        self.should_exit = True
        if self._running:
            await self._running


class _Server(uvicorn.Server):
    """uvicorn, with the watch over Triton beside it and a draining that load balancers can see."""

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
        self._drained_at = float("inf")
        self._watch: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            if self._operations:
                self._operations.begin()
            self._watch = asyncio.create_task(self._watch_triton(_url(sockets[0])))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._watch:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        # Before uvicorn, which would tell them of a restart of this very service (1012).
        await self._app_state.streams.close()
        await super().shutdown(sockets)
        if self._operations:
            await self._operations.end()

    async def on_tick(self, counter: int) -> bool:
        if time.monotonic() >= self._drained_at:
            self.should_exit = True
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM: drain, then exit. Ctrl-C or a second signal: exit without draining; a third: at once.

        uvicorn would raise the signal again afterwards, which would end us before Triton is stopped.
        """
        if self.should_exit:
            self.force_exit = True
        elif sig == signal.SIGTERM and self._drained_at == float("inf"):
            self._drained_at = time.monotonic() + self._settings.drain_s
        else:
            self.should_exit = True
        if hasattr(self._app.state, "app_state"):  # not so early in its start
            self._app_state.draining = True

    @property
    def _app_state(self) -> AppState:
        return app_state_of(self._app)

    async def _watch_triton(self, url: str) -> None:
        try:
            await self._await_ready()
            freeze_heap()
            self._announce(url)
            if self._triton:
                await TritonWatchdog(self._triton, self._app_state.triton).keep_alive()
        except Exception as error:
            # In a task of its own it would be seen by nobody.
            self.failure = error
            self.should_exit = True

    async def _await_ready(self) -> None:
        """Return when an inference works. A local Triton must come within time; a remote one is waited for."""
        ends_at = time.monotonic() + self._settings.start_timeout_s
        reported = ""
        while True:
            try:
                await self._app_state.triton.ready()
                return
            except TandemError as error:
                if self._triton and time.monotonic() > ends_at:
                    raise NotReady(
                        f"no inference worked within {self._settings.start_timeout_s:g} s: {error.detail}"
                    ) from None
                if error.detail != reported:
                    reported = error.detail
                    logger.warning("waiting for Triton: %s", reported)
            await asyncio.sleep(ASK_S)
