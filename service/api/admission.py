"""A limited number of places for what holds memory or attention."""

from service.errors import Overloaded


class Places:
    """Counts who is inside; to be used inside one event loop."""

    def __init__(self, limit: int, *, what: str, setting: str) -> None:
        """At most ``limit`` of ``what``, which the environment variable ``setting`` sets."""
        self._limit = limit
        self._what = what
        self._setting = setting
        self.taken = 0

    def take(self) -> None:
        """Take a place; to be given back by ``leave``.

        Raises:
            Overloaded: none is free.
        """
        if self.taken >= self._limit:
            raise Overloaded(f"{self.taken} {self._what} are worked on; no more are taken ({self._setting})")
        self.taken += 1

    def leave(self) -> None:
        """Give the place back."""
        self.taken -= 1
