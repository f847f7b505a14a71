"""CPU time and memory of the processes of the gateway and of Triton, read from /proc."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
SUPERVISORS = ("supervisor.py", "keeper.py")
"""The script that starts Triton; older commits, which a baseline may be, call it keeper.py."""

PSS = re.compile(r"^Pss:\s+(\d+) kB", re.MULTILINE)


@dataclass(frozen=True)
class Usage:
    """CPU seconds since the start and proportional set size in bytes of a group of processes."""

    cpu_s: float
    memory: int


def usage(service: int) -> dict[str, Usage]:
    """Return the usage of "gateway" and "triton" (with its supervisor and stubs) in the tree of ``service``."""
    groups = _groups(service)
    return {
        name: Usage(sum(map(_cpu_s, processes)), sum(map(_memory, processes)))
        for name, processes in groups.items()
    }


def triton_grpc_port(service: int) -> int:
    """Return the gRPC port of the Triton in the process tree of ``service``.

    Raises:
        LookupError: there is no tritonserver in the tree.
    """
    groups = _groups(service)
    for process in groups["triton"]:
        found = re.search(r"tritonserver\0.*--grpc-port=(\d+)", _command(process), re.DOTALL)
        if found:
            return int(found[1])
    raise LookupError(f"process {service} has no tritonserver among its descendants")


def _groups(service: int) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {"gateway": [], "triton": []}
    _add_tree(service, "gateway", groups)
    return groups


def _add_tree(process: int, group: str, groups: dict[str, list[int]]) -> None:
    command = _command(process)
    if "triton" in command.split("\0")[0] or any(name in command for name in SUPERVISORS):
        group = "triton"
    groups[group].append(process)
    for task in Path(f"/proc/{process}/task").iterdir():
        try:
            children = (task / "children").read_text()
        except (FileNotFoundError, ProcessLookupError):  # the thread has ended
            continue
        for child in children.split():
            _add_tree(int(child), group, groups)


def _command(process: int) -> str:
    return Path(f"/proc/{process}/cmdline").read_text()


def _cpu_s(process: int) -> float:
    # proc(5): the 12th and 13th fields after the name in parentheses are clock ticks in user and kernel mode.
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def _memory(process: int) -> int:
    found = PSS.search(Path(f"/proc/{process}/smaps_rollup").read_text())
    return int(found[1]) * 1024 if found else 0
