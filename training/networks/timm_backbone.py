"""One of timm's networks as a backbone: https://huggingface.co/docs/timm. timm is an extra."""

from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from training.crop_spec import CROP_SHAPE, CropShape
from training.networks.blocks import Normalize
from training.networks.presets import TIMM

GRAY_LEVELS = 255.0


class TimmBackbone(nn.Module):
    """Map crops to the features of a network that timm knows, scaled as its weights expect.

    Args:
        name: Name of the network and, behind a dot, of its weights: resnet18.a1_in1k.
        crop: (channels, height, width) of a crop. For gray crops timm sums the weights of the colors.
        pretrained: Whether to load its weights, which timm downloads once.

    Raises:
        ValueError: timm is not installed, or knows no such network.
    """

    def __init__(self, name: str, crop: CropShape = CROP_SHAPE, *, pretrained: bool = False) -> None:
        super().__init__()
        try:
            import timm
        except (ImportError, RuntimeError) as error:  # a torchvision for another build of torch gives the latter
            raise ValueError(f"{TIMM}{name} needs timm: pip install 'tandem-emotions[timm]' ({error})") from error
        channels, *sides = crop
        known = timm.list_models(pretrained=True) + timm.list_models()
        if name not in known:
            near = ", ".join(TIMM + each for each in get_close_matches(name, known, 3, 0.4))
            raise ValueError(f"timm knows no network {name!r}" + (f"; the nearest are {near}" if near else ""))
        # Convolutional networks take crops as they are; transformers one size only.
        options: dict[str, Any] = {"num_classes": 0, "in_chans": channels, "pretrained": pretrained}
        try:
            self.network: nn.Module = timm.create_model(name, **options)
        except Exception as error:  # timm and its hub have an exception class for each kind of error
            raise ValueError(f"timm cannot make {name!r} with its weights: {error}") from error
        settings = self.network.pretrained_cfg
        assert isinstance(settings, dict)  # noqa: S101 - timm gives every network its own
        self._crop = tuple(sides)
        self._side = settings["input_size"][-1] if settings.get("fixed_input_size") else max(sides)
        mean, deviation = settings["mean"], settings["std"]
        if channels == 1:
            mean, deviation = (sum(mean) / len(mean),), (sum(deviation) / len(deviation),)
        self.normalize = Normalize(
            [value * GRAY_LEVELS for value in mean], [value * GRAY_LEVELS for value in deviation]
        )
        with torch.no_grad():
            self.features: int = self.network.eval()(torch.zeros(1, channels, self._side, self._side)).shape[1]
        self.network.train()

    def forward(self, crops: Tensor) -> Tensor:
        """Map uint8 or float [N, C, H, W] -> [N, features]."""
        x = self.normalize(crops)
        if self._crop != (self._side, self._side):
            x = nn.functional.interpolate(x, size=(self._side, self._side), mode="bilinear", align_corners=False)
        features: Tensor = self.network(x)
        return features
