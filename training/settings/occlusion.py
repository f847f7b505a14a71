"""The options of `training occlusion`."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class OcclusionSettings:
    """Fit how the face pipeline tells that an eye or the mouth is hidden, on photos that are drawn over."""

    photos: Path
    """Folder with photos of faces, such as LFW; its subfolders are searched, too."""
    out: Path
    """File for the numbers, .npy; ``python -m service.vision.weights.download`` puts them into ONet."""
    samples: int = 20_000
    """How many faces to draw over, or to leave as they are, at least 100."""
    seed: int = 1
    """Seed of what is drawn."""

    def __post_init__(self) -> None:
        if not self.photos.is_dir():
            raise ValueError(f"photos is {self.photos}, which is not a folder")
        if self.samples < 100:
            raise ValueError(f"samples is {self.samples}; it must be at least 100")
