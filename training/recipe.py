"""The whole way from downloaded data to a model that Triton serves: the recipe of the committed model."""

from collections.abc import Callable
from typing import Any

from training.augmentation import Augmentation
from training.datasets.prepared import MANIFEST, PREPARATIONS
from training.export.repository import export
from training.runs import is_complete
from training.settings.stages import (
    EmotionSettings,
    ExportSettings,
    IdentitySettings,
    JointSettings,
    RecipeSettings,
    StageSettings,
)
from training.stages.expression import train_emotion, train_joint
from training.stages.identity import train_identity

# Small networks never fit strongly varied crops closely, and the last stage is to see them nearly as served.
LIGHT = Augmentation(
    rotation=8, scale=0.08, shift=0.04, brightness=0.15, contrast=0.2, gamma=0.2, blur=0.15, noise=3, erase=0.1
)

TAUGHT: dict[str, Any] = {"teacher_weight": 10, "people_weight": 0.3, "margin": 0.15}
"""How people are learnt where there is a teacher."""


def run_recipe(settings: RecipeSettings) -> None:
    """Prepare; identity, the emotion network on identities, emotion and joint; the last two once more, taught by
    what the first two answer; export.
    """
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
    names = ("identity", "people", "emotion-first", "joint-first", "emotion", "joint")
    identity, on_people, emotion_first, joint_first, emotion, joint = (settings.out / name for name in names)
    joined: dict[str, Any] = {"identity": identity, "balance": 0.1, "augmentation": LIGHT, **expressions}

    def train(stage: Callable[[Any], None], stage_settings: StageSettings) -> None:
        if not is_complete(stage_settings.out):
            stage(stage_settings)

    train(
        train_identity,
        IdentitySettings(out=identity, network="deepid-wide", epochs=90, augmentation=LIGHT, **people),
    )
    train(train_identity, IdentitySettings(out=on_people, network=settings.network, epochs=30, **people))
    train(
        train_emotion,
        EmotionSettings(
            out=emotion_first, network=settings.network, start=on_people, epochs=36, balance=0.25, **expressions
        ),
    )
    train(
        train_joint,
        JointSettings(out=joint_first, emotion=emotion_first, epochs=9, learning_rate=0.02, **joined),
    )
    train(
        train_emotion,
        EmotionSettings(
            out=emotion,
            network=settings.network,
            start=emotion_first,
            taught_by=(joint_first, emotion_first),
            epochs=36,
            learning_rate=0.05,
            balance=0.1,
            **expressions,
        ),
    )
    train(
        train_joint,
        JointSettings(out=joint, emotion=emotion, taught_by=(joint_first, emotion), epochs=10, **joined),
    )
    export(ExportSettings(run=joint, repository=settings.repository))
