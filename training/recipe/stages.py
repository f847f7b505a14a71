"""The stages of the recipe, with their settings."""

from typing import Any

from training.settings.augmentation import Augmentation
from training.settings.commands import RecipeSettings
from training.settings.stages import EmotionSettings, IdentitySettings, JointSettings, StageSettings

# The identity networks are too small to fit strongly augmented crops; the joint stage should see crops nearly as
# they are served.
LIGHT_AUGMENTATION = Augmentation(
    rotation=8, scale=0.08, shift=0.04, brightness=0.15, contrast=0.2, gamma=0.2, blur=0.15, noise=3, erase=0.1
)

WITH_TEACHER: dict[str, Any] = {"teacher_weight": 10, "classification_weight": 0.3, "margin": 0.15}
"""Settings of the identity runs if there is a teacher."""

IDENTITY_NETWORK = "deepid-wide"


def plan_stages(settings: RecipeSettings) -> list[StageSettings]:
    """Return the settings of every stage, each after those that it starts from.

    They are: the identity network; the emotion network, pretrained on people and then trained on expressions; the
    joint network, from an identity network of fewer epochs; and the emotion and joint networks a second time,
    distilled from the first.
    """
    out = settings.folder

    common = settings.stage_options
    people: dict[str, Any] = {
        "data": settings.prepared / "identity",
        "lfw": settings.prepared / "lfw" if "lfw" in settings.kinds else None,
        **(WITH_TEACHER if settings.teacher else {}),
    }
    known: dict[str, Any] = {**people, "network": IDENTITY_NETWORK, "augmentation": LIGHT_AUGMENTATION}
    expressions: dict[str, Any] = {"data": settings.prepared / "ferplus", "unaligned_prob": 0.25}
    balanced: dict[str, Any] = {"class_weight_power": 0.1, **expressions}
    joined: dict[str, Any] = {"augmentation": LIGHT_AUGMENTATION, **balanced}
    return [
        IdentitySettings(out=out / "identity", **common(90), **known),
        IdentitySettings(out=out / "pretrain", network=settings.network, **common(30), **people),
        EmotionSettings(
            out=out / "emotion-first",
            network=settings.network,
            start=out / "pretrain",
            class_weight_power=0.25,
            **common(36),
            **expressions,
        ),
        IdentitySettings(out=out / "identity-first", **common(40), **known),
        JointSettings(
            out=out / "joint-first",
            identity=out / "identity-first",
            emotion=out / "emotion-first",
            learning_rate=0.02,
            **common(9),
            **joined,
        ),
        EmotionSettings(
            out=out / "emotion",
            network=settings.network,
            start=out / "emotion-first",
            distill_from=(out / "joint-first", out / "emotion-first"),
            learning_rate=0.05,
            **common(36),
            **balanced,
        ),
        JointSettings(
            out=out / "joint",
            identity=out / "identity",
            emotion=out / "emotion",
            distill_from=(out / "joint-first", out / "emotion"),
            **common(10),
            **joined,
        ),
    ]
