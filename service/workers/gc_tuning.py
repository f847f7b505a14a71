"""Tuning of Python's garbage collector for processes that run for a long time."""

import gc

GC_THRESHOLD = 10_000
"""Allocations minus deallocations that start a collection. One or two photos reach Python's default of 700, and
what a photo leaves behind is freed without the collector."""


def freeze_heap() -> None:
    """Exempt every object that exists now from garbage collection; call it once everything is loaded."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, *gc.get_threshold()[1:])
