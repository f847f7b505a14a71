"""The settings of each stage: typed, checked when made, written beside what they produced."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from training.augmentation import Augmentation
from training.networks.resnet import PRESETS
from training.networks.tandem import BACKBONES


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """What every stage needs."""

    out: Path
    """Folder of this run: checkpoints, logs, settings, result. A run that was cut off goes on from here."""
    epochs: int = 40
    """Passes over the training set."""
    batch_size: int = 256
    """Samples a step, on each device."""
    learning_rate: float = 0.1
    """Peak rate; it rises over the first epochs and falls along a cosine to nothing."""
    warmup_epochs: int = 2
    """Epochs over which the rate rises from nothing."""
    weight_decay: float = 5e-4
    """Pull of the weights towards zero."""
    ema_decay: float = 0.998
    """The weights that are kept are a running average; this share of it stays at each step."""
    seed: int = 1
    """Of initial weights, order, augmentation and dropout."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "bf16-mixed"
    """Number format of the forward and backward pass."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """Where to train."""
    devices: int = 1
    """Devices of this machine; more than one trains data-parallel."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """How far each sample is varied."""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs is {self.epochs}; a run needs at least 1")
        if self.batch_size < 2:
            raise ValueError(f"batch_size is {self.batch_size}; batch normalisation needs at least 2")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be above 0")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay is {self.ema_decay}; it must lie in 0..1")
        if self.warmup_epochs < 0:
            raise ValueError(f"warmup_epochs is {self.warmup_epochs}; it must not be below 0")


@dataclass(frozen=True, kw_only=True)
class IdentitySettings(StageSettings):
    """Train a network to tell people apart."""

    data: Path
    """Prepared set of faces by person."""
    lfw: Path | None = None
    """Prepared LFW View 1, to check on and to choose the best epoch by; without it the last epoch is kept."""
    network: str = "deepid"
    """deepid, deepid-wide, or an emotion network that is to start from what it learnt about people."""
    scale: float = 30.0
    """Of the cosine classifier's logits."""
    margin: float = 0.1
    """Of the cosine classifier: how much closer than the others the right person must be."""
    people_weight: float = 1.0
    """Weight of the classification over people in the loss."""
    teacher_weight: float = 0.0
    """Weight of the second target, 1 - cosine between a linear projection of the features and the teacher's
    embedding; wants a set prepared with --teacher. 10 is a good one, beside a people_weight of 0.3; 0 is off."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network not in BACKBONES:
            raise ValueError(f"network is {self.network!r}; there are {', '.join(BACKBONES)}")
        if min(self.people_weight, self.teacher_weight) < 0 or not self.people_weight + self.teacher_weight:
            raise ValueError(
                f"people_weight is {self.people_weight} and teacher_weight {self.teacher_weight}; "
                "neither may be below 0, nor both be 0"
            )


@dataclass(frozen=True, kw_only=True)
class ExpressionSettings(StageSettings):
    """What every stage that learns expressions needs."""

    data: Path
    """Prepared FER+: a folder with train and valid."""
    raw_share: float = 0.0
    """Share of samples that are seen as FER+ frames them, not cropped by their landmarks: the network then reads
    either framing."""
    balance: float = 0.0
    """An emotion's weight in the loss is its frequency to the power of minus this: 0 treats all samples alike,
    1 all emotions."""
    taught_by: tuple[Path, ...] = ()
    """Complete runs of this stage or the joint one. What they answer on average to a face and its mirror image, in
    both framings where there is a raw_share, is learnt beside the votes: Hinton et al., "Distilling the Knowledge
    in a Neural Network", 2015."""
    taught_share: float = 0.5
    """Share of those answers in the targets; the votes have the rest."""
    dropout: float = 0.2
    """Before each fully connected layer."""
    keep: Literal["best", "last"] = "best"
    """The epoch that reads Valid best, or the last: where what is held out is to be reported on, as in folds."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("raw_share", "balance", "taught_share"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; it must lie in 0..1")


@dataclass(frozen=True, kw_only=True)
class EmotionSettings(ExpressionSettings):
    """Train the emotion network on expressions."""

    network: str = "small-resnet"
    """small-resnet, resnet18-half (both train on two cores) or resnet18 (wants a GPU)."""
    start: Path | None = None
    """Run with the same network to start from: of the identity stage, for what it learnt about people, or of this
    one, to train on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network not in PRESETS:
            raise ValueError(f"network is {self.network!r}; there are {', '.join(PRESETS)}")


