"""CK+: posed expressions, filmed from neutral to the peak.

Lucey et al., "The Extended Cohn-Kanade Dataset (CK+)", CVPR Workshops 2010. Two forms can be read:

- the original: ``cohn-kanade-images/S005/001/S005_001_00000011.png`` and, for sequences with a label,
  ``Emotion/S005/001/S005_001_00000011_emotion.txt``. The last three frames of each labeled sequence are used and,
  optionally, its first frame as neutral;
- CK+48: a folder for each emotion with those last three frames, such as ``anger/S010_004_00000017.png``.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.datasets.ferplus import COLUMNS, EMOTIONS, Votes

IMAGES, LABELS = "cohn-kanade-images", "Emotion"
CODES = ("neutral", "anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise")
"""Emotions by their number in the label files."""

FOLDERS = {
    "anger": "anger",
    "contempt": "contempt",
    "disgust": "disgust",
    "fear": "fear",
    "happy": "happiness",
    "sadness": "sadness",
    "surprise": "surprise",
}
"""The emotion of each folder of CK+48."""

PEAK_FRAMES = 3
FRAME = re.compile(r"(S\d+)_(\d+)_(\d+)\.png")
"""Subject, sequence, frame."""


@dataclass(frozen=True, eq=False)
class Frames:
    """The frames of CK+ that are used.

    Attributes:
        paths: Image files.
        labels: Index of each frame's emotion in ``EMOTIONS``, [frames].
        subjects: Name of the person in each frame, [frames].
        skipped: Number of sequences left out, by reason.
    """

    paths: list[Path]
    labels: NDArray[np.int64]
    subjects: NDArray[np.str_]
    skipped: dict[str, int]

    def votes(self) -> Votes:
        """Return the labels as votes of FER+, [frames, 10]: all ten for one emotion."""
        return 10 * np.eye(len(COLUMNS), dtype=np.int64)[self.labels]


def read_ckplus(folder: Path, *, neutral: bool = False) -> Frames:
    """List the frames of either form.

    Args:
        folder: Holds ``cohn-kanade-images`` and ``Emotion``, or the folders of CK+48.
        neutral: Add the first frame of each sequence as neutral; only the original form has one.

    Raises:
        ValueError: A label or a name is malformed, ``neutral`` is set for CK+48, or there are no images.
        FileNotFoundError: There are images but no labels.
    """
    if (folder / IMAGES).is_dir():
        return _read_sequences(folder, neutral=neutral)
    if neutral:
        raise ValueError(f"{folder} holds no {IMAGES}/; without it there are no neutral frames")
    return _read_folders(folder)


def _read_sequences(folder: Path, *, neutral: bool) -> Frames:
    if not (folder / LABELS).is_dir():
        raise FileNotFoundError(f"{folder} holds {IMAGES}/ but no {LABELS}/ with the labels")
    paths: list[Path] = []
    labels: list[int] = []
    subjects: list[str] = []
    skipped = {"sequences without a label": 0, "sequences too short": 0}
    for sequence in sorted(path for path in (folder / IMAGES).glob("*/*") if path.is_dir()):
        subject = sequence.parent.name
        files = sorted((folder / LABELS / subject / sequence.name).glob("*_emotion.txt"))
        if not files:
            skipped["sequences without a label"] += 1
            continue
        frames = sorted(sequence.glob("*.png"))
        if len(frames) < PEAK_FRAMES + neutral:
            skipped["sequences too short"] += 1
            continue
        taken = frames[-PEAK_FRAMES:]
        emotions = [_read_label(files[0])] * PEAK_FRAMES
        if neutral:
            taken, emotions = [frames[0], *taken], ["neutral", *emotions]
        paths += taken
        labels += [EMOTIONS.index(emotion) for emotion in emotions]
        subjects += [subject] * len(taken)
    if not paths:
        raise ValueError(f"{folder / IMAGES} holds no sequence with a label in {folder / LABELS}")
    return Frames(paths, np.array(labels, np.int64), np.array(subjects), skipped)


def _read_label(file: Path) -> str:
    text = file.read_text().strip()
    try:
        code = float(text)
        if code != int(code) or not 0 <= code < len(CODES):
            raise ValueError
    except (ValueError, OverflowError):
        raise ValueError(f"{file} holds {text!r}; a label is a number from 0 to {len(CODES) - 1}") from None
    return CODES[int(code)]


def _read_folders(folder: Path) -> Frames:
    paths: list[Path] = []
    labels: list[int] = []
    subjects: list[str] = []
    for name, emotion in FOLDERS.items():
        for path in sorted((folder / name).glob("*.png")):
            found = FRAME.fullmatch(path.name)
            if not found:  # without its subject, a frame could end up on both sides of a fold
                raise ValueError(f"{path} does not name its subject; expected a name like S010_004_00000017.png")
            paths.append(path)
            labels.append(EMOTIONS.index(emotion))
            subjects.append(found[1])
    if not paths:
        raise ValueError(
            f"{folder} holds neither {IMAGES}/ nor images in {', '.join(f'{name}/' for name in FOLDERS)}"
        )
    return Frames(paths, np.array(labels, np.int64), np.array(subjects), {})
