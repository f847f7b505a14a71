"""Keeps the memory of a crashed process, photos included, from being written to a disk."""

import resource

NEITHER_FILE_NOR_PIPE = 1
"""Too small for a file. A core that is piped to a program has no limit, except that 1 prevents it (core(5))."""


def disable_core_dumps() -> None:
    """Disable core dumps of this process and of all that it starts later: workers and a local Triton."""
    resource.setrlimit(resource.RLIMIT_CORE, (NEITHER_FILE_NOR_PIPE, NEITHER_FILE_NOR_PIPE))
