"""The options of the commands around the stages: prepare, export, report and all."""

from dataclasses import dataclass
from pathlib import Path

from training.networks.presets import PRESETS
from training.settings.stages import check_network

KINDS = ("ferplus", "identity", "lfw", "ckplus")
"""The data sets that can be prepared."""


@dataclass(frozen=True, kw_only=True)
class PrepareSettings:
    """Crop the face out of every image of a data set, with the service's own face pipeline."""

    kind: str
    """Data set: ferplus, identity, lfw or ckplus."""
    source: Path
    """Folder with the data set as downloaded."""
    out: Path
    """Folder for the prepared set."""
    workers: int | None = None
    """Worker processes; one for each core by default."""
    teacher: Path | None = None
    """ONNX face embedding network whose embedding of each face is stored as a second target; for kind identity
    only. Its input is [1, 3, 112, 112]: RGB, aligned to ArcFace's template, (value - 127.5) / 128."""
    wide: bool = False
    """Also store each face with a margin, which `training bundle` needs; for kind identity only."""
    neutral: bool = False
    """Add the first frame of each sequence as neutral; for kind ckplus only."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}; it must be one of {', '.join(KINDS)}")
        if self.teacher and self.kind != "identity":
            raise ValueError(f"teacher is {self.teacher}; it needs kind identity, not {self.kind}")
        if self.wide and self.kind != "identity":
            raise ValueError(f"wide is set; it needs kind identity, not {self.kind}")
        if self.neutral and self.kind != "ckplus":
            raise ValueError(f"neutral is set; it needs kind ckplus, not {self.kind}")
        if not self.source.is_dir():
            raise ValueError(f"source is {self.source}, which is not a folder")


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """Write the network of a joint run into the model repository, with its configuration and model card."""

    run: Path
    """Run of the joint stage."""
    repository: Path = Path("model_repository")
    """Model repository that Triton loads."""
    name: str = "tandem"
    """Name of the model in the repository."""
    version: int = 1
    """Version to write, at least 1. A version above the current one goes live without a restart."""
    mirror: bool = False
    """Average the logits of each crop and its mirror image: slightly more accurate, at twice the computation."""

    def __post_init__(self) -> None:
        if self.version < 1:
            raise ValueError(f"version is {self.version}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class RestoreSettings:
    """Make runs of an exported model again, to verify it, to learn from it or to train it on."""

    version: Path = Path("model_repository/tandem/1")
    """Version folder of the model, with model.pt and model_card.json."""
    data: Path
    """Prepared FER+, whose crops give the normalizations their statistics."""
    out: Path
    """Folder for the runs identity, emotion and joint."""

    def __post_init__(self) -> None:
        if self.out.exists() and any(self.out.iterdir()):
            raise ValueError(f"out is {self.out}, which is not empty")


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """Write every table and plot of a joint run as one HTML page and one Markdown page."""

    run: Path
    """Run of the joint stage; the runs it was made from are found through it."""
    out: Path = Path("report")
    """Folder for report.html, report.md and the plots of the latter."""
    lfw: Path | None = None
    """Prepared LFW, to score the identity network on; by default the set it was trained with."""
    comparison: Path | None = None
    """comparison.json of `training compare`."""
    crossvalidation: Path | None = None
    """crossvalidation.json of `training crossvalidate`."""
    robustness: Path | None = None
    """JSON file of `training robustness`."""


@dataclass(frozen=True, kw_only=True)
class RecipeSettings:
    """Run every step from preparing the data to the export; steps that are complete are skipped."""

    data: Path
    """Folder with ferplus/ and identity/, and optionally lfw/, as downloaded."""
    out: Path = Path("runs")
    """Folder for the prepared data and for the run of each stage."""
    network: str = "resnet18-half"
    """Emotion network: small-resnet, resnet18-half (about two hours on two cores) or resnet18 (needs a GPU)."""
    teacher: Path | None = None
    """ONNX face embedding network that both identity runs learn from as well."""
    seed: int = 1
    """Seed of every stage."""
    repository: Path = Path("model_repository")
    """Model repository to export into."""

    def __post_init__(self) -> None:
        check_network(self.network, PRESETS)
        for name in ("ferplus", "identity"):
            if not (self.data / name).is_dir():
                raise ValueError(f"data is {self.data}, which has no folder {name}/")
