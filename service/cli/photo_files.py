"""Find the photos that a command line names, and write their annotated copies."""

import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.cli.console import counted
from service.schemas import PhotoEmotions
from service.vision.decoding import decode_photo
from service.vision.drawing import annotate

ANNOTATED_SUFFIXES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}
"""Formats of an annotated copy."""

PHOTO_SUFFIXES = (*ANNOTATED_SUFFIXES, ".heic", ".heif", ".avif", ".gif", ".bmp", ".tif", ".tiff")
"""Files in a folder that count as photos."""

STDIN = Path("-")
"""Stands for standard input."""

HIDDEN, SUBFOLDER, COPY, NO_SUFFIX = "hidden", "in subfolders", "in the folder of --annotate", "without a suffix"
"""Kinds of skipped files that are not suffixes."""


@dataclass(frozen=True)
class FoundPhotos:
    """The photos that a command line names.

    Attributes:
        photos: each photo's path and, to keep subfolders in an output folder, its path below the folder that was
            named; for a file that was named itself, its name.
        skipped: how many files of each kind in the folders are not photos.
        empty_folders: folders that were named and hold no photo.
        stdin: what standard input holds, if that is one of the photos.
    """

    photos: Mapping[Path, Path]
    skipped: Counter[str]
    empty_folders: Sequence[Path]
    stdin: bytes | None = None

    @property
    def paths(self) -> list[Path]:
        """The paths of the photos."""
        return list(self.photos)

    def content(self, path: Path) -> bytes | Path:
        """Return what a client sends for one of the photos."""
        return path if path != STDIN or self.stdin is None else self.stdin


def find_photos(paths: Sequence[Path], *, recursive: bool = True, copies: Path | None = None) -> FoundPhotos:
    """Find the files in ``paths``, each once, and in place of each folder the photos in it, without hidden ones.

    Args:
        paths: files, folders, and ``STDIN``, which is read.
        recursive: whether to search the folders' subfolders too.
        copies: a folder for annotated copies; as a subfolder of another, it is left out, so that a run that is
            repeated does not take the copies for photos.
    """
    photos: dict[Path, Path] = {}
    skipped: Counter[str] = Counter()
    empty_folders = []
    for path in paths:
        if not path.is_dir():
            photos.setdefault(path, Path("stdin" if path == STDIN else path.name))
            continue
        found = list(_photos_in(path, recursive, copies, skipped))
        photos |= {photo: photo.relative_to(path) for photo in found if photo not in photos}
        if not found:
            empty_folders.append(path)
    return FoundPhotos(photos, skipped, empty_folders, sys.stdin.buffer.read() if STDIN in photos else None)


def _photos_in(folder: Path, recursive: bool, copies: Path | None, skipped: Counter[str]) -> Iterator[Path]:
    left_out = copies.resolve() if copies and copies.resolve() != folder.resolve() else None
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            continue
        relative = path.relative_to(folder)
        if any(part.startswith(".") for part in relative.parts):
            skipped[HIDDEN] += 1
        elif left_out and (folder.resolve() / relative).is_relative_to(left_out):
            skipped[COPY] += 1
        elif not recursive and len(relative.parts) > 1:
            skipped[SUBFOLDER] += 1
        elif path.suffix.lower() not in PHOTO_SUFFIXES or not path.is_file():
            skipped[path.suffix.lower() or NO_SUFFIX] += 1
        else:
            yield path


def describe_skipped(skipped: Counter[str]) -> str:
    """Return a sentence such as "skipped 4 files: 3 .txt, 1 hidden"."""
    kinds = ", ".join(
        f"{skipped[kind]} {kind}" for kind in sorted(skipped, key=lambda kind: (-skipped[kind], kind))
    )
    return f"skipped {counted(skipped.total(), 'file')}: {kinds}"


def annotation_paths(photos: Mapping[Path, Path], out: Path, *, is_folder: bool = False) -> dict[Path, Path]:
    """Return the path of each photo's annotated copy: the file ``out``, or a file in the folder ``out``.

    Args:
        photos: each photo's path, and its path below the folder that was named; subfolders are kept.
        out: a file or a folder.
        is_folder: whether it is a folder, even if it does not exist yet and its name looks like that of a file.

    Raises:
        ValueError: ``out`` is one file for several photos, has an unsupported suffix, or a copy would overwrite
            one of the photos.
    """
    is_folder = is_folder or out.is_dir()
    if out.suffix.lower() in ANNOTATED_SUFFIXES and not is_folder:
        if len(photos) > 1:
            raise ValueError(f"{out} is one file for {len(photos)} photos; name a folder instead")
        targets = dict.fromkeys(photos, out)
    elif out.suffix and not is_folder:
        raise ValueError(
            f"the suffix of {out} is none of {', '.join(ANNOTATED_SUFFIXES)}; for a folder, end it with /"
        )
    else:
        targets = {}
        taken = set()
        for photo, relative in photos.items():
            target, number = out / relative.parent / f"{relative.stem}.jpg", 1
            while target in taken:
                number += 1
                target = target.with_name(f"{relative.stem}-{number}.jpg")
            taken.add(target)
            targets[photo] = target
    originals = {photo.resolve() for photo in photos}
    overwritten = [str(target) for target in targets.values() if target.resolve() in originals]
    if overwritten:
        raise ValueError(f"the annotated copy would overwrite {', '.join(overwritten)}")
    return targets


def name_of(photo: Path) -> str:
    """Return a photo's path as it is written to files: bytes of it that are no UTF-8 are escaped."""
    return os.fsencode(photo).decode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class Copies:
    """The copies of photos with boxes and labels.

    Attributes:
        found: the photos.
        targets: the path of each photo's copy; its suffix sets the format.
        max_pixels: above it, a JPEG is drawn at half its width and height.
    """

    found: FoundPhotos
    targets: Mapping[Path, Path]
    max_pixels: int

    def lack(self, photo: Path) -> bool:
        """Return whether a photo has no copy yet."""
        return not self.targets[photo].exists()

    def write(self, photo: Path, answer: PhotoEmotions) -> None:
        """Draw the answer on a copy of the photo.

        Raises:
            OSError: the photo cannot be read, or the copy cannot be written.
            TandemError: the photo cannot be decoded, or is too large for the copy's format.
        """
        content, target = self.found.content(photo), self.targets[photo]
        pixels = decode_photo(
            content.read_bytes() if isinstance(content, Path) else content, max_pixels=self.max_pixels
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(annotate(pixels, answer, ANNOTATED_SUFFIXES[target.suffix.lower()]))
