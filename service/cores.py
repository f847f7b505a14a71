"""How many cores there are for this process."""

import os
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Of a container: microseconds of all cores together, and in how many; cgroup v2."""


def available_cores() -> int:
    """Those that it may run on, or in a container fewer, as far as its quota goes; at least 1."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        cores = os.cpu_count() or 1
    try:
        quota, period = QUOTA.read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # none, or «max»
        return cores
