"""The vendored networks that find faces. `download.py` says where they come from; licenses are beside them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Weights:
    """A vendored file in this folder and its checksum."""

    file: str
    sha256: str


YUNET = Weights("yunet_2023mar_dynamic.onnx", "365263492c8d7a84a041c6d322e92b6fb448a8b3798d3fae0a1e3ea8335c8347")
ONET = Weights("onet.onnx", "88b0de283799586a320c88e9d11d1ac1f4b5a4a882b188099de02e0cb0e406c2")


def read_weights(weights: Weights) -> bytes:
    """Read a vendored file.

    Raises:
        ValueError: Its checksum is wrong.
    """
    path = FOLDER / weights.file
    return verified(path.read_bytes(), weights.sha256, str(path))


def verified(content: bytes, sha256: str, name: str) -> bytes:
    """Return the content if its checksum is right, and raise a ValueError that names it if not."""
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise ValueError(f"{name} has sha256 {digest}, not {sha256}")
    return content
