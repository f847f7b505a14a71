"""How often Python looks for cyclic garbage in a process that serves."""

import gc

ALLOCATIONS = 10_000
"""After so many more objects were made than freed it looks among the new ones. Python's own 700 is one photo or
two, and what a photo leaves behind is freed without it."""


def settle() -> None:
    """To be called once all is loaded: what is there now stays, and is not looked through again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(ALLOCATIONS, *gc.get_threshold()[1:])
