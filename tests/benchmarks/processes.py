"""What a service's processes use, read from /proc: CPU seconds and memory, for the gateway and for Triton."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PSS = re.compile(r"^Pss:\s+(\d+) kB", re.MULTILINE)


@dataclass(frozen=True)
class Usage:
    """CPU seconds since their start, and proportional set size in bytes, of a group of processes."""

    cpu_s: float
    memory: int


def usage(service: int) -> dict[str, Usage]:
    """Usage of «gateway» and «triton» (with its supervisor and stubs) below the process ``service``."""
    groups: dict[str, list[int]] = {"gateway": [], "triton": []}
    _sort(service, "gateway", groups)
    return {
        name: Usage(sum(map(_cpu_s, processes)), sum(map(_memory, processes)))
        for name, processes in groups.items()
    }


def triton_grpc_port(service: int) -> int:
    """The port on which the Triton below ``service`` answers gRPC."""
    groups: dict[str, list[int]] = {"gateway": [], "triton": []}
    _sort(service, "gateway", groups)
    for process in groups["triton"]:
        found = re.search(r"tritonserver\0.*--grpc-port=(\d+)", _command(process), re.DOTALL)
        if found:
            return int(found[1])
    raise LookupError(f"process {service} has no tritonserver below it")


def _sort(process: int, group: str, groups: dict[str, list[int]]) -> None:
    if "triton" in _command(process).split("\0")[0] or "supervisor.py" in _command(process):
        group = "triton"
    groups[group].append(process)
    for task in Path(f"/proc/{process}/task").iterdir():
        try:
            children = (task / "children").read_text()
        except (FileNotFoundError, ProcessLookupError):  # the thread has ended meanwhile
            continue
        for child in children.split():
            _sort(int(child), group, groups)


def _command(process: int) -> str:
    return Path(f"/proc/{process}/cmdline").read_text()


def _cpu_s(process: int) -> float:
    # proc(5): after the name in parentheses the 12th and 13th field are ticks in user and in kernel mode.
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def _memory(process: int) -> int:
    found = PSS.search(Path(f"/proc/{process}/smaps_rollup").read_text())
    return int(found[1]) * 1024 if found else 0
