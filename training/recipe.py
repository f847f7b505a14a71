"""The whole way from downloaded data to a model that Triton serves: the recipe of the committed model."""

from typing import Any

from training.augmentation import Augmentation
from training.datasets.prepared import MANIFEST, PREPARATIONS
from training.export import export
from training.settings import EmotionSettings, ExportSettings, IdentitySettings, JointSettings, RecipeSettings
from training.stages.expression import train_emotion, train_joint
from training.stages.identity import train_identity
from training.stages.run import is_complete

# Small networks never fit strongly varied crops closely, and the last stage is to see them nearly as served.
LIGHT = Augmentation(
    rotation=8, scale=0.08, shift=0.04, brightness=0.15, contrast=0.2, gamma=0.2, blur=0.15, noise=3, erase=0.1
)

TAUGHT: dict[str, Any] = {"teacher_weight": 10, "people_weight": 0.3, "margin": 0.15}
"""How people are learnt where there is a teacher."""


def run_recipe(settings: RecipeSettings) -> None:
    """Prepare, then identity, the emotion network on identities, emotion, joint, and export."""
    prepared = settings.out / "prepared"
    for kind, marker in (("ferplus", "train"), ("identity", ""), ("lfw", "dev-test")):
        if (settings.data / kind).is_dir() and not (prepared / kind / marker / MANIFEST).exists():
            extra = {"teacher": settings.teacher} if kind == "identity" else {}
            PREPARATIONS[kind](settings.data / kind, prepared / kind, None, **extra)
    people: dict[str, Any] = {
        "data": prepared / "identity",
        "lfw": prepared / "lfw" if (settings.data / "lfw").is_dir() else None,
        "seed": settings.seed,
        **(TAUGHT if settings.teacher else {}),
    }
    expressions: dict[str, Any] = {"data": prepared / "ferplus", "seed": settings.seed, "raw_share": 0.25}
    runs = {name: settings.out / name for name in ("identity", "people", "emotion", "joint")}
    if not is_complete(runs["identity"]):
        train_identity(
            IdentitySettings(out=runs["identity"], network="deepid-wide", epochs=40, augmentation=LIGHT, **people)
        )
    if not is_complete(runs["people"]):
        train_identity(IdentitySettings(out=runs["people"], network=settings.network, epochs=30, **people))
    if not is_complete(runs["emotion"]):
        train_emotion(
            EmotionSettings(
                out=runs["emotion"],
                network=settings.network,
                start=runs["people"],
                epochs=36,
                balance=0.25,
                **expressions,
            )
        )
    if not is_complete(runs["joint"]):
        train_joint(
            JointSettings(
                out=runs["joint"],
                identity=runs["identity"],
                emotion=runs["emotion"],
                epochs=9,
                learning_rate=0.02,
                balance=0.1,
                augmentation=LIGHT,
                **expressions,
            )
        )
    export(ExportSettings(run=runs["joint"], repository=settings.repository))
