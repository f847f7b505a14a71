"""Augmentation of whole batches of grey crops, on whichever device they lie.

The geometric part is one resampling: turning, scaling, shifting and flipping cost one blur, not four.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Augmentation:
    """How far each sample is varied. Every range is symmetric and drawn evenly; zeros leave the batch as it is."""

    rotation: float = 15.0
    """Degrees to either side."""
    scale: float = 0.15
    """A crop is zoomed by 1 - scale to 1 + scale."""
    shift: float = 0.08
    """As a fraction of the crop, along each axis."""
    flip: bool = True
    """Mirror every other sample."""
    brightness: float = 0.25
    """Added, as a fraction of the full range."""
    contrast: float = 0.35
    """Grey values are stretched about their mean by 1 - contrast to 1 + contrast."""
    gamma: float = 0.35
    """The exponent is e to the power of -gamma to +gamma."""
    blur: float = 0.25
    """Share of samples seen through fewer pixels (half to all of theirs)."""
    noise: float = 6.0
    """Standard deviation of added noise, at most, in grey values of 255."""
    erase: float = 0.5
    """Share of samples with a rectangle of 2 to 20 % of the crop filled with noise."""

    def __post_init__(self) -> None:
        for name in ("scale", "shift", "contrast", "blur", "erase"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"augmentation: {name} is {value}; it must lie in 0..1")

    def __call__(self, crops: Tensor, generator: torch.Generator) -> Tensor:
        """uint8 [N, 1, H, W] -> float [N, 1, H, W], 0..255."""
        x = self._resample(crops.float(), generator)
        x = self._light(x, generator)
        return self._erase(x, generator).clamp(0, 255)

    def _resample(self, x: Tensor, generator: torch.Generator) -> Tensor:
        n = len(x)
        angle = _even(n, generator, x) * math.radians(self.rotation)
        zoom = 1 / (1 + _even(n, generator, x) * self.scale)
        mirror = torch.where(_share(n, generator, x, 0.5 if self.flip else 0.0), -1.0, 1.0)
        shift = torch.stack([_even(n, generator, x), _even(n, generator, x)], dim=1) * 2 * self.shift
        cosine, sine = angle.cos() * zoom, angle.sin() * zoom
        matrix = torch.stack([cosine * mirror, -sine, sine * mirror, cosine], dim=1).view(n, 2, 2)
        theta = torch.cat([matrix, shift[:, :, None]], dim=2)  # [N, 2, 3]
        grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
        moved = functional.grid_sample(x, grid, "bilinear", "border", align_corners=False)
        if self.blur:
            size = int(x.shape[-1] * (0.5 + 0.5 * torch.rand((), generator=generator).item()))
            coarse = functional.interpolate(moved, size=size, mode="area")
            coarse = functional.interpolate(coarse, size=x.shape[-1], mode="bilinear", align_corners=False)
            moved = torch.where(_share(n, generator, x, self.blur).view(n, 1, 1, 1), coarse, moved)
        return moved

    def _light(self, x: Tensor, generator: torch.Generator) -> Tensor:
        n = len(x)

        def draw(width: float) -> Tensor:
            return (_even(n, generator, x) * width).view(n, 1, 1, 1)

        x = 255 * (x / 255).pow(draw(self.gamma).exp())
        mean = x.mean(dim=(2, 3), keepdim=True)
        x = (x - mean) * (1 + draw(self.contrast)) + mean + 255 * draw(self.brightness)
        strength = draw(self.noise).abs()
        return x + strength * torch.randn(x.shape, generator=_beside(x, generator), device=x.device)

    def _erase(self, x: Tensor, generator: torch.Generator) -> Tensor:
        n, _, height, width = x.shape
        area = 0.02 + 0.18 * torch.rand(n, generator=generator)
        ratio = torch.exp(_even(n, generator) * math.log(3))  # a third to three times as high as wide
        high, wide = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
        top, left = (torch.rand(n, generator=generator) * (1 - side) for side in (high, wide))
        rows, columns = torch.arange(height) / height, torch.arange(width) / width
        in_rows = (rows >= top[:, None]) & (rows < (top + high)[:, None])  # [N, H]
        in_columns = (columns >= left[:, None]) & (columns < (left + wide)[:, None])  # [N, W]
        hole = in_rows[:, None, :, None] & in_columns[:, None, None, :]
        hole &= _share(n, generator, None, self.erase).view(n, 1, 1, 1)
        filling = torch.rand(x.shape, generator=_beside(x, generator), device=x.device) * 255
        return torch.where(hole.to(x.device), filling, x)


def _beside(x: Tensor, generator: torch.Generator) -> torch.Generator:
    """A generator where ``x`` lies: a value for each pixel, drawn by the CPU, would keep a GPU waiting."""
    if x.device == generator.device:
        return generator
    return torch.Generator(x.device).manual_seed(generator.initial_seed())


def _even(n: int, generator: torch.Generator, like: Tensor | None = None) -> Tensor:
    """[n] drawn evenly from -1..1; on the CPU whatever the device, so that a seed means the same everywhere."""
    drawn = torch.rand(n, generator=generator) * 2 - 1
    return drawn if like is None else drawn.to(like)


def _share(n: int, generator: torch.Generator, like: Tensor | None, share: float) -> Tensor:
    """[n] of bool, True in about ``share`` of the places."""
    drawn = torch.rand(n, generator=generator) < share
    return drawn if like is None else drawn.to(like.device)
