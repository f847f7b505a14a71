"""The options of the augmentation."""

from dataclasses import dataclass


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
