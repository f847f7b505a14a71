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


YUNET = Weights("yunet_2023mar_dynamic.onnx", "6746ba5a05f03537b78793ac6eeada4862c73a0000bdb2ddb1b5e752bfa7c457")
ONET = Weights("onet.onnx", "d80f19b44f72e45dd2b7d01384d56994220f60d9417b2a7fbba9041ef1d75e52")


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
