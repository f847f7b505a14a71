"""The recipe of the committed model: every step from downloaded data to a model that Triton serves."""

from collections.abc import Callable
from typing import Any

from training.datasets.prepared import MANIFEST
from training.export.repository import export
from training.preparation.prepare import PREPARATIONS
from training.runs import is_complete
from training.settings.augmentation import Augmentation
from training.settings.commands import ExportSettings, RecipeSettings
from training.settings.stages import EmotionSettings, IdentitySettings, JointSettings, StageSettings
from training.stages.expression import train_emotion, train_joint
from training.stages.identity import train_identity

# The identity networks are too small to fit strongly augmented crops; the joint stage should see crops nearly as
# they are served.
LIGHT_AUGMENTATION = Augmentation(
    rotation=8, scale=0.08, shift=0.04, brightness=0.15, contrast=0.2, gamma=0.2, blur=0.15, noise=3, erase=0.1
)

WITH_TEACHER: dict[str, Any] = {"teacher_weight": 10, "classification_weight": 0.3, "margin": 0.15}
"""Settings of the identity runs if there is a teacher."""


def run_recipe(settings: RecipeSettings) -> None:
    """Prepare the data, train every stage and export; steps that are complete are skipped.

    The stages are: the identity network; the emotion network, pretrained on people and then trained on
    expressions; the joint network; and the emotion and joint networks a second time, distilled from the first.
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
        **(WITH_TEACHER if settings.teacher else {}),
    }
    expressions: dict[str, Any] = {"data": prepared / "ferplus", "seed": settings.seed, "unaligned_prob": 0.25}
    names = ("identity", "pretrain", "emotion-first", "joint-first", "emotion", "joint")
    identity, pretrain, emotion_first, joint_first, emotion, joint = (settings.out / name for name in names)
    joined: dict[str, Any] = {
        "identity": identity,
        "class_weight_power": 0.1,
        "augmentation": LIGHT_AUGMENTATION,
        **expressions,
    }

    def train(stage: Callable[[Any], None], stage_settings: StageSettings) -> None:
        if not is_complete(stage_settings.out):
            stage(stage_settings)

    train(
        train_identity,
        IdentitySettings(
            out=identity, network="deepid-wide", epochs=90, augmentation=LIGHT_AUGMENTATION, **people
        ),
    )
    train(train_identity, IdentitySettings(out=pretrain, network=settings.network, epochs=30, **people))
    train(
        train_emotion,
        EmotionSettings(
            out=emotion_first,
            network=settings.network,
            start=pretrain,
            epochs=36,
            class_weight_power=0.25,
            **expressions,
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
            distill_from=(joint_first, emotion_first),
            epochs=36,
            learning_rate=0.05,
            class_weight_power=0.1,
            **expressions,
        ),
    )
    train(
        train_joint,
        JointSettings(out=joint, emotion=emotion, distill_from=(joint_first, emotion), epochs=10, **joined),
    )
    export(ExportSettings(run=joint, repository=settings.repository))
