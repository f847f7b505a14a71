"""The settings of each measurement: typed, checked when made."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from training.networks.resnet import PRESETS


@dataclass(frozen=True, kw_only=True)
class VerifySettings:
    """Score an identity run on LFW: same person or not."""

    run: Path
    """Run of the identity stage."""
    data: Path
    """Prepared LFW: View 1, View 2 or both."""
    out: Path | None = None
    """JSON file for the figures."""


@dataclass(frozen=True, kw_only=True)
class CrossvalidateSettings:
    """Train and test on CK+ in folds by person."""

    data: Path
    """Prepared CK+."""
    out: Path
    """Folder for each fold's runs and the result; what is complete is not done again."""
    folds: int = 10
    """How many; nobody is in two."""
    network: str = "small-resnet"
    """Emotion network: small-resnet, resnet18-half or resnet18."""
    start: Path | None = None
    """Run of the identity stage with the same network, for the emotion network to start from."""
    identity: Path | None = None
    """Run of the identity stage, to test the tandem; without it the emotion network is tested alone."""
    epochs: int = 60
    """Of the emotion network."""
    joint_epochs: int = 20
    """Of the tandem."""
    batch_size: int = 64
    """Samples a step; CK+ is small."""
    learning_rate: float = 0.05
    """Peak rate of the emotion network."""
    ema_decay: float = 0.98
    """Share of the running average of weights that stays at each step; CK+ makes few steps."""
    seed: int = 1
    """Of every fold."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "bf16-mixed"
    """Number format of the forward and backward pass."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """Where to train."""

    def __post_init__(self) -> None:
        if self.network not in PRESETS:
            raise ValueError(f"network is {self.network!r}; there are {', '.join(PRESETS)}")


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """Compare identity features, emotion network, their scores fused, and the tandem, frozen and joint."""

    data: Path
    """Prepared FER+: a folder with train and valid."""
    out: Path
    """Folder for every run and the table; what is complete is not done again."""
    identity: Path | None = None
    """Run of the identity stage that every seed uses; otherwise give people."""
    people: Path | None = None
    """Prepared set of faces by person, to train an identity network for each seed."""
    lfw: Path | None = None
    """Prepared LFW View 1, to choose the identity networks' epochs by; with people."""
    network: str = "small-resnet"
    """Emotion network: small-resnet, resnet18-half or resnet18."""
    start: Path | None = None
    """Run of the identity stage with the same network, for the emotion networks to start from."""
    seeds: int = 3
    """How often everything is trained, with seeds from 1."""
    identity_epochs: int = 60
    """Of each identity network; with people."""
    emotion_epochs: int = 40
    """Of each emotion network."""
    probe_epochs: int = 8
    """Of the classifier over identity features alone."""
    joint_epochs: int = 8
    """Of each tandem, frozen and joint."""
    batch_size: int = 256
    """Samples a step."""
    ema_decay: float | None = None
    """Share of the running average of weights that stays at each step; each stage's own unless given."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "bf16-mixed"
    """Number format of the forward and backward pass."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """Where to train."""

    def __post_init__(self) -> None:
        if self.network not in PRESETS:
            raise ValueError(f"network is {self.network!r}; there are {', '.join(PRESETS)}")
        if (self.identity is None) == (self.people is None):
            raise ValueError("give either --identity, a run for all seeds, or --people, to train one for each")
        if self.seeds < 1:
            raise ValueError(f"seeds is {self.seeds}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class RobustnessSettings:
    """Score FER+ faces in larger photos: small, blurred, turned, dark, compressed."""

    source: Path
    """FER+ as it is downloaded."""
    split: Literal["valid", "train"] = "valid"
    """Which rows; a test split is not for choosing what to improve."""
    model: Path = Path("model_repository/tandem/1/model.pt")
    """TorchScript file."""
    limit: int | None = None
    """Only so many rows, spread evenly over the split."""
    workers: int | None = None
    """Processes; as many as there are cores unless given."""
    out: Path | None = None
    """JSON file for the figures."""


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """Write every table and plot of a joint run as one HTML page and one Markdown page."""

    run: Path
    """Run of the joint stage; the stages before it are found through it."""
    out: Path = Path("report")
    """Folder for report.html, and report.md with its plots."""
    lfw: Path | None = None
    """Prepared LFW, for the identity network; the set it was trained with unless given."""
    comparison: Path | None = None
    """comparison.json of `training compare`."""
    crossvalidation: Path | None = None
    """crossvalidation.json of `training crossvalidate`."""
    robustness: Path | None = None
    """JSON file of `training robustness`."""
