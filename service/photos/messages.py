"""What the gateway and its photo processes say to each other.

The gateway sends pickled callables. Of what comes back it makes nothing but the classes below: a photo that takes
over its process, through a flaw in a decoder, cannot make the gateway run anything.
"""

import io
import pickle
from collections.abc import Callable
from typing import Any, Final, TypeVar

from service import errors
from service.errors import TandemError
from service.faces.face import Box, Face
from service.photos.steps import Found, Portraits, Room
from service.quality import Quality

Result = TypeVar("Result")
Step = Callable[[Room], Result]
"""What a process is asked to do: a function of a module, or a ``functools.partial`` of one."""

READY: Final = "ready"
"""All is loaded; the first thing that a process says."""

DONE: Final = "done"
"""With the step's result."""

REFUSED: Final = "refused"
"""With the TandemError that the step raised."""

BROKEN: Final = "broken"
"""With the traceback of anything else that it raised, which is a bug."""

ROOM: Final = "room"
"""With the bytes of pixels that it asks room for; ``GRANTED`` is the reply."""

GRANTED: Final = b"granted"

OURS = {
    (each.__module__, each.__qualname__): each
    for each in (
        *(Found, Portraits, Face, Box, Quality),
        *(each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, TandemError)),
    )
}
NUMPY = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in NUMPY:
            return super().find_class(module, name)
        try:
            return OURS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"a photo process sent {module}.{name}") from None


def encode(step: Step[Any]) -> bytes:
    """A step, as a process takes it."""
    return pickle.dumps(step, pickle.HIGHEST_PROTOCOL)


def decode(message: bytes) -> tuple[str, Any]:
    """What a process says: one of the words above, and what goes with it.

    Raises:
        ValueError: it is none of them.
    """
    try:
        kind, value = _Unpickler(io.BytesIO(message)).load()
    except Exception as error:  # whatever the bytes bring about
        raise ValueError(f"a photo process cannot be understood: {error}") from error
    if kind not in (READY, DONE, REFUSED, BROKEN, ROOM):
        raise ValueError(f"a photo process says «{kind!s:.50}»")
    return kind, value
