"""Augmentation of batches of crops, on the device of the batch.

Rotation, zoom, shift and flip are a single resampling, because each resampling blurs.
"""

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from training.crop_spec import CROP_SIZE
from training.settings.augmentation import Augmentation


def augment(
    images: Tensor, ranges: Augmentation, generator: torch.Generator | None, placements: Tensor | None = None
) -> Tensor:
    """Map uint8 [N, C, H, W] -> float crops [N, C, H, W] in 0..255.

    Args:
        images: Crops, or larger images of which ``placements`` says where the crops lie.
        ranges: How much to change.
        generator: Source of the random numbers. One on the CPU gives the same changes on every device; None
            draws on the device of the images, which waits for nothing and can be captured in a CUDA graph.
        placements: For each image, [N, 2, 3], what ``affine_grid`` needs to cut its crop out; the crop is cut
            out and changed in one resampling.
    """
    x = _resample(images.float(), ranges, generator, placements)
    x = _change_light(x, ranges, generator)
    return _erase(x, ranges, generator).clamp(0, 255)


def _resample(
    x: Tensor, ranges: Augmentation, generator: torch.Generator | None, placements: Tensor | None
) -> Tensor:
    n = len(x)
    angle = _uniform(n, generator, x) * math.radians(ranges.rotation)
    zoom = 1 / (1 + _uniform(n, generator, x) * ranges.scale)
    mirror = torch.where(_bernoulli(n, generator, x, 0.5 if ranges.flip else 0.0), -1.0, 1.0)
    shift = torch.stack([_uniform(n, generator, x), _uniform(n, generator, x)], dim=1) * 2 * ranges.shift
    cosine, sine = angle.cos() * zoom, angle.sin() * zoom
    matrix = torch.stack([cosine * mirror, -sine, sine * mirror, cosine], dim=1).view(n, 2, 2)
    theta = torch.cat([matrix, shift[:, :, None]], dim=2)  # [N, 2, 3]
    if placements is None:
        grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
        moved = functional.grid_sample(x, grid, "bilinear", "border", align_corners=False)
    else:
        corner = functional.pad(placements[:, :, 2:], (2, 0))  # the translation alone, [N, 2, 3]
        moved = cut_crops(x, placements[:, :, :2] @ theta + corner)
    if ranges.blur:
        coarse = _blur(moved, torch.rand(1, generator=generator, device=_device(generator, x)).to(x.device))
        moved = torch.where(_bernoulli(n, generator, x, ranges.blur).view(n, 1, 1, 1), coarse, moved)
    return moved


def _change_light(x: Tensor, ranges: Augmentation, generator: torch.Generator | None) -> Tensor:
    n = len(x)

    def draw(width: float) -> Tensor:
        return (_uniform(n, generator, x) * width).view(n, 1, 1, 1)

    x = 255 * (x / 255).pow(draw(ranges.gamma).exp())
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    x = (x - mean) * (1 + draw(ranges.contrast)) + mean + 255 * draw(ranges.brightness)
    strength = draw(ranges.noise).abs()
    return x + strength * torch.randn(x.shape, generator=_generator_beside(x, generator), device=x.device)


def _erase(x: Tensor, ranges: Augmentation, generator: torch.Generator | None) -> Tensor:
    n, _, height, width = x.shape

    def draw() -> Tensor:
        return torch.rand(n, generator=generator, device=_device(generator, x)).to(x.device)

    area = 0.02 + 0.18 * draw()
    ratio = torch.exp(_uniform(n, generator, x) * math.log(3))  # height / width from 1/3 to 3
    high, wide = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    top, left = (draw() * (1 - side) for side in (high, wide))
    rows, columns = (torch.arange(side, device=x.device) / side for side in (height, width))
    in_rows = (rows >= top[:, None]) & (rows < (top + high)[:, None])  # [N, H]
    in_columns = (columns >= left[:, None]) & (columns < (left + wide)[:, None])  # [N, W]
    hole = in_rows[:, None, :, None] & in_columns[:, None, None, :]
    hole &= _bernoulli(n, generator, x, ranges.erase).view(n, 1, 1, 1)
    fill = torch.rand(x.shape, generator=_generator_beside(x, generator), device=x.device) * 255
    return torch.where(hole, fill, x)


def cut_crops(images: Tensor, placements: Tensor) -> Tensor:
    """Cut a crop, float [N, 1, *CROP_SIZE] in 0..255, out of each image [N, 1, H, W], as the service does.

    Args:
        images: Gray values in 0..255; what lies outside of an image repeats its border.
        placements: For each crop, [N, 2, 3], what ``affine_grid`` needs to cut it out.
    """
    grid = functional.affine_grid(placements, [len(images), 1, *CROP_SIZE], align_corners=False)
    crops = functional.grid_sample(images.float(), grid, "bicubic", "border", align_corners=False)
    return crops.clamp(0, 255)


def _blur(x: Tensor, share: Tensor) -> Tensor:
    """Downsample square crops to half up to the full resolution, by ``share`` [1] from 0 to 1, and back."""
    side = x.shape[-1]
    size = (side * (0.5 + 0.5 * share)).long() - side // 2
    blur = _blur_matrices(side, x.device).index_select(0, size)  # [1, side, side]; indexing with size would wait
    return blur @ x @ blur.transpose(1, 2)


@cache
def _blur_matrices(side: int, device: torch.device) -> Tensor:
    """Return what resampling a row to side // 2 up to side pixels and back does, [sizes, side, side]."""
    rows = torch.eye(side)[:, None]
    coarse = (functional.interpolate(rows, size=size, mode="area") for size in range(side // 2, side + 1))
    back = [functional.interpolate(each, size=side, mode="linear", align_corners=False) for each in coarse]
    return torch.cat(back, dim=1).permute(1, 2, 0).contiguous().to(device)


def _device(generator: torch.Generator | None, x: Tensor) -> torch.device:
    return generator.device if generator else x.device


def _generator_beside(x: Tensor, generator: torch.Generator | None) -> torch.Generator | None:
    """Return a generator on the device of ``x``, because drawing a value for each pixel on the CPU is slow."""
    if generator is None or x.device == generator.device:
        return generator
    return torch.Generator(x.device).manual_seed(generator.initial_seed())


def _uniform(n: int, generator: torch.Generator | None, like: Tensor) -> Tensor:
    """Draw [n] uniformly from -1..1, where the generator is."""
    return (torch.rand(n, generator=generator, device=_device(generator, like)) * 2 - 1).to(like)


def _bernoulli(n: int, generator: torch.Generator | None, like: Tensor, prob: float) -> Tensor:
    """Draw bool [n], True with probability ``prob``."""
    drawn = torch.rand(n, generator=generator, device=_device(generator, like)) < prob
    return drawn.to(like.device)
