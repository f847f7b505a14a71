"""API keys: shown once, stored as hashes, compared in constant time."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

PREFIX = "tandem_"
"""Lets people and secret scanners recognize a leaked key."""

ENTROPY_BYTES = 32
"""Random bytes in a key; enough that a fast hash, computed for every request, does not help to guess them."""

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
LINE = re.compile(rf"({NAME.pattern}):sha256:([0-9a-f]{{64}})")


@dataclass(frozen=True)
class NewKey:
    """A key, to be shown once, and the line to store."""

    secret: str
    line: str


def create_key(name: str) -> NewKey:
    """Create a key for the caller ``name``.

    Raises:
        ValueError: The name is not 1 to 64 letters, digits, dots, dashes or underscores.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"name is {name!r}; it must be 1 to 64 letters, digits, dots, dashes or underscores")
    secret = PREFIX + secrets.token_urlsafe(ENTROPY_BYTES)
    return NewKey(secret, f"{name}:sha256:{_digest(secret).hex()}")


@dataclass(frozen=True, repr=False)
class KeyRing:
    """The keys that give access: pairs of name and digest. A name may have several while one is being replaced."""

    keys: tuple[tuple[str, bytes], ...]

    @classmethod
    def from_lines(cls, lines: Iterable[str]) -> "KeyRing":
        """Parse lines that ``create_key`` made; # starts a comment.

        Raises:
            ValueError: A line is something else. The message does not repeat it, since it may be a key.
        """
        keys = []
        for number, line in enumerate(lines, start=1):
            text = line.partition("#")[0].strip()
            if not text:
                continue
            found = LINE.fullmatch(text)
            if not found:
                raise ValueError(
                    f"line {number} is not name:sha256:<64 hex digits>, as `tandem create-key` prints it"
                )
            keys.append((found[1], bytes.fromhex(found[2])))
        return cls(tuple(keys))

    def name_of(self, presented: str) -> str | None:
        """Return the name of a key's owner, or None for an unknown key; takes the same time for every key."""
        digest = _digest(presented)
        owner = None
        for name, expected in self.keys:
            if hmac.compare_digest(digest, expected):
                owner = name
        return owner


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
