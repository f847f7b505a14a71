"""The local Triton: a real server as a child process that never outlives its owner."""

import collections
import contextlib
import math
import os
import signal
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
from service.triton.container import restriction
from service.triton.errors import StartFailed
from service.triton.ports import LOOPBACK, free_ports, listening_ports

EXIT_TIMEOUT_S = 5
"""Seconds that requests in flight get at a stop. Short, because a server with a dead stub uses all of it."""

KILL_AFTER_S = EXIT_TIMEOUT_S + 2.0

POLL_INTERVAL_S = 1
"""Triton polls the model repository, so that a new version directory that is moved in goes live without a restart,
and touching a model's file revives a dead stub. Listing a small folder costs nothing."""

LOCKED = ("shared-memory", "model-repository", "trace", "logging")
"""Parts of the gRPC protocol that let a client write files or map memory."""

MAX_START_ATTEMPTS = 3
LOG_LINES_KEPT = 40

RUNTIME_VARIABLE = "TANDEM_RUNTIME"
"""The environment variable that the python backend reads."""

MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "2147483648",
    "MALLOC_TOP_PAD_": "67108864",
}
"""Keeps large blocks in the heap instead of returning them to the kernel after each batch: +30 % throughput."""

LOG_FLAGS: dict[str, list[str]] = {
    "debug": [],
    "info": ["--log-info=false"],  # Triton's info level prints a screenful of tables at each start
    "warning": ["--log-info=false"],
    "error": ["--log-info=false", "--log-warning=false"],
}

GPU_COMPLAINTS = (b"CudaDriverHelper", b"pinned system memory", b"DCGM", b"NVML")
"""What Triton's complaints that it finds no GPU contain. On a machine without one they say nothing."""


class PortInUse(StartFailed):
    """Another process took the port after it was found free and before Triton listened on it."""


