"""The options of the commands around the stages: prepare, export, report and all."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from training.crop_spec import CROP_SHAPE, CropShape
from training.networks.presets import PRESETS
from training.settings.stages import StageSettings, check_network

KINDS = ("ferplus", "identity", "lfw", "ckplus", "folders", "csv", "rafdb", "affectnet", "expw")
"""The data sets that can be prepared."""

QUICK_EPOCHS, QUICK_BATCH_SIZE = 1, 32


def check_crop_size(size: int) -> None:
    """Raise a ValueError unless crops can have this side."""
    if not 32 <= size <= 512:
        raise ValueError(f"crop_size is {size}; it must be from 32 to 512")


@dataclass(frozen=True, kw_only=True)
class PrepareSettings:
    """Crop the face out of every image of a data set, with the service's own face pipeline."""

    kind: str
    """Data set: ferplus, identity, lfw, ckplus, folders (one for each emotion), csv, rafdb, affectnet or expw."""
    source: Path
    """Folder with the data set as downloaded."""
    out: Path
    """Folder for the prepared set."""
    crop_size: int = 48
    """Side of a crop in pixels, 32 to 512. Networks are built, and the model exported, for the crops they learned
    from; all sets of a model need the same."""
    color: bool = False
    """Cut crops in color (RGB) instead of gray."""
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
        check_crop_size(self.crop_size)
        if self.wide and self.crop_shape != CROP_SHAPE:
            raise ValueError("wide is set; `training bundle` takes gray crops of 48 pixels only")
        if self.neutral and self.kind != "ckplus":
            raise ValueError(f"neutral is set; it needs kind ckplus, not {self.kind}")
        if not self.source.is_dir():
            raise ValueError(f"source is {self.source}, which is not a folder")

    @property
    def crop_shape(self) -> CropShape:
        """(channels, height, width) of a crop."""
        return 3 if self.color else 1, self.crop_size, self.crop_size


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
    license: str = "other"
    """License of the weights for the head of the model card, as Hugging Face names it, such as apache-2.0; other
    refers to the terms of the data."""
    safetensors: bool = False
    """Also write model.safetensors: the weights as trained, which `training emotion --start` reads."""

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
    """Folder for the prepared data and for the run of each stage; with quick, in its subfolder quick."""
    quick: bool = False
    """Try every step in minutes: on 300 images of ten people and 600 images of expressions, without LFW, with an
    epoch of each stage and batches of 32."""
    network: str = "resnet18-half"
    """Emotion network: small-resnet, resnet18-half (about two hours on two cores) or resnet18 (needs a GPU)."""
    crop_size: int = 48
    """Side of the crops in pixels, 32 to 512."""
    color: bool = False
    """Cut crops in color (RGB) instead of gray."""
    teacher: Path | None = None
    """ONNX face embedding network that the runs on people learn from as well."""
    epochs: int | None = None
    """Epochs of every stage; by default 90, 30, 36, 40, 9, 36 and 10."""
    batch_size: int | None = None
    """Samples in a batch on each device, at least 2; 256 by default, 32 with quick."""
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    """Number format of the forward and backward passes; auto chooses by the device."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """Device type to train on; auto prefers a GPU."""
    devices: int = 1
    """Devices of this machine to train on."""
    seed: int = 1
    """Seed of every stage."""
    repository: Path | None = None
    """Model repository to export into; by default model_repository beside the runs."""

    def __post_init__(self) -> None:
        check_network(self.network, PRESETS)
        check_crop_size(self.crop_size)
        for name in ("ferplus", "identity"):
            if not (self.data / name).is_dir():
                raise ValueError(
                    f"data is {self.data}, which has no folder {name}/; see docs/training.md, with your own data"
                )
        if self.devices < 1:
            raise ValueError(f"devices is {self.devices}; it must be at least 1")
        StageSettings(**self.stage_options(40), out=self.out)  # which has limits for them

    @property
    def folder(self) -> Path:
        """The folder of this recipe's runs."""
        return self.out / "quick" if self.quick else self.out

    @property
    def crop_shape(self) -> CropShape:
        """(channels, height, width) of a crop."""
        return 3 if self.color else 1, self.crop_size, self.crop_size

    @property
    def prepared(self) -> Path:
        """The folder of the prepared data."""
        return self.folder / "prepared"

    @property
    def models(self) -> Path:
        """The model repository."""
        return self.repository or self.folder / "model_repository"

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of data sets to use."""
        with_lfw = (self.data / "lfw").is_dir() and not self.quick
        return ("ferplus", "identity", "lfw") if with_lfw else ("ferplus", "identity")

    def stage_options(self, epochs: int) -> dict[str, Any]:
        """Return the options that all stages have in common; ``epochs`` are its own by default."""
        if self.quick:
            epochs = QUICK_EPOCHS
        if self.epochs is not None:
            epochs = self.epochs
        batch_size = QUICK_BATCH_SIZE if self.quick else StageSettings.batch_size
        return {
            "epochs": epochs,
            "warmup_epochs": min(StageSettings.warmup_epochs, epochs // 4),
            "batch_size": batch_size if self.batch_size is None else self.batch_size,
            "seed": self.seed,
            "precision": self.precision,
            "accelerator": self.accelerator,
            "devices": self.devices,
        }
