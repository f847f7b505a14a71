"""The networks by name. Options name them, so this module imports nothing that takes time."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

WIDTHS = {
    "deepid": (20, 40, 60, 80),  # as in the paper
    "deepid-wide": (30, 60, 90, 120),
}
"""Identity networks: channels of the four convolutions."""


@dataclass(frozen=True)
class ResNetShape:
    """Channels of each stage and number of blocks in it; if ``halved``, the stem halves the resolution."""

    widths: tuple[int, ...]
    blocks: int
    halved: bool = False


PRESETS = {
    "small-resnet": ResNetShape((16, 32, 64), 3),  # 0.27 M parameters; trains on two cores
    # Half the resolution and half the channels of resnet18: 2.8 M parameters, but faster than small-resnet.
    "resnet18-half": ResNetShape((32, 64, 128, 256), 2, halved=True),
    "resnet18": ResNetShape((64, 128, 256, 512), 2),  # 11.2 M parameters; needs a GPU
}
"""Emotion networks."""

BACKBONES = (*WIDTHS, *PRESETS)

TIMM = "timm:"


def is_elsewhere(name: str) -> bool:
    """Return whether a network is no preset: in an ONNX file, in a file with its structure, or one of timm's."""
    return name.startswith(TIMM) or name.endswith((".onnx", ".json"))


def unknown_network(name: str, known: Iterable[str], *, elsewhere: bool = True) -> str:
    """Say which networks there are, with those from elsewhere or not, and which of them a name is nearest to."""
    names = list(known)
    near = get_close_matches(name, names, 1, 0.5)
    others = f", an .onnx file or one of timm's, such as {TIMM}resnet18.a1_in1k" if elsewhere else ""
    return f"network is {name!r}; it must be one of {', '.join(names)}{others}" + (
        f". Did you mean {near[0]}?" if near else ""
    )
