"""The messages between the gateway and its worker processes, sent over a socket.

The gateway sends tasks: a header (``TASK_HEADER``) with the lengths of a pickled task and of the photo it is for,
then both. The next task may arrive while one is in progress. A worker answers with a header (``MESSAGE_HEADER``)
with the lengths of a JSON pair, one of the kinds below and its fields, and of raw bytes, then both. It never sends
pickles: a photo that takes over its worker through a flaw in a decoder must not be able to make the gateway run
code.
"""

import json
import pickle  # noqa: TID251 - workers unpickle what the gateway sends, never the reverse
import struct
from collections.abc import Callable
from typing import Any, Final, TypeVar

from service.workers.tasks import Reply, Reserve

Result = TypeVar("Result")

Task = Callable[[Reserve, bytes], Reply]
"""What a worker does with a photo: a function of a module, or a ``functools.partial`` of one."""

ParseReply = Callable[[Any, bytes], Result]
"""Makes a result of a reply's fields and raw bytes; any exception means that the reply is malformed."""

TASK_HEADER: Final = struct.Struct("!II")
MESSAGE_HEADER: Final = struct.Struct("!II")

MAX_MESSAGE_BYTES: Final = 256 * 1024 * 1024
"""Limit for either part of a message; a picture of the largest photo is smaller."""

READY: Final = "ready"
"""Everything is loaded. A worker's first message, sent once."""

DONE: Final = "done"
"""The task's reply."""

ERROR: Final = "error"
"""The name and the detail of a TandemError that the task raised."""

CRASH: Final = "crash"
"""The traceback of any other exception that the task raised, which is a bug."""

RESERVE: Final = "reserve"
"""The number of bytes of memory that the task needs before it goes on; ``GRANTED`` is the reply."""

GRANTED: Final = TASK_HEADER.pack(0, 0)


def encode_task(task: Task, photo: bytes) -> tuple[bytes, bytes]:
    """Encode a task in two parts, so that megabytes of photo need not be copied."""
    pickled = pickle.dumps(task, pickle.HIGHEST_PROTOCOL)
    return TASK_HEADER.pack(len(pickled), len(photo)) + pickled, photo


def decode_task(pickled: bytes) -> Task:
    """Decode a task; for workers only, which trust the gateway."""
    task: Task = pickle.loads(pickled)  # noqa: S301
    return task


def encode_message(kind: str, fields: object, raw: bytes = b"") -> bytes:
    """Encode a worker's message; ``fields`` must be serializable as JSON."""
    text = json.dumps((kind, fields)).encode()
    return MESSAGE_HEADER.pack(len(text), len(raw)) + text + raw


def decode_message(text: bytes) -> tuple[str, Any]:
    """Return the kind and the fields of a worker's message.

    Raises:
        ValueError: The message is malformed or of an unknown kind.
    """
    try:
        kind, fields = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"a worker sent a malformed message: {error}") from error
    if kind not in (READY, DONE, ERROR, CRASH) and not (kind == RESERVE and type(fields) is int and fields > 0):
        raise ValueError(f'a worker sent a message of unknown kind "{kind!s:.50}"')
    return kind, fields
