"""How much memory uploads may take: their bytes, from the first to the end of the answer, and their pixels."""

from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import Overloaded
from service.settings import MEBIBYTE


class UploadMemory:
    """Counts the bytes of all uploads that are held at this moment. To be used inside one event loop."""

    def __init__(self, limit: int) -> None:
        """At most ``limit`` bytes (``TANDEM_MAX_HELD_BYTES``)."""
        self._limit = limit
        self.held = 0

    @contextmanager
    def hold(self) -> Iterator["Hold"]:
        """What one request holds; at the end it holds nothing."""
        hold = Hold(self)
        try:
            yield hold
        finally:
            self.held -= hold.held

    def check_room(self, count: int) -> None:
        """Raise Overloaded where ``count`` more bytes would be too many."""
        if self.held + count > self._limit:
            raise Overloaded(
                f"uploads of {self.held / MEBIBYTE:,.1f} MiB are held and {count / MEBIBYTE:,.1f} MiB more are "
                f"too many; the limit is {self._limit / MEBIBYTE:,.1f} MiB (TANDEM_MAX_HELD_BYTES)"
            )


class Hold:
    """The bytes that one request or one stream holds."""

    def __init__(self, memory: UploadMemory) -> None:
        self._memory = memory
        self.held = 0

    def check_room(self, count: int) -> None:
        """Raise Overloaded where ``count`` more bytes would be too many; nothing is counted."""
        self._memory.check_room(count)

    def take(self, count: int) -> None:
        """Count bytes that come to be held.

        Raises:
            Overloaded: with them it would be too many, over all requests; they are not counted.
        """
        self._memory.check_room(count)
        self._memory.held += count
        self.held += count

    def give(self, count: int) -> None:
        """So many of them are no longer held."""
        self._memory.held -= count
        self.held -= count

    @contextmanager
    def room(self, count: int) -> Iterator[None]:
        """Count bytes for as long as they are worked on.

        Raises:
            Overloaded: as ``take`` does.
        """
        self.take(count)
        try:
            yield
        finally:
            self.give(count)
