"""The options of the commands that train away from the data: bundle, run-bundle and unbundle."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from training.networks.presets import BACKBONES
from training.settings.augmentation import Augmentation
from training.settings.stages import StageSettings, check_network


@dataclass(frozen=True, kw_only=True)
class PhaseSettings:
    """How one phase of a bundle is trained; the options mean what they mean in the stages."""

    seconds: float
    """Time to train for, above 0. The length of a step is measured, and the number of steps follows from it."""
    batch_size: int = 256
    """Samples in a batch, at least 2."""
    optimizer: Literal["sgd", "adamw"] = "adamw"
    """AdamW, or SGD with Nesterov momentum, which wants a learning_rate of about 0.1."""
    learning_rate: float = 0.001
    """Peak learning rate, above 0."""
    weight_decay: float = 0.03
    """Decay of the weights, 0 or more."""
    max_gradient: float = 5.0
    """Norm to which the gradient is clipped, above 0."""
    ema_decay: float = 0.998
    """Largest decay per step of the moving average of the weights, which is what is kept."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """Random changes to each sample."""

    def __post_init__(self) -> None:
        if self.seconds <= 0:
            raise ValueError(f"seconds is {self.seconds}; it must be above 0")
        if self.max_gradient <= 0:
            raise ValueError(f"max_gradient is {self.max_gradient}; it must be above 0")
        StageSettings(out=Path(), **self.stage_options())  # which has limits for the others

    def stage_options(self) -> dict[str, Any]:
        """Return the options of a stage that trains like this."""
        return {name: value for name, value in vars(self).items() if name != "seconds"}


@dataclass(frozen=True, kw_only=True)
class BundleSettings:
    """Write everything that a training run needs, code included, into one file for a machine with a GPU.

    Its phases are: identity networks learn from people; teachers, which start from one of them, learn expressions;
    a small student, which starts from another, learns from the teachers' answers on FER+ and on the people; and
    student and identity network are trained jointly.
    """

    ferplus: Path
    """Prepared FER+: a folder with train and valid."""
    faces: Path
    """Faces by person, prepared with --wide true and, better, with --teacher."""
    out: Path = Path("training.pyz")
    """File to write."""
    max_mib: float = 45.0
    """Largest size of the file in MiB."""
    loss: int = 4
    """Largest change of a gray value, 0 or more. Larger values make a smaller file; 0 keeps every value."""
    valid_loss: int = 2
    """The same for Valid, on which the networks are scored."""
    margin: int = 4
    """Pixels to keep around each of the faces by person, 0 to 8."""
    teacher_size: int = 128
    """Numbers that each of the teacher's embeddings is reduced to."""
    identity_network: str = "deepid-wide"
    """Identity network of the tandem."""
    teacher_network: str = "resnet18"
    """Network of the teachers."""
    network: str = "resnet18-half"
    """Emotion network of the tandem, the student."""
    teachers: int = 2
    """Number of teachers, at least 1."""
    cosine_margin: float = 0.15
    """Cosine subtracted from the correct person's logit in training, 0 to 1."""
    classification_weight: float = 0.3
    """Weight of the classification loss over people, above 0."""
    teacher_weight: float = 10.0
    """Weight of the loss 1 - cosine to the teacher's embedding, if there are any."""
    unaligned_prob: float = 0.35
    """Probability, 0 to 1, of training on a face as FER+ frames it."""
    logit_adjustment: float = 0.1
    """How much the teachers' loss allows for rare emotions, 0 to 1."""
    distill_weight: float = 0.8
    """Weight, 0 to 1, of the teachers' answers in the student's targets on FER+; the votes have the rest."""
    seed: int = 1
    """Seed of the initial weights and of everything drawn; CUDA kernels still round differently each time."""
    identity_phase: PhaseSettings = field(
        default_factory=lambda: PhaseSettings(
            seconds=60, augmentation=Augmentation(rotation=10, scale=0.1, shift=0.05, erase=0.3)
        )
    )
    """Training on people."""
    teacher_phase: PhaseSettings = field(
        default_factory=lambda: PhaseSettings(
            seconds=150,
            optimizer="sgd",  # a full-width ResNet-18 reached less with AdamW at 0.001
            learning_rate=0.05,
            weight_decay=0.001,
            ema_decay=0.999,
            augmentation=Augmentation(rotation=18, scale=0.18, shift=0.09),
        )
    )
    """Training of the teachers on expressions."""
    student_phase: PhaseSettings = field(default_factory=lambda: PhaseSettings(seconds=190, batch_size=512))
    """Training of the student."""
    joint_phase: PhaseSettings = field(
        default_factory=lambda: PhaseSettings(seconds=45, batch_size=512, learning_rate=3e-4)
    )
    """Joint training of student and identity network."""

    def __post_init__(self) -> None:
        for name in (self.identity_network, self.teacher_network, self.network):
            check_network(name, BACKBONES)
        limits = {"loss": (0, 127), "valid_loss": (0, 127), "margin": (0, 8), "teachers": (1, 16)}
        limits |= {"teacher_size": (1, 4096)}
        shares = ("cosine_margin", "unaligned_prob", "logit_adjustment", "distill_weight")
        limits |= dict.fromkeys(shares, (0, 1))
        for option, (low, high) in limits.items():
            if not low <= getattr(self, option) <= high:
                raise ValueError(f"{option} is {getattr(self, option)}; it must be from {low} to {high}")
        if self.classification_weight <= 0 or self.teacher_weight < 0:
            raise ValueError(
                f"classification_weight is {self.classification_weight} and teacher_weight is "
                f"{self.teacher_weight}; the first must be above 0, the second at least 0"
            )


def command(settings: BundleSettings) -> str:
    """Return the commands that make and run such a bundle, with the options that differ from the defaults."""
    default = BundleSettings(ferplus=settings.ferplus, faces=settings.faces)
    known = _options(vars(default))
    options = {"ferplus": settings.ferplus, "faces": settings.faces, "out": settings.out}
    options |= {name: value for name, value in _options(vars(settings)).items() if value != known[name]}
    shown = " ".join(f"--{name} {value}" for name, value in options.items())
    run = f"training run-bundle --bundle {settings.out} --out parts"
    return f"training bundle {shown}\n{run}\ntraining unbundle --parts parts --out runs"


def _options(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, value in values.items():
        nested = isinstance(value, PhaseSettings | Augmentation)
        options |= _options(vars(value), f"{prefix}{name}.") if nested else {prefix + name: value}
    return options


PHASES = ("identity_phase", "teacher_phase", "student_phase", "joint_phase")


def settings_from(values: dict[str, Any]) -> BundleSettings:
    """Make the settings again from their JSON form."""
    known = dict(values)
    for name in PHASES:
        phase = dict(known[name])
        known[name] = PhaseSettings(**{**phase, "augmentation": Augmentation(**phase["augmentation"])})
    paths = {name: Path(known[name]) for name in ("ferplus", "faces", "out")}
    return BundleSettings(**{**known, **paths})


@dataclass(frozen=True, kw_only=True)
class UnbundleSettings:
    """Write the parts that `training run-bundle` left as runs, to export, to score and to train on."""

    parts: Path
    """Folder that `training run-bundle` wrote into."""
    out: Path
    """Folder for the runs."""

    def __post_init__(self) -> None:
        if self.out.exists() and any(self.out.iterdir()):
            raise ValueError(f"out is {self.out}, which is not empty")
