"""Supervises a Triton server: starts it, stops it when its owner ends, and cleans up after it.

This small process stands between the owner (``LocalTriton``) and the server for two reasons: an owner that is
killed cannot clean up, and ``PR_SET_PDEATHSIG`` would end the server with the owner's *thread* that started it.

The owner holds a pipe to the supervisor's stdin. When the pipe closes, because of ``stop()`` or because the owner
ended in any other way, the supervisor stops the server, kills the rest of its process group and removes its shared
memory. A ``KILL`` byte in the pipe kills the server without a grace period. If the supervisor itself is killed,
the kernel kills the server, and the next supervisor removes the shared memory.

Run by path, ``python -I -S supervisor.py GRACE_S COMMAND...``, so that it starts within 50 ms and needs no import
path: only the standard library may be imported here. It writes the server's process id to stdout; the server's log
goes to stderr.
"""

import ctypes
import fcntl
import functools
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux keeps POSIX shared memory
PREFIX = "tandem-triton-"

KILL = b"k"
"""The byte that the owner writes to have the server killed instead of stopped."""

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def claim_prefix(folder: Path) -> tuple[str, int]:
    """Reserve a prefix for file names in ``folder``; returns it and the descriptor of its lock file.

    The lock is held while any process has the descriptor open; the server and its stubs inherit it. Unlike a
    process id in the name, a lock cannot be reused, nor be mistaken for that of another container.
    """
    while True:
        prefix = f"{PREFIX}{os.urandom(4).hex()}"
        path = folder / f"{prefix}.lock"
        lock = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.stat().st_ino == os.fstat(lock).st_ino:
                return prefix, lock
        except (BlockingIOError, FileNotFoundError):
            pass  # another process found the file unlocked, took it for stale and removes it
        os.close(lock)


def remove_stale_files(folder: Path) -> None:
    """Remove the files of servers that have ended from ``folder``; those of running servers stay."""
    for path in folder.glob(f"{PREFIX}*.lock"):
        try:
            lock = os.open(path, os.O_RDWR)
        except (FileNotFoundError, PermissionError):
            continue  # removed in the meantime, or another user's
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_files(folder, path.stem)
        except BlockingIOError:
            continue
        finally:
            os.close(lock)


def remove_files(folder: Path, prefix: str) -> None:
    """Remove every file that starts with ``prefix``, the lock file last."""
    lock = folder / f"{prefix}.lock"
    for path in folder.glob(f"{prefix}*"):
        if path != lock:
            path.unlink(missing_ok=True)
    lock.unlink(missing_ok=True)


def supervise(command: list[str], grace_s: float) -> int:
    """Run the server until it ends or stdin closes; returns its exit status, 128 + n for signal n."""
    prefix, lock = claim_prefix(SHARED_MEMORY)
    try:
        prctl(PR_SET_CHILD_SUBREAPER, 1)  # orphaned stubs become our children, so that we can wait for them
        server = subprocess.Popen(  # noqa: S603 - our own command
            [*command, f"--backend-config=python,shm-region-prefix-name={prefix}-"],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            process_group=0,
            pass_fds=(lock,),
            preexec_fn=functools.partial(die_with, os.getpid()),  # noqa: PLW1509 - there are no threads here
        )
        try:
            forward_signals(server.pid)
            print(server.pid, flush=True)
            wait(server.pid, grace_s)
        finally:
            # The group id cannot have been reused: its leader has not been waited for yet.
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
            reap(server.pid)
    finally:
        remove_files(SHARED_MEMORY, prefix)
    return server.returncode if server.returncode >= 0 else 128 - server.returncode


def wait(server: int, grace_s: float) -> None:
    """Return when the server has ended or is to be killed; once stdin closes, stop it and wait ``grace_s``."""
    ended = os.pidfd_open(server)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(sys.stdin.fileno(), select.POLLIN | select.POLLHUP)
    if ended in dict(poll.poll()):
        return
    if os.read(sys.stdin.fileno(), 1) == KILL:
        return
    poll.unregister(sys.stdin.fileno())
    os.kill(server, signal.SIGTERM)
    poll.poll(grace_s * 1000)


def reap(group: int) -> None:
    """Wait for all killed processes of the group. Afterwards none of them maps the shared memory."""
    while True:
        try:
            os.waitpid(-group, 0)
        except ChildProcessError:
            return


def forward_signals(server: int) -> None:
    """Make signals to the supervisor stop the server gracefully instead of ending the supervisor first."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        os.kill(server, signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)


def die_with(parent: int) -> None:
    """Have the kernel kill the calling process when ``parent``, or its thread that forked, ends."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call
        os._exit(1)


def prctl(option: int, value: int) -> None:
    """Set an attribute of the calling process; the standard library has no function for it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value}) failed")


if __name__ == "__main__":
    remove_stale_files(SHARED_MEMORY)
    sys.exit(supervise(sys.argv[2:], grace_s=float(sys.argv[1])))
