"""How a process of the service uses its machine: the cores it may run on, and when it collects garbage."""

import gc
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


ALLOCATIONS = 10_000
"""After so many more objects were made than freed it looks among the new ones. Python's own 700 is one photo or
two, and what a photo leaves behind is freed without it."""


def freeze_heap() -> None:
    """To be called once all is loaded: what is there now stays, and is not looked through again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(ALLOCATIONS, *gc.get_threshold()[1:])
