"""The local Triton: a real server as a child process that never outlives its owner."""

import collections
import contextlib
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException

from service.triton import install, supervisor
from service.triton.errors import StartFailed

LOOPBACK = "127.0.0.1"

# Seconds that requests in flight have at a stop. Short, because a server with a dead stub waits for all of it.
EXIT_TIMEOUT_S = 5
KILL_AFTER_S = EXIT_TIMEOUT_S + 2.0
# The model repository is polled, so that a new version directory, moved in as a whole, goes live without a
# restart, and so that touching a model's file brings a dead stub back. Listing a small folder costs nothing.
POLL_INTERVAL_S = 1

PORT_ATTEMPTS = 3
TCP_LISTEN = "0A"
LOG_LINES_KEPT = 40

# Big blocks stay in the heap instead of going back to the kernel after every batch: measured +30 % throughput.
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "2147483648",
    "MALLOC_TOP_PAD_": "67108864",
}


# Triton's "info" fills a screen with tables at each start.
LOG_FLAGS: dict[str, list[str]] = {
    "debug": [],
    "info": ["--log-info=false"],
    "warning": ["--log-info=false"],
    "error": ["--log-info=false", "--log-warning=false"],
}


class PortTaken(StartFailed):
    """Another process took a port between our finding it free and Triton's listening on it."""


