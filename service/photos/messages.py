"""What the gateway and its photo processes say to each other over a socket.

The gateway sends orders: the lengths (``ORDER``) of a pickled step and of the photo to do it with, then these two.
A process answers with the length (``ANSWER``) of a pickled pair of one of the words below and what goes with it.
Of that the gateway makes nothing but the classes below: a photo that takes over its process, through a flaw in a
decoder, cannot make the gateway run anything.
"""

import io
import pickle
import struct
from collections.abc import Callable
from typing import Any, Final, TypeVar

from service import errors
from service.errors import TandemError
from service.faces.face import Box, Face
from service.photos.steps import Found, Portraits, Room
from service.quality import Quality

Result = TypeVar("Result")
Step = Callable[[Room, bytes], Result]
"""What a process does with a photo: a function of a module, or a ``functools.partial`` of one."""

ORDER: Final = struct.Struct("!II")
ANSWER: Final = struct.Struct("!I")

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

GRANTED: Final = b"+"

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


def order(step: Step[Any], photo: bytes) -> tuple[bytes, bytes]:
    """An order in two parts, so that megabytes of photo need not be copied."""
    pickled = pickle.dumps(step, pickle.HIGHEST_PROTOCOL)
    return ORDER.pack(len(pickled), len(photo)) + pickled, photo


def read_order(pickled: bytes) -> Step[Any]:
    """The step; for the process, which believes the gateway."""
    step: Step[Any] = pickle.loads(pickled)  # noqa: S301
    return step


def answer(word: str, value: object) -> bytes:
    """What a process says."""
    pickled = pickle.dumps((word, value), pickle.HIGHEST_PROTOCOL)
    return ANSWER.pack(len(pickled)) + pickled


def read_answer(pickled: bytes) -> tuple[str, Any]:
    """One of the words above, and what goes with it; for the gateway, which believes nothing.

    Raises:
        ValueError: it is none of them.
    """
    try:
        word, value = _Unpickler(io.BytesIO(pickled)).load()
    except Exception as error:  # whatever the bytes bring about
        raise ValueError(f"a photo process cannot be understood: {error}") from error
    if word not in (READY, DONE, REFUSED, BROKEN) and not (word == ROOM and isinstance(value, int) and value > 0):
        raise ValueError(f"a photo process says «{word!s:.50}»")
    return word, value
