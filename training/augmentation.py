"""Augmentation of batches of gray crops, on the device of the batch.

Rotation, zoom, shift and flip are a single resampling, because each resampling blurs.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Augmentation:
    """Random changes to each sample. Ranges are symmetric and drawn uniformly; zeros turn everything off."""

    rotation: float = 15.0
    """Largest angle in degrees, in either direction."""
    scale: float = 0.15
    """Zoom by 1 - scale to 1 + scale; 0 to 1."""
    shift: float = 0.08
    """Largest shift along each axis, as a fraction of the crop; 0 to 1."""
    flip: bool = True
    """Mirror each sample with a probability of one half."""
    brightness: float = 0.25
    """Largest change of brightness, as a fraction of the full range."""
    contrast: float = 0.35
    """Scale gray values about their mean by 1 - contrast to 1 + contrast; 0 to 1."""
    gamma: float = 0.35
    """Gamma correction with an exponent of e to the power of -gamma to +gamma."""
    blur: float = 0.25
    """Probability of downsampling to half up to the full resolution; 0 to 1."""
    noise: float = 6.0
    """Largest standard deviation of added noise, in gray values of 0..255."""
    erase: float = 0.5
    """Probability of filling a rectangle of 2 to 20 % of the crop with noise; 0 to 1."""

    def __post_init__(self) -> None:
        for name in ("scale", "shift", "contrast", "blur", "erase"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"augmentation.{name} is {value}; it must be between 0 and 1")

    def __call__(self, crops: Tensor, generator: torch.Generator) -> Tensor:
        """Map uint8 [N, 1, H, W] -> float [N, 1, H, W] in 0..255."""
        x = self._resample(crops.float(), generator)
        x = self._change_light(x, generator)
        return self._erase(x, generator).clamp(0, 255)

    def _resample(self, x: Tensor, generator: torch.Generator) -> Tensor:
        n = len(x)
        angle = _uniform(n, generator, x) * math.radians(self.rotation)
        zoom = 1 / (1 + _uniform(n, generator, x) * self.scale)
        mirror = torch.where(_bernoulli(n, generator, x, 0.5 if self.flip else 0.0), -1.0, 1.0)
        shift = torch.stack([_uniform(n, generator, x), _uniform(n, generator, x)], dim=1) * 2 * self.shift
        cosine, sine = angle.cos() * zoom, angle.sin() * zoom
        matrix = torch.stack([cosine * mirror, -sine, sine * mirror, cosine], dim=1).view(n, 2, 2)
        theta = torch.cat([matrix, shift[:, :, None]], dim=2)  # [N, 2, 3]
        grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
        moved = functional.grid_sample(x, grid, "bilinear", "border", align_corners=False)
        if self.blur:
            size = int(x.shape[-1] * (0.5 + 0.5 * torch.rand((), generator=generator).item()))
            coarse = functional.interpolate(moved, size=size, mode="area")
            coarse = functional.interpolate(coarse, size=x.shape[-1], mode="bilinear", align_corners=False)
            moved = torch.where(_bernoulli(n, generator, x, self.blur).view(n, 1, 1, 1), coarse, moved)
        return moved

    def _change_light(self, x: Tensor, generator: torch.Generator) -> Tensor:
        n = len(x)

        def draw(width: float) -> Tensor:
            return (_uniform(n, generator, x) * width).view(n, 1, 1, 1)

        x = 255 * (x / 255).pow(draw(self.gamma).exp())
        mean = x.mean(dim=(2, 3), keepdim=True)
        x = (x - mean) * (1 + draw(self.contrast)) + mean + 255 * draw(self.brightness)
        strength = draw(self.noise).abs()
        return x + strength * torch.randn(x.shape, generator=_generator_beside(x, generator), device=x.device)

    def _erase(self, x: Tensor, generator: torch.Generator) -> Tensor:
        n, _, height, width = x.shape
        area = 0.02 + 0.18 * torch.rand(n, generator=generator)
        ratio = torch.exp(_uniform(n, generator) * math.log(3))  # height / width from 1/3 to 3
        high, wide = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
        top, left = (torch.rand(n, generator=generator) * (1 - side) for side in (high, wide))
        rows, columns = torch.arange(height) / height, torch.arange(width) / width
        in_rows = (rows >= top[:, None]) & (rows < (top + high)[:, None])  # [N, H]
        in_columns = (columns >= left[:, None]) & (columns < (left + wide)[:, None])  # [N, W]
        hole = in_rows[:, None, :, None] & in_columns[:, None, None, :]
        hole &= _bernoulli(n, generator, None, self.erase).view(n, 1, 1, 1)
        fill = torch.rand(x.shape, generator=_generator_beside(x, generator), device=x.device) * 255
        return torch.where(hole.to(x.device), fill, x)


def _generator_beside(x: Tensor, generator: torch.Generator) -> torch.Generator:
    """Return a generator on the device of ``x``, because drawing a value for each pixel on the CPU is slow."""
    if x.device == generator.device:
        return generator
    return torch.Generator(x.device).manual_seed(generator.initial_seed())


def _uniform(n: int, generator: torch.Generator, like: Tensor | None = None) -> Tensor:
    """Draw [n] uniformly from -1..1; always on the CPU, so that a seed gives the same values on every device."""
    drawn = torch.rand(n, generator=generator) * 2 - 1
    return drawn if like is None else drawn.to(like)


def _bernoulli(n: int, generator: torch.Generator, like: Tensor | None, prob: float) -> Tensor:
    """Draw bool [n], True with probability ``prob``."""
    drawn = torch.rand(n, generator=generator) < prob
    return drawn if like is None else drawn.to(like.device)
