"""Find the photos that a command line names, and write their annotated copies."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from service.schemas import PhotoEmotions
from service.settings import Settings
from service.vision.decoding import decode_photo
from service.vision.drawing import annotate

ANNOTATED_SUFFIXES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}
"""Formats of an annotated copy."""

PHOTO_SUFFIXES = (*ANNOTATED_SUFFIXES, ".heic", ".heif")
"""Files in a folder that count as photos."""


def find_photos(paths: Sequence[Path]) -> list[Path]:
    """Return the files in ``paths``, and in place of each folder the photos below it, without hidden ones."""
    return [photo for path in paths for photo in (_photos_in(path) if path.is_dir() else [path])]


def _photos_in(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in PHOTO_SUFFIXES and not hidden and path.is_file():
            yield path


def annotation_paths(photos: list[Path], out: Path) -> list[Path]:
    """Return the path of each photo's annotated copy: the file ``out``, or a file in the folder ``out``.

    Raises:
        ValueError: ``out`` is one file for several photos, has an unsupported suffix, or a copy would overwrite
            one of the photos.
    """
    if out.suffix.lower() in ANNOTATED_SUFFIXES and not out.is_dir():
        if len(photos) > 1:
            raise ValueError(f"{out} is one file for {len(photos)} photos; name a folder instead")
        targets = [out]
    elif out.suffix and not out.is_dir():
        raise ValueError(f"{out} is not a folder, and its suffix is none of {', '.join(ANNOTATED_SUFFIXES)}")
    else:
        targets = []
        for photo in photos:
            name, number = photo.stem, 1
            while (target := out / f"{name}.jpg") in targets:
                number += 1
                name = f"{photo.stem}-{number}"
            targets.append(target)
    originals = {photo.resolve() for photo in photos}
    overwritten = [str(target) for target in targets if target.resolve() in originals]
    if overwritten:
        raise ValueError(f"the annotated copy would overwrite {', '.join(overwritten)}")
    return targets


def write_annotated(photo: Path, answer: PhotoEmotions, target: Path, settings: Settings) -> None:
    """Draw the answer on a copy of the photo; the suffix of ``target`` sets its format."""
    pixels = decode_photo(photo.read_bytes(), max_pixels=settings.max_pixels)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(annotate(pixels, answer, ANNOTATED_SUFFIXES[target.suffix.lower()]))
