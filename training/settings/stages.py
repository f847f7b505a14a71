"""The settings of each training stage: typed, checked when created, and written into the run's folder."""

import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Literal

from training.networks.presets import BACKBONES, PRESETS, is_elsewhere, unknown_network
from training.settings.augmentation import Augmentation


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """Settings that all stages have in common."""

    stage: ClassVar[str]
    """Name of the stage, written into the run's settings.json."""

    out: Path
    """Folder for this run: checkpoints, logs, settings and result. An interrupted run resumes from it."""
    epochs: int = 40
    """Passes over the training set, at least 1. With more than a run in out has had, it is trained further."""
    batch_size: int = 256
    """Samples in a batch on each device, at least 2."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with Nesterov momentum, for networks trained from scratch, or AdamW, for pretrained ones; AdamW wants a
    learning_rate of about 0.001 and a weight_decay of about 0.03."""
    learning_rate: float = 0.1
    """Peak learning rate, above 0. It is reached after the warmup and then decays to 0 along a cosine."""
    warmup_epochs: int = 2
    """Epochs over which the learning rate rises linearly to its peak; 0 turns the warmup off."""
    weight_decay: float = 5e-4
    """Decay of the weights, 0 or more; not of biases, normalizations and centers of classes."""
    max_gradient: float = 0.0
    """Norm to which the gradient is clipped, 0 or more; 0 turns clipping off. 5 suits pretrained networks."""
    ema_decay: float = 0.998
    """Decay per step of the exponential moving average of the weights, which is what is kept; 0 up to, but not
    including, 1. In a short training it is at most 1 - 4 / steps, so that the initial weights are forgotten."""
    seed: int = 1
    """Seed for initial weights, sample order, augmentation and dropout."""
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    """Number format of the forward and backward passes; auto is bf16-mixed where the device has instructions for
    bfloat16, because it is ten times slower without, else 32-true."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """Device type to train on; auto prefers a GPU."""
    devices: int = 1
    """Devices of each machine to train on; more than one trains data-parallel."""
    num_nodes: int = 1
    """Machines to train on. The same command is started on each, by torchrun or Slurm's srun, with out and the
    data in folders that all of them share."""
    sync_batchnorm: bool = False
    """Normalize by the statistics of the batches of all devices together, not of each by itself; needs GPUs."""
    loggers: tuple[Literal["csv", "tensorboard", "wandb", "mlflow"], ...] = ("csv", "tensorboard")
    """Where curves are logged. The CSV file is always written, because reports read it. wandb and mlflow have to
    be installed, and take their own variables, such as WANDB_MODE and MLFLOW_TRACKING_URI."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """Random changes to each sample."""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs is {self.epochs}; it must be at least 1")
        if self.batch_size < 2:
            raise ValueError(f"batch_size is {self.batch_size}; it must be at least 2 for batch normalization")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be above 0")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay is {self.ema_decay}; it must be at least 0 and below 1")
        if self.max_gradient < 0:
            raise ValueError(f"max_gradient is {self.max_gradient}; it must be at least 0")
        if self.warmup_epochs < 0:
            raise ValueError(f"warmup_epochs is {self.warmup_epochs}; it must be at least 0")
        for name in ("devices", "num_nodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.sync_batchnorm and self.accelerator == "cpu":
            raise ValueError("sync_batchnorm is set; it needs GPUs, and accelerator is cpu")

    @property
    def replicas(self) -> int:
        """The processes that share a training set, one for each device of each machine."""
        return self.devices * self.num_nodes


@dataclass(frozen=True, kw_only=True)
class IdentitySettings(StageSettings):
    """Train a network to tell people apart."""

    stage: ClassVar[str] = "identity"

    data: Path
    """Prepared set of faces by person."""
    lfw: Path | None = None
    """Prepared LFW View 1, to validate on and to choose the best epoch by; without it the last epoch is kept."""
    network: str = "deepid"
    """Identity network (deepid, deepid-wide), or an emotion network to pretrain on people (small-resnet,
    resnet18-half, resnet18, or one from elsewhere as for the emotion stage)."""
    scale: float = 30.0
    """Factor that the classifier's cosines are multiplied by to give logits."""
    margin: float = 0.1
    """Cosine subtracted from the correct person's logit in training, 0 to 1."""
    classification_weight: float = 1.0
    """Weight of the classification loss over people, 0 or more."""
    teacher_weight: float = 0.0
    """Weight of the loss 1 - cosine between a linear projection of the features and the teacher's embedding, 0 or
    more; 0 turns it off. It needs a set prepared with --teacher. 10 works well with a classification_weight of
    0.3."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_networks(self.network, BACKBONES)
        weights = (self.classification_weight, self.teacher_weight)
        if min(weights) < 0 or not sum(weights):
            raise ValueError(
                f"classification_weight is {self.classification_weight} and teacher_weight is "
                f"{self.teacher_weight}; both must be at least 0 and one of them above 0"
            )


@dataclass(frozen=True, kw_only=True)
class ExpressionSettings(StageSettings):
    """Settings that all stages trained on expressions have in common."""

    data: Path
    """Prepared FER+ or another set of expressions: a folder with train and valid."""
    also: dict[str, float] = field(default_factory=dict)
    """Further prepared sets to train on, by folder, with the weight of their images, above 0; those of data have
    1: '{prepared/rafdb: 0.5}'."""
    unaligned_prob: float = 0.0
    """Probability, 0 to 1, of training on a face as FER+ frames it instead of its aligned crop, so that the
    network learns to read both."""
    logit_adjustment: float = 0.0
    """How much the loss allows for rare emotions, 0 to 1: in training, each logit gets this times the logarithm of
    its emotion's frequency (Menon et al., "Long-tail Learning via Logit Adjustment", 2021)."""
    class_weight_power: float = 0.0
    """An emotion's weight in the loss is its frequency to the power of minus this, 0 to 1: at 0 all samples weigh
    the same, at 1 all emotions do."""
    distill_from: tuple[Path, ...] = ()
    """Complete emotion, joint or probe runs, or version folders of exported models, to distill from (Hinton et
    al., "Distilling the Knowledge in a Neural Network", 2015). Their probabilities are averaged over each face and
    its mirror image, and over both framings if unaligned_prob is above 0."""
    distill_weight: float = 0.5
    """Weight, 0 to 1, of those probabilities in the targets; the votes have the rest."""
    dropout: float = 0.2
    """Dropout probability before each fully connected layer, 0 to 1."""
    keep: Literal["best", "last"] = "best"
    """Epoch to keep: the one that scores best on the half of Valid that is for choosing, or the last."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.also and min(self.also.values()) <= 0:
            raise ValueError(f"also is {self.also}; every weight must be above 0")
        for name in ("unaligned_prob", "logit_adjustment", "class_weight_power", "distill_weight"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; it must be between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class EmotionSettings(ExpressionSettings):
    """Train the emotion network on expressions."""

    stage: ClassVar[str] = "emotion"

    network: str = "small-resnet"
    """Emotion network: small-resnet, resnet18-half (both train on two CPU cores), resnet18 (needs a GPU), the path
    of a convolutional face recognition network in ONNX form, or one of timm's with its weights, such as
    timm:resnet18.a1_in1k."""
    start: Path | None = None
    """Run with the same network whose weights to start from: an identity run for pretraining on people, an emotion
    run to continue, the version folder of an exported model, such as model_repository/tandem/1, or a file: a torch
    checkpoint or a .safetensors file with the weights of such a backbone."""

    parts: tuple[Path, ...] = ()
    """Emotion runs of different networks to join into one, whose features and logits they share; network is then
    theirs, joined by "+"."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.parts and self.start:
            raise ValueError(f"start is {self.start} and parts are given; only one of them can be")
        check_networks(self.network, PRESETS)


