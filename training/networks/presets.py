"""The networks by name. Options name them, so this module imports nothing that takes time."""

from dataclasses import dataclass

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
