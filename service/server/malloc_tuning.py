"""Makes the C library give memory back that large uploads have taken."""

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
"""Parameters of glibc's mallopt(3)."""

LARGE_BYTES = 512 * 1024


def return_large_blocks() -> None:
    """Allocate large blocks apart from the heap, so that freeing one returns it to the system at once.

    By default glibc does so only until the first such block is freed. Later ones, up to 32 MiB, lie in the heap,
    where a small block behind them keeps them. Does nothing on systems without glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    mallopt(MMAP_THRESHOLD, LARGE_BYTES)
    mallopt(TRIM_THRESHOLD, LARGE_BYTES)
    mallopt(ARENA_MAX, 2)
