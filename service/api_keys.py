"""API keys: made once, kept as hashes, compared in constant time."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

PREFIX = "tandem_"
"""Lets people and scanners of repositories see what a leaked string is."""

ENTROPY_BYTES = 32
"""So much chance cannot be guessed from its hash: a fast hash does, which is checked with every request."""

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
LINE = re.compile(rf"({NAME.pattern}):sha256:([0-9a-f]{{64}})")


@dataclass(frozen=True)
class NewKey:
    """A key, to be shown once, and the line that is kept of it."""

    secret: str
    line: str


def create_key(name: str) -> NewKey:
    """A new key for whoever is called ``name``.

    Raises:
        ValueError: the name has other characters than letters, digits, «.», «_» and «-», or more than 64.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"name is {name!r}; it must be 1 to 64 letters, digits, dots, dashes or underscores")
    secret = PREFIX + secrets.token_urlsafe(ENTROPY_BYTES)
    return NewKey(secret, f"{name}:sha256:{_digest(secret).hex()}")


@dataclass(frozen=True, repr=False)
class KeyRing:
    """The keys that open the API: pairs of name and digest. A name may have several, while one is replaced."""

    keys: tuple[tuple[str, bytes], ...]

    @classmethod
    def from_lines(cls, lines: Iterable[str]) -> "KeyRing":
        """Read lines as ``create_key`` makes them; empty ones and what follows # are passed over.

        Raises:
            ValueError: a line is something else; the message does not repeat it, for it may be a key.
        """
        keys = []
        for number, line in enumerate(lines, start=1):
            text = line.partition("#")[0].strip()
            if not text:
                continue
            found = LINE.fullmatch(text)
            if not found:
                raise ValueError(
                    f"line {number} is not «name:sha256:<64 hex digits>» as `tandem create-key` prints it"
                )
            keys.append((found[1], bytes.fromhex(found[2])))
        return cls(tuple(keys))

    def name_of(self, presented: str) -> str | None:
        """Whose key this is; None where it is nobody's. Takes as long for every key."""
        digest = _digest(presented)
        owner = None
        for name, expected in self.keys:
            if hmac.compare_digest(digest, expected):
                owner = name
        return owner


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