@dataclass(frozen=True, kw_only=True)
class JointSettings(ExpressionSettings):
    """Join both networks and train the whole on expressions."""

    identity: Path
    """Run of the identity stage."""
    emotion: Path
    """Run of the emotion stage."""
    learning_rate: float = 0.01
    """Peak rate of the classifier and the emotion network; a large one forgets what was learnt apart."""
    identity_rate: float = 0.1
    """Rate of the identity network as a share of learning_rate; 0 freezes it."""
    emotion_rate: float = 1.0
    """Rate of the emotion network as a share of learning_rate; 0 freezes it."""
    epochs: int = 12
    """Passes over the training set."""
    ema_decay: float = 0.995
    """The weights that are kept are a running average; this share of it stays at each step."""
    hidden: int = 0
    """Units of a fully connected layer before the last; 0 for none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.identity_rate, self.emotion_rate) < 0:
            raise ValueError(
                f"identity_rate is {self.identity_rate} and emotion_rate {self.emotion_rate}; "
                "neither may be below 0"
            )


@dataclass(frozen=True, kw_only=True)
class ProbeSettings(ExpressionSettings):
    """Train a classifier of expressions on the features of an identity network, which itself stays as it is."""

    identity: Path
    """Run of the identity stage."""


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """Write a joint run into the model repository, with its configuration and card."""

    run: Path
    """Run of the joint stage."""
    repository: Path = Path("model_repository")
    """Model repository that Triton loads."""
    name: str = "tandem"
    """Name of the model in it."""
    version: int = 1
    """Version to write; a higher one beside an older goes live without a restart."""
    mirror: bool = False
    """Average each crop with its mirror image: somewhat more accurate, at twice the computation."""

    def __post_init__(self) -> None:
        if self.version < 1:
            raise ValueError(f"version is {self.version}; Triton counts from 1")


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """Score FER+ images by a TorchScript file and, with --through, by a service that gets them as PNG files."""

    source: Path
    """FER+ as it is downloaded."""
    split: Literal["valid", "test", "train"] = "valid"
    """Which rows."""
    model: Path = Path("model_repository/tandem/1/model.pt")
    """TorchScript file."""
    through: str | None = None
    """Address of a running service, for example http://127.0.0.1:8080."""
    limit: int | None = None
    """Only the first rows, for a quick look."""
    out: Path | None = None
    """JSON file for the figures."""


@dataclass(frozen=True, kw_only=True)
class RecipeSettings:
    """Run every step, from preparing the data to the last stage; what is complete is not done again."""

    data: Path
    """Folder with ferplus/ and identity/ as they are downloaded, and lfw/ where there is one."""
    out: Path = Path("runs")
    """Folder for the prepared data and for each stage's run."""
    network: str = "resnet18-half"
    """Emotion network: small-resnet, resnet18-half (about two hours on two cores) or resnet18 (wants a GPU)."""
    teacher: Path | None = None
    """ONNX embedding network that both stages on people learn from as well."""
    seed: int = 1
    """Of every stage."""
    repository: Path = Path("model_repository")
    """Model repository to export into."""

    def __post_init__(self) -> None:
        if self.network not in PRESETS:
            raise ValueError(f"network is {self.network!r}; there are {', '.join(PRESETS)}")
        for name in ("ferplus", "identity"):
            if not (self.data / name).is_dir():
                raise ValueError(f"data is {self.data}, which holds no folder {name}/")