class LocalTriton:
    """Starts, watches and stops one Triton that serves ``model_repository`` on free loopback ports.

    May be started from any thread, and again after ``stop()``. The server ends with the calling process, however
    that ends, and its shared memory is removed (see ``keeper``). Its log goes to our stderr.
    """

    grpc_url: str
    """``host:port``, once started."""
    metrics_url: str
    """Where Prometheus finds Triton's own metrics, once started."""
    pid: int
    """Process id of tritonserver, once started."""

    def __init__(
        self, *, home: Path, model_repository: Path, start_timeout_s: float = 60.0, log_level: str = "info"
    ) -> None:
        """Start nothing yet.

        Args:
            home: where the installation is.
            model_repository: what to serve.
            start_timeout_s: seconds until a start is given up.
            log_level: debug, info, warning or error; Triton tells its tables at debug only.
        """
        self.home = home
        self.log_flags = LOG_FLAGS[log_level]
        self.model_repository = model_repository
        self.start_timeout_s = start_timeout_s
        self._keeper: subprocess.Popen[bytes] | None = None
        self._log: collections.deque[str] = collections.deque(maxlen=LOG_LINES_KEPT)
        self._log_thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the server and return when its models are loaded and it answers.

        Raises ``NotInstalled`` or ``StartFailed``; then nothing is left running.
        """
        if self.alive():
            raise RuntimeError(f"this Triton is already running as process {self.pid}")
        self.stop()
        installation = install.installed(self.home)
        if not self.model_repository.is_dir():
            raise StartFailed(f"the model repository {self.model_repository} is not a folder")
        install.refresh_backend(installation)
        deadline = time.monotonic() + self.start_timeout_s
        for attempt in range(1, PORT_ATTEMPTS + 1):
            try:
                self._launch(installation)
                self._await_live(deadline)
                return
            except PortTaken:
                self.stop()
                if attempt == PORT_ATTEMPTS:
                    raise
            except BaseException:  # a KeyboardInterrupt too
                self.stop()
                raise

    def stop(self, *, at_once: bool = False) -> None:
        """Stop the server: requests in flight get a few seconds, then all of it is killed. Idempotent.

        Args:
            at_once: kill it, for one that does not work any more and would use up its seconds.
        """
        process = self._keeper
        if process is None:
            return
        assert process.stdin  # noqa: S101 - all three are pipes
        assert process.stdout  # noqa: S101
        assert process.stderr  # noqa: S101
        with contextlib.suppress(BrokenPipeError):  # it has ended already
            if at_once:
                process.stdin.write(supervisor.AT_ONCE)
            process.stdin.close()
        try:
            process.wait(KILL_AFTER_S + 5)
        except subprocess.TimeoutExpired:  # the kernel kills the server with its keeper
            process.kill()
        if process.wait() < 0 and self.pid:  # a killed keeper has not killed the stubs
            end_group(self.pid)
        if self._log_thread is not None:
            self._log_thread.join(5)
        process.stdout.close()
        if self._log_thread is None or not self._log_thread.is_alive():
            process.stderr.close()
        self._keeper = None
        supervisor.sweep(supervisor.SHARED_MEMORY)  # in case somebody killed the keeper

    def alive(self) -> bool:
        """Whether the server's process runs. A model can be broken all the same: only an inference tells."""
        process = self._keeper
        return process is not None and process.poll() is None

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Block until the server has ended, for whatever reason; its exit status, None after ``timeout_s``.

        128 + n stands for signal n. For a thread that wants to know at once.
        """
        process = self._keeper
        if process is None:
            return 0
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _launch(self, installation: Path) -> None:
        self._grpc_port, self._metrics_port = free_ports(2)
        self.grpc_url = f"{LOOPBACK}:{self._grpc_port}"
        self.metrics_url = f"http://{LOOPBACK}:{self._metrics_port}/metrics"
        command = [
            str(installation / install.SERVER),
            f"--model-repository={self.model_repository.absolute()}",
            f"--backend-directory={installation / install.BACKENDS}",
            "--model-control-mode=poll",
            f"--repository-poll-secs={POLL_INTERVAL_S}",
            "--disable-auto-complete-config",  # completing would start every stub once more: 3 to 4 s
            # Triton's own is 30 s, which the import of torch may take where other work has the cores.
            f"--backend-config=python,stub-timeout-seconds={max(30, math.ceil(self.start_timeout_s))}",
            f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
            "--allow-http=false",
            f"--grpc-address={LOOPBACK}",
            f"--grpc-port={self._grpc_port}",
            f"--metrics-address={LOOPBACK}",
            f"--metrics-port={self._metrics_port}",
            *self.log_flags,
        ]
        self._log.clear()
        self.pid = 0
        self._keeper = process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-I", "-S", supervisor.__file__, str(KILL_AFTER_S), *command],
            env=environment(installation),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C on the terminal reaches the owner alone, who stops in order
        )
        assert process.stdout  # noqa: S101 - it is a pipe
        self._log_thread = threading.Thread(target=self._pass_on_log, args=(process,), daemon=True)
        self._log_thread.start()
        self.pid = int(process.stdout.readline() or 0)

    def _await_live(self, deadline: float) -> None:
        while not self._is_live():
            if not self.alive():
                assert self._log_thread  # noqa: S101 - started with the process
                self._log_thread.join(5)
                log = "\n".join(self._log)
                failure = PortTaken if "in use" in log else StartFailed
                raise failure(f"Triton exited with status {self.wait()} at its start:\n{log}")
            if time.monotonic() > deadline:
                log = "\n".join(self._log)
                raise StartFailed(f"Triton did not answer within {self.start_timeout_s:g} s:\n{log}")
            time.sleep(0.02)

    def _is_live(self) -> bool:
        # Our server itself must listen, on both ports: another may have taken one, and ours exits only then.
        if not {self._grpc_port, self._metrics_port} <= listening_ports(self.pid):
            return False
        client = triton_grpc.InferenceServerClient(self.grpc_url)
        try:
            return bool(client.is_server_ready(client_timeout=1.0))
        except InferenceServerException:
            return False
        finally:
            client.close()

    def _pass_on_log(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr  # noqa: S101 - it is a pipe
        for line in process.stderr:
            self._log.append(line.decode(errors="replace").rstrip())
            # Our log may be full; unread, its pipe would fill too, and Triton would wait for ever to write to it.
            with contextlib.suppress(OSError):
                os.write(2, line)  # the descriptor: sys.stderr may be somebody's buffer, closed by now


def end_group(group: int) -> None:
    """Kill a process group and wait till it is gone. Whoever is left in it keeps others from having its id."""
    ends_at = time.monotonic() + KILL_AFTER_S
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < ends_at:
            os.killpg(group, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(-group, os.WNOHANG)  # ours to reap where we are process 1 of a container
            time.sleep(0.01)


def environment(installation: Path) -> dict[str, str]:
    """What the server inherits: our environment, with the places of its libraries and of this Python."""
    libraries = [str(installation / install.LIBRARIES), str(install.find_libpython().parent)]
    present = os.environ.get("LD_LIBRARY_PATH")
    # The stub takes the environment (site-packages) of the first `python3` on PATH.
    path = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    return {
        **MALLOC,
        **os.environ,
        "LD_LIBRARY_PATH": ":".join([*libraries, *([present] if present else [])]),
        "PATH": ":".join(path),
    }


def free_ports(count: int) -> list[int]:
    """Different loopback ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind((LOOPBACK, 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def listening_ports(process: int) -> set[int]:
    """The TCP ports that a process listens on; empty when it does not exist."""
    folder = Path(f"/proc/{process}")
    sockets = set()
    try:
        for descriptor in (folder / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                sockets.add(str(descriptor.readlink()))
        rows = [row.split() for table in ("tcp", "tcp6") for row in _rows(folder / "net" / table)]
    except (FileNotFoundError, ProcessLookupError):
        return set()
    # proc(5): the second column is address:port in hexadecimal, the fourth the state, the tenth the inode.
    return {
        int(row[1].rpartition(":")[2], 16)
        for row in rows
        if row[3] == TCP_LISTEN and f"socket:[{row[9]}]" in sockets
    }


def _rows(table: Path) -> list[str]:
    return table.read_text().splitlines()[1:] if table.exists() else []  # no tcp6 without IPv6
