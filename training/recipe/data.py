"""The data that the recipe reads, checked before anything is prepared or trained."""

from collections.abc import Sequence
from dataclasses import dataclass

from training.datasets.ferplus import DROPPED, majority_labels, training_rows
from training.datasets.images import EncodedImage
from training.datasets.lfw import PAIR_LISTS, find_list, read_pairs
from training.preparation.prepare import read_ferplus, read_identity
from training.preparation.teacher import Teacher
from training.settings.commands import RecipeSettings

MIN_VALID = 16
"""Images of Valid with a majority, half of which choose and half of which report."""


@dataclass(frozen=True, eq=False)
class Source:
    """A data set as it was found: its images, how many are trained on, how many validated on, a description."""

    images: Sequence[EncodedImage]
    trained_on: int
    validated_on: int
    shown: str


def read_sources(settings: RecipeSettings) -> dict[str, Source]:
    """List every data set, by kind.

    Raises:
        ValueError: A set is malformed or too small, or the teacher cannot be used.
        FileNotFoundError: A table, a list or an image is missing.
    """
    sources: dict[str, Source] = {}
    for kind in settings.kinds:
        try:
            sources[kind] = {"ferplus": _ferplus, "identity": _identity, "lfw": _lfw}[kind](settings)
        except (ValueError, OSError) as error:
            raise ValueError(
                f"data set {kind}: {error}. See docs/training.md for what each folder holds"
            ) from error
    if settings.teacher:
        Teacher(settings.teacher)
    return sources


def _ferplus(settings: RecipeSettings) -> Source:
    folder = settings.data / "ferplus"
    train, valid = (read_ferplus(folder, split, quick=settings.quick) for split in ("train", "valid"))
    usable, labeled = int(training_rows(train.votes).sum()), int((majority_labels(valid.votes) != DROPPED).sum())
    _check_batch(f"{folder} has {usable:,} images to train on", usable, settings)
    if labeled < MIN_VALID:
        raise ValueError(
            f"{folder} has {labeled} images with Usage PublicTest and a majority; at least {MIN_VALID} are needed "
            "to choose epochs by: mark more rows as PublicTest"
        )
    shown = f"{usable:,} images to train on, {labeled:,} to choose epochs by"
    return Source([*train.images, *valid.images], usable, len(valid.images), shown)


def _identity(settings: RecipeSettings) -> Source:
    folder = settings.data / "identity"
    people = read_identity(folder, quick=settings.quick)
    _check_batch(f"{folder} has {len(people.images):,} images", len(people.images), settings)
    shown = f"{len(people.images):,} images of {len(people.names):,} people"
    return Source(people.images, len(people.images), 0, shown)


def _lfw(settings: RecipeSettings) -> Source:
    folder = settings.data / "lfw"
    images: list[EncodedImage] = []
    pairs = 0
    for name in ("dev-train", "dev-test"):
        if not find_list(folder, PAIR_LISTS[name]):
            raise ValueError(f"{folder} has no {PAIR_LISTS[name]}; add it, or move the folder away")
        read = read_pairs(folder, PAIR_LISTS[name])
        images += read.paths
        pairs += len(read.same)
    shown = f"{len(images):,} images in {pairs:,} pairs, to choose the identity network's epoch by"
    return Source(images, 0, len(images), shown)


def _check_batch(found: str, images: int, settings: RecipeSettings) -> None:
    batch_size = settings.stage_options(1)["batch_size"]
    if images < batch_size * settings.devices:
        raise ValueError(
            f"{found}, fewer than a batch of {batch_size} on each of {settings.devices} device(s); add "
            "images or choose a smaller --batch_size"
        )
