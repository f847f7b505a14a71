"""What the gateway and its photo processes say to each other over a socket.

The gateway sends orders: the lengths (``ORDER``) of a pickled step and of the photo to do it with, then these
two. The next may come while one is worked on. A process answers with the lengths (``ANSWER``) of a JSON pair, one
of the words below and what goes with it, and of raw bytes, then these two. It sends no pickles: a photo that takes
over its process, through a flaw in a decoder, is not to make the gateway run anything.
"""

import json
import pickle  # noqa: TID251 - workers unpickle what the gateway sends, never the reverse
import struct
from collections.abc import Callable
from typing import Any, Final, TypeVar

from service.workers.tasks import Reply, Room

Result = TypeVar("Result")

Step = Callable[[Room, bytes], Reply]
"""What a process does with a photo: a function of a module, or a ``functools.partial`` of one."""

Reader = Callable[[Any, bytes], Result]
"""Makes a result of a reply; whatever it raises tells that the reply is none."""

ORDER: Final = struct.Struct("!II")
ANSWER: Final = struct.Struct("!II")

MAX_MESSAGE_BYTES: Final = 256 * 1024 * 1024
"""Bytes of either part of an answer; a picture of the largest photo has less."""

READY: Final = "ready"
"""All is loaded; the first thing that a process says, and once."""

DONE: Final = "done"
"""With the step's reply."""

REFUSED: Final = "refused"
"""With the name and the detail of the TandemError that the step raised."""

BROKEN: Final = "broken"
"""With the traceback of anything else that it raised, which is a bug."""

ROOM: Final = "room"
"""With the bytes of pixels that it asks room for; ``GRANTED`` is the reply."""

GRANTED: Final = ORDER.pack(0, 0)


def order(step: Step, photo: bytes) -> tuple[bytes, bytes]:
    """An order in two parts, so that megabytes of photo need not be copied."""
    pickled = pickle.dumps(step, pickle.HIGHEST_PROTOCOL)
    return ORDER.pack(len(pickled), len(photo)) + pickled, photo


def read_order(pickled: bytes) -> Step:
    """The step; for the process, which believes the gateway."""
    step: Step = pickle.loads(pickled)  # noqa: S301
    return step


def answer(word: str, fields: object, raw: bytes = b"") -> bytes:
    """What a process says; ``fields`` is what JSON can carry."""
    text = json.dumps((word, fields)).encode()
    return ANSWER.pack(len(text), len(raw)) + text + raw


def read_answer(text: bytes) -> tuple[str, Any]:
    """One of the words above, and what goes with it.

    Raises:
        ValueError: it is none of them.
    """
    try:
        word, fields = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"a photo process cannot be understood: {error}") from error
    if word not in (READY, DONE, REFUSED, BROKEN) and not (word == ROOM and type(fields) is int and fields > 0):
        raise ValueError(f"a photo process says «{word!s:.50}»")
    return word, fields
