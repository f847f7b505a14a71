"""The options of the commands that measure: evaluate, verify, crossvalidate, compare and robustness."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from training.networks.presets import PRESETS
from training.settings.stages import check_networks


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """Score FER+ images with a TorchScript file and, with --through, with a running service."""

    source: Path
    """FER+ as downloaded."""
    split: Literal["valid", "test", "train"] = "valid"
    """Split to score."""
    model: Path = Path("model_repository/tandem/1/model.pt")
    """TorchScript file."""
    through: str | None = None
    """URL of a running service that is sent the same images, for example http://127.0.0.1:8080."""
    limit: int | None = None
    """Score only this many rows, from the first."""
    out: Path | None = None
    """JSON file for the scores."""

    def __post_init__(self) -> None:
        check_limit(self.limit)


@dataclass(frozen=True, kw_only=True)
class VerifySettings:
    """Score the network of an identity run on LFW: same person or not."""

    run: Path
    """Run of the identity stage, or the version folder of an exported model, such as model_repository/tandem/1."""
    data: Path
    """Prepared LFW: View 1, View 2 or both."""
    out: Path | None = None
    """JSON file for the scores."""


@dataclass(frozen=True, kw_only=True)
class CrossvalidateSettings:
    """Train and test on CK+, in folds by person."""

    data: Path
    """Prepared CK+."""
    out: Path
    """Folder for the runs of each fold and the scores; folds that are complete are skipped."""
    folds: int = 10
    """Number of folds, from 2 to the number of subjects."""
    network: str | None = None
    """Emotion network: small-resnet, resnet18-half or resnet18; by default that of start, else small-resnet."""
    start: Path | None = None
    """Identity or emotion run, or the version folder of an exported model, whose emotion network each fold starts
    from."""
    identity: Path | None = None
    """Identity run or version folder, to test the tandem; without it the emotion network is tested alone."""
    probe: bool = False
    """Train nothing but a linear classifier on the frozen features of start, of identity, or of both joined."""
    epochs: int = 60
    """Epochs of the emotion network, at least 1."""
    joint_epochs: int = 20
    """Epochs of the tandem, at least 1."""
    batch_size: int = 64
    """Samples in a batch, at least 2; CK+ is small."""
    learning_rate: float = 0.05
    """Peak learning rate of the emotion network, above 0."""
    ema_decay: float = 0.98
    """Decay per step of the moving average of the weights, at least 0 and below 1; CK+ has few steps."""
    seed: int = 1
    """Seed of every fold."""
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    """Number format of the forward and backward passes; auto is that of ``training emotion``."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """Device type to train on; auto prefers a GPU."""

    def __post_init__(self) -> None:
        if self.network:
            check_networks(self.network, PRESETS)
        if self.probe and not (self.start or self.identity):
            raise ValueError("probe is set; it needs --start or --identity, whose features it reads")


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """Compare identity features, the emotion network, the fusion of their scores, and the tandem.

    With --probe it takes minutes: only linear classifiers are trained, on the features that networks have learned.
    """

    data: Path
    """Prepared FER+: a folder with train and valid."""
    out: Path
    """Folder for every run and the table; runs that are complete are skipped."""
    identity: Path | None = None
    """Identity run that all seeds share; give either this or people."""
    people: Path | None = None
    """Prepared set of faces by person, to train an identity network for each seed."""
    lfw: Path | None = None
    """Prepared LFW View 1, to choose the identity networks' epochs by; used with people."""
    network: str = "small-resnet"
    """Emotion network: small-resnet, resnet18-half or resnet18."""
    start: Path | None = None
    """Identity run with the same network whose weights the emotion networks start from; with probe an emotion run,
    or a version folder, whose features are compared."""
    probe: bool = False
    """Train nothing but linear classifiers on the frozen features of identity, of start and of both joined; for
    each seed on another sample of Train, drawn with replacement."""
    photos: Path | None = None
    """FER+ as downloaded, to score the linear classifiers in photos as well, as training robustness does."""
    limit: int | None = None
    """Paste only this many faces into photos, spread evenly over Valid."""
    workers: int | None = None
    """Worker processes that crop photos; one for each core by default."""
    seeds: int = 3
    """Number of seeds, counted from 1; everything is trained once for each."""
    identity_epochs: int = 60
    """Epochs of each identity network; used with people."""
    emotion_epochs: int = 40
    """Epochs of each emotion network."""
    probe_epochs: int = 8
    """Epochs of the classifier on identity features alone."""
    joint_epochs: int = 8
    """Epochs of each tandem, frozen and joint."""
    batch_size: int = 256
    """Samples in a batch, at least 2."""
    ema_decay: float | None = None
    """Decay per step of the moving average of the weights, at least 0 and below 1; the default of each stage
    unless given."""
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    """Number format of the forward and backward passes; auto is that of ``training emotion``."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """Device type to train on; auto prefers a GPU."""

    def __post_init__(self) -> None:
        check_networks(self.network, PRESETS)
        if (self.identity is None) == (self.people is None):
            raise ValueError("give either --identity, a run for all seeds, or --people, to train one for each")
        if self.seeds < 1:
            raise ValueError(f"seeds is {self.seeds}; it must be at least 1")
        if self.probe and not (self.identity and self.start):
            raise ValueError("probe is set; it needs --identity and --start, whose features it compares")
        if self.photos and not self.probe:
            raise ValueError(f"photos is {self.photos}; it needs --probe")
        check_limit(self.limit)


@dataclass(frozen=True, kw_only=True)
class RobustnessSettings:
    """Score FER+ faces pasted into larger photos: small, blurred, rotated, dark or heavily compressed."""

    source: Path
    """FER+ as downloaded."""
    split: Literal["valid", "train"] = "valid"
    """Split to score; the test split is left out because these scores guide what to improve."""
    model: Path = Path("model_repository/tandem/1/model.pt")
    """TorchScript file."""
    limit: int | None = None
    """Score only this many rows, spread evenly over the split."""
    workers: int | None = None
    """Worker processes; one for each core by default."""
    out: Path | None = None
    """JSON file for the scores."""

    def __post_init__(self) -> None:
        check_limit(self.limit)


def check_limit(limit: int | None) -> None:
    """Raise ValueError for a number of rows or faces that is none."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; it must be at least 1")
