"""Finds free TCP ports, and the ports that a process listens on."""

import contextlib
import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"
TCP_LISTEN = "0A"


def free_ports(count: int) -> list[int]:
    """Find different loopback ports that are free now. Another process may take one before it is used."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind((LOOPBACK, 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def listening_ports(pid: int) -> set[int]:
    """Return the TCP ports that a process listens on; empty if there is no such process."""
    folder = Path(f"/proc/{pid}")
    sockets = set()
    try:
        for descriptor in (folder / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed in the meantime
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
    return table.read_text().splitlines()[1:] if table.exists() else []  # there is no tcp6 without IPv6
