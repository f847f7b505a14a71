"""The vendored networks that find faces. `obtain.py` says where they come from; each has its licence beside it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Weights:
    """A vendored file and the checksum it must have."""

    file: str
    sha256: str


YUNET = Weights(
    "yunet_2023mar_dynamic.onnx", "6746ba5a05f03537b78793ac6eeada4862c73a0000bdb2ddb1b5e752bfa7c457"
)
ONET = Weights("onet.onnx", "d80f19b44f72e45dd2b7d01384d56994220f60d9417b2a7fbba9041ef1d75e52")


def read_weights(weights: Weights) -> bytes:
    """Read a vendored network. ValueError where the file is not the one that was vendored."""
    data = (FOLDER / weights.file).read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != weights.sha256:
        raise ValueError(f"{FOLDER / weights.file} has sha256 {found}; the vendored file has {weights.sha256}")
    return data