@dataclass(frozen=True, kw_only=True)
class JointSettings(ExpressionSettings):
    """Join both networks and train the whole on expressions."""

    stage: ClassVar[str] = "joint"

    identity: Path
    """Run of the identity stage."""
    emotion: Path
    """Run of the emotion stage."""
    learning_rate: float = 0.01
    """Peak learning rate of the classifier, above 0. A high one destroys what both networks have learned."""
    identity_rate: float = 0.1
    """Learning rate of the identity network as a fraction of learning_rate; 0 freezes it."""
    emotion_rate: float = 1.0
    """Learning rate of the emotion network as a fraction of learning_rate; 0 freezes it."""
    epochs: int = 12
    """Passes over the training set, at least 1."""
    ema_decay: float = 0.995
    """Decay per step of the exponential moving average of the weights, which is what is kept; 0 up to, but not
    including, 1."""
    hidden: int = 0
    """Units of a hidden layer in the classifier; 0 for none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.identity_rate, self.emotion_rate) < 0:
            raise ValueError(
                f"identity_rate is {self.identity_rate} and emotion_rate is {self.emotion_rate}; "
                "both must be at least 0"
            )


@dataclass(frozen=True, kw_only=True)
class ProbeSettings(ExpressionSettings):
    """Train a linear classifier of expressions on the features of a frozen identity network."""

    stage: ClassVar[str] = "probe"

    identity: Path
    """Run of the identity stage."""


def check_network(name: str, known: Iterable[str]) -> None:
    """Raise a ValueError unless ``name`` is one of the known presets."""
    if name not in known:
        raise ValueError(unknown_network(name, known, elsewhere=False))


def check_networks(names: str, known: Collection[str]) -> None:
    """Check the networks joined by "+", each of which may also come from a file or from timm."""
    for name in names.split("+"):
        if not is_elsewhere(name) and name not in known:
            raise ValueError(unknown_network(name, known))


def check_loggers(names: Iterable[str]) -> None:
    """Raise a ValueError, which says what to install, unless the packages of all loggers are installed."""
    missing = [name for name in names if name != "csv" and not find_spec(name)]
    if missing:
        install = f"{sys.executable} -m pip install {' '.join(missing)}"
        raise ValueError(f"loggers has {', '.join(missing)}, which is not installed: {install}")