class LocalTriton:
    """Starts, watches and stops a Triton that serves ``model_repository`` on free loopback ports.

    It can be started from any thread, and again after ``stop()``. The server ends with the calling process,
    however that ends, and its shared memory is removed (see ``supervisor``).
    """

    grpc_url: str
    """``host:port`` of the gRPC endpoint, once started."""
    metrics_url: str
    """URL of Triton's own Prometheus metrics, once started."""
    pid: int
    """Process id of tritonserver, once started."""

    def __init__(
        self,
        *,
        home: Path,
        model_repository: Path,
        runtime: str = "auto",
        start_timeout_s: float = 60.0,
        log_level: str = "info",
        show_log: bool = True,
    ) -> None:
        """Configure the server; ``start()`` starts it.

        Args:
            home: the folder that Triton is installed in.
            model_repository: the folder of models to serve.
            runtime: auto, onnx or torchscript; see ``backend/model.py``.
            start_timeout_s: seconds until a start is given up.
            log_level: debug, info, warning or error. Triton's own info level is part of debug.
            show_log: copy the log to stderr. ``log`` and the error of a failed start have its end in any case.
        """
        self.home = home
        self.log_flags = LOG_FLAGS[log_level]
        self.show_log = show_log
        self.model_repository = model_repository
        self.runtime = runtime
        self.start_timeout_s = start_timeout_s
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._log: collections.deque[str] = collections.deque(maxlen=LOG_LINES_KEPT)
        self._log_thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the server and return once its models are loaded and it answers.

        Raises:
            NotInstalled: there is no Triton in ``home``.
            StartFailed: it exited or did not answer in time; nothing is left running.
        """
        if self.alive():
            raise RuntimeError(f"this Triton is already running as process {self.pid}")
        self.stop()
        installation = install.installed(self.home)
        if not self.model_repository.is_dir():
            raise StartFailed(f"the model repository {self.model_repository} is not a folder")
        install.refresh_backend(installation)
        deadline = time.monotonic() + self.start_timeout_s
        for attempt in range(1, MAX_START_ATTEMPTS + 1):
            try:
                self._launch(installation)
                self._await_live(deadline)
                return
            except PortInUse:
                self.stop()
                if attempt == MAX_START_ATTEMPTS:
                    raise
            except BaseException:  # KeyboardInterrupt too
                self.stop()
                raise

    def stop(self, *, force: bool = False) -> None:
        """Stop the server: after a few seconds for requests in flight, kill what is left. Idempotent.

        Args:
            force: kill it immediately, because it is broken and would only use up the grace period.
        """
        process = self._supervisor
        if process is None:
            return
        assert process.stdin  # noqa: S101 - all three are pipes
        assert process.stdout  # noqa: S101
        assert process.stderr  # noqa: S101
        with contextlib.suppress(BrokenPipeError):  # it has ended already
            if force:
                process.stdin.write(supervisor.KILL)
            process.stdin.close()
        try:
            process.wait(KILL_AFTER_S + 5)
        except subprocess.TimeoutExpired:
            process.kill()  # the kernel then kills the server too
        if process.wait() < 0 and self.pid:  # a killed supervisor has not killed the stubs
            kill_group(self.pid)
        if self._log_thread is not None:
            self._log_thread.join(5)
        process.stdout.close()
        if self._log_thread is None or not self._log_thread.is_alive():
            process.stderr.close()
        self._supervisor = None
        supervisor.remove_stale_files(supervisor.SHARED_MEMORY)  # in case the supervisor was killed

    @property
    def log(self) -> str:
        """The last lines of its log."""
        return "\n".join(self._log)

    def alive(self) -> bool:
        """Return whether the server's process is running. Only an inference tells whether its model works."""
        process = self._supervisor
        return process is not None and process.poll() is None

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Block until the server has ended; returns its exit status, or None after ``timeout_s`` seconds.

        A status of 128 + n stands for signal n.
        """
        process = self._supervisor
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
            "--disable-auto-complete-config",  # completing would start every stub twice, which takes 3 to 4 s
            # Triton's default is 30 s. Importing torch may take longer on a busy machine.
            f"--backend-config=python,stub-timeout-seconds={max(30, math.ceil(self.start_timeout_s))}",
            f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
            "--allow-http=false",
            f"--grpc-address={LOOPBACK}",
            f"--grpc-port={self._grpc_port}",
            restriction(LOCKED),  # every user of this machine can connect
            f"--metrics-address={LOOPBACK}",
            f"--metrics-port={self._metrics_port}",
            *self.log_flags,
        ]
        self._log.clear()
        self.pid = 0
        self._supervisor = process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-I", "-S", supervisor.__file__, str(KILL_AFTER_S), *command],
            env={**environment(installation), RUNTIME_VARIABLE: self.runtime},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C on the terminal then reaches only the owner, which stops the server
        )
        assert process.stdout  # noqa: S101 - it is a pipe
        self._log_thread = threading.Thread(target=self._copy_log, args=(process,), daemon=True)
        self._log_thread.start()
        self.pid = int(process.stdout.readline() or 0)

    def _await_live(self, deadline: float) -> None:
        while not self._is_live():
            if not self.alive():
                assert self._log_thread  # noqa: S101 - started with the process
                self._log_thread.join(5)
                failure = PortInUse if "in use" in self.log else StartFailed
                raise failure(f"Triton exited with status {self.wait()} during its start:\n{self.log}")
            if time.monotonic() > deadline:
                raise StartFailed(
                    f"Triton did not answer within {self.start_timeout_s:g} s (TANDEM_START_TIMEOUT_S):\n"
                    f"{self.log}"
                )
            time.sleep(0.02)

    def _is_live(self) -> bool:
        # Check that our own server listens: if another process took a port, it would answer instead of ours, which
        # takes a moment to exit.
        if not {self._grpc_port, self._metrics_port} <= listening_ports(self.pid):
            return False
        client = triton_grpc.InferenceServerClient(self.grpc_url, channel_args=[("grpc.enable_http_proxy", 0)])
        try:
            return bool(client.is_server_ready(client_timeout=1.0))
        except InferenceServerException:
            return False
        finally:
            client.close()

    def _copy_log(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr  # noqa: S101 - it is a pipe
        without_gpu = not has_gpu()
        for line in process.stderr:
            if without_gpu and any(text in line for text in GPU_COMPLAINTS):
                continue
            self._log.append(line.decode(errors="replace").rstrip())
            if not self.show_log:
                continue
            # Writing may fail on a full disk. Keep reading: Triton would block on a full pipe.
            with contextlib.suppress(OSError):
                os.write(2, line)  # not sys.stderr, which may have been replaced and closed


def has_gpu() -> bool:
    """Return whether this machine, or this container, has an NVIDIA GPU (on Windows' Linux, any GPU)."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()


def kill_group(group: int) -> None:
    """Kill a process group and wait until it is gone. While any member exists, its id cannot be reused."""
    deadline = time.monotonic() + KILL_AFTER_S
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(group, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(-group, os.WNOHANG)  # orphans become our children if we are process 1 of a container
            time.sleep(0.01)


def environment(installation: Path) -> dict[str, str]:
    """Return the server's environment: ours, plus the paths of its libraries and of this Python."""
    libraries = [str(installation / install.LIBRARIES), str(install.find_libpython().parent)]
    present = os.environ.get("LD_LIBRARY_PATH")
    # The stub uses the site-packages of the first `python3` on PATH.
    path = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    return {
        **MALLOC,
        **os.environ,
        "LD_LIBRARY_PATH": ":".join([*libraries, *([present] if present else [])]),
        "PATH": ":".join(path),
    }
