"""Keeps one Triton server: starts it, ends it when its owner goes, and leaves nothing behind.

This small process stands between the owner (``LocalTriton``) and the server, because an owner that is killed
cannot clean up, and because a child bound straight to the owner by ``PR_SET_PDEATHSIG`` would die with the
*thread* that started it. The owner holds a pipe to the keeper's stdin. When it closes, by ``stop()`` or by the
owner's death of whatever kind, the server is stopped, the rest of its process group is killed and its shared
memory is removed. A byte in the pipe (``AT_ONCE``) stops a server that does not work any more without grace.
Should the keeper itself be killed, the kernel kills the server, and the next keeper removes
the shared memory.

Run by path, ``python -I -S keeper.py GRACE_S COMMAND...``, so that it starts in 50 ms and needs no import path:
nothing but the standard library may be imported here. Writes the server's process id to stdout; stderr is the
server's log.
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

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where the kernel puts POSIX shared memory
NAME = "tandem-triton-"

AT_ONCE = b"k"
"""What the owner writes to have the server killed instead of stopped."""

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def claim(folder: Path) -> tuple[str, int]:
    """Reserve a prefix for names in ``folder``; returns it with the descriptor of its lock.

    The lock is held for as long as any process has the descriptor open, and the server and its stubs inherit it.
    Unlike a process id in the name it can neither be reused nor be misread from another container.
    """
    while True:
        prefix = f"{NAME}{os.urandom(4).hex()}"
        path = folder / f"{prefix}.lock"
        lock = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.stat().st_ino == os.fstat(lock).st_ino:
                return prefix, lock
        except (BlockingIOError, FileNotFoundError):
            pass  # a sweep came between the two steps and took the file for a dead one's
        os.close(lock)


def sweep(folder: Path) -> None:
    """Remove what dead servers left in ``folder``; what belongs to a living one is not touched."""
    for path in folder.glob(f"{NAME}*.lock"):
        try:
            lock = os.open(path, os.O_RDWR)
        except (FileNotFoundError, PermissionError):
            continue  # gone meanwhile, or another user's
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            release(folder, path.stem)
        except BlockingIOError:
            continue
        finally:
            os.close(lock)


def release(folder: Path, prefix: str) -> None:
    """Remove every file under ``prefix``, the lock last."""
    lock = folder / f"{prefix}.lock"
    for path in folder.glob(f"{prefix}*"):
        if path != lock:
            path.unlink(missing_ok=True)
    lock.unlink(missing_ok=True)


def keep(command: list[str], grace_s: float) -> int:
    """Run the server until it ends or stdin closes; returns its exit status, 128 + n for signal n."""
    prefix, lock = claim(SHARED_MEMORY)
    try:
        prctl(PR_SET_CHILD_SUBREAPER, 1)  # orphaned stubs become ours to wait for
        server = subprocess.Popen(  # noqa: S603 - our own command
            [*command, f"--backend-config=python,shm-region-prefix-name={prefix}-"],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            process_group=0,
            pass_fds=(lock,),
            preexec_fn=functools.partial(die_with, os.getpid()),  # noqa: PLW1509 - there are no threads here
        )
        try:
            pass_on_signals(server.pid)
            print(server.pid, flush=True)
            wait(server.pid, grace_s)
        finally:
            # Its id cannot have been taken by another group: the leader is not yet waited for.
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
            reap(server.pid)
    finally:
        release(SHARED_MEMORY, prefix)
    return server.returncode if server.returncode >= 0 else 128 - server.returncode


def wait(server: int, grace_s: float) -> None:
    """Return when the server has ended, when it is to be killed or, after stdin has closed, after ``grace_s``."""
    ended = os.pidfd_open(server)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(sys.stdin.fileno(), select.POLLIN | select.POLLHUP)
    if ended in dict(poll.poll()):
        return
    if os.read(sys.stdin.fileno(), 1) == AT_ONCE:
        return
    poll.unregister(sys.stdin.fileno())
    os.kill(server, signal.SIGTERM)
    poll.poll(grace_s * 1000)


def reap(group: int) -> None:
    """Wait for the killed rest of the process group: afterwards nothing maps the shared memory."""
    while True:
        try:
            os.waitpid(-group, 0)
        except ChildProcessError:
            return


def pass_on_signals(server: int) -> None:
    """Let a signal to the keeper stop the server in order, instead of ending the keeper before it."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        os.kill(server, signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)


def die_with(parent: int) -> None:
    """Have the kernel kill the calling process when ``parent`` ends, or the thread of it that made the process."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call
        os._exit(1)


def prctl(option: int, value: int) -> None:
    """Set an attribute of the calling process; Python has no function for it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value}) failed")


if __name__ == "__main__":
    sweep(SHARED_MEMORY)
    sys.exit(keep(sys.argv[2:], grace_s=float(sys.argv[1])))
