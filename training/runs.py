"""The folder of a run: what a stage leaves there, and how to read it back. Its network is in ``trained``.

The version folder of an exported model can stand for its identity, emotion or joint run (see ``exported``).

A run consists of ``settings.json`` (its ``stage`` and every setting), ``provenance.json`` (commit, versions,
machine), checkpoints and logs, and, once it is complete, ``weights.pt`` and ``result.json``.
"""

import json
import platform
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning import seed_everything
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from training.crop_spec import CROP_SHAPE, CropShape, describe_crop
from training.exported import is_version, part_weights, read_network, read_stage
from training.settings.stages import StageSettings, check_loggers

SETTINGS, PROVENANCE = "settings.json", "provenance.json"
WEIGHTS, RESULT = "weights.pt", "result.json"
RECIPE = "recipe.json"
"""The settings of `training all`, beside its runs."""

SettingsT = TypeVar("SettingsT", bound=StageSettings)


def start_run(settings: StageSettings, crop: CropShape = CROP_SHAPE) -> None:
    """Create the folder of a run of crops of one shape, or reopen it to resume, and seed every random generator.

    A run of the same settings with fewer epochs is extended: it goes on from its last checkpoint.

    Raises:
        ValueError: The folder holds a run with other settings, or one to extend that has no checkpoint.
    """
    check_loggers(settings.loggers)
    settings.out.mkdir(parents=True, exist_ok=True)
    others = other_settings(settings, crop)
    before = others.get("epochs", (settings.epochs,))[0]
    if others and not (list(others) == ["epochs"] and before < settings.epochs):
        raise ValueError(f"{settings.out} holds a run with {shown_differences(others)}; choose another --out")
    if others and not last_checkpoint(settings.out).is_file():
        raise ValueError(
            f"{settings.out} has no checkpoint from which its {before} epochs could be extended to "
            f"{settings.epochs}; choose another --out, and --start {settings.out}"
        )
    write_provenance(settings.out, extended=[before] if others else [])
    for name in (RESULT, WEIGHTS) if others else ():
        (settings.out / name).unlink(missing_ok=True)
    _write(settings.out / SETTINGS, json.dumps({**_as_json(settings), "crop": crop}, indent=2) + "\n")
    seed_everything(settings.seed, verbose=False)


def other_settings(settings: StageSettings, crop: CropShape | None = None) -> dict[str, tuple[Any, Any]]:
    """Return the settings that the run in the same folder has otherwise, as ``differing`` does; none if it is new.

    A setting that is newer than the run had its default then. Loggers change nothing in a run. The shape of the
    crops is compared only if it is given.
    """
    file = settings.out / SETTINGS
    if not file.exists():
        return {}
    known = with_defaults(settings, json.loads(file.read_text()))
    known.setdefault("crop", list(CROP_SHAPE))
    others = differing(known, {**_as_json(settings), "crop": list(crop) if crop else known["crop"]})
    others.pop("loggers", None)
    return others


def train_once(settings: SettingsT, train: Callable[[SettingsT], None]) -> Path:
    """Train a run unless it is complete; return its folder. For commands that compare several runs.

    Raises:
        ValueError: The folder holds a run with other settings. Not even its epochs may differ: other runs may have
            started from it.
    """
    others = other_settings(settings)
    if others:
        raise ValueError(f"{settings.out} holds a run with {shown_differences(others)}; choose another --out")
    if not is_complete(settings.out):
        train(settings)
    return settings.out


def with_defaults(settings: Any, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings that were written into a file, with the defaults of those that are newer than it."""
    defaults = {field.name: field.default for field in fields(settings) if field.default is not MISSING}
    return {**json.loads(json.dumps(defaults, default=str)), **known}


def _as_json(settings: StageSettings) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps({"stage": settings.stage, **asdict(settings)}, default=str))
    return values


def differing(known: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the settings that two runs do not have in common, with both values; None stands for a missing one."""
    names = dict.fromkeys([*known, *new])
    return {name: (known.get(name), new.get(name)) for name in names if known.get(name) != new.get(name)}


def shown_differences(others: Mapping[str, tuple[Any, Any]]) -> str:
    """Describe what ``differing`` returns."""
    shown = "; ".join(f"{name} {before}, not {after}" for name, (before, after) in others.items())
    return f"other settings ({shown})"


def last_checkpoint(run: Path) -> Path:
    """Return the file from which an interrupted run goes on."""
    return run / "checkpoints" / "last.ckpt"


def write_provenance(run: Path, extended: Sequence[int] = ()) -> None:
    """Write the commit, torch version and machine, and the epochs from which the run has been extended."""
    known = load_provenance(run).get("extended", []) if (run / PROVENANCE).is_file() else []
    provenance: dict[str, Any] = {
        "commit": current_commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
    }
    if known or extended:
        provenance["extended"] = [*known, *extended]
    _write(run / PROVENANCE, json.dumps(provenance, indent=2) + "\n")


@rank_zero_only  # another process may come here before the first one has written the file that is read
def note_device(run: Path, device: torch.device, precision: str) -> None:
    """Add to the provenance what a run trains on, and in which number format."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    provenance = {**json.loads((run / PROVENANCE).read_text()), "device": name, "precision": precision}
    _write(run / PROVENANCE, json.dumps(provenance, indent=2) + "\n")


def _processor() -> str:
    """Return the name of the processor, where Linux tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@rank_zero_only
def _write(file: Path, text: str) -> None:
    """Write a file in one go, because other processes of the run may read it at the same time."""
    part = file.with_suffix(".part")
    part.write_text(text)
    part.replace(file)


def finish_run(settings: StageSettings, weights: Mapping[str, Tensor], result: Mapping[str, Any]) -> None:
    """Write the weights and then the result, whose presence marks the run as complete.

    In a data-parallel run only the first process writes, and the others wait for it, because the next stage may
    start from these weights.
    """
    _write_result(settings, weights, result)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


@rank_zero_only
def _write_result(settings: StageSettings, weights: Mapping[str, Tensor], result: Mapping[str, Any]) -> None:
    torch.save(dict(weights), settings.out / WEIGHTS)
    _write(settings.out / RESULT, json.dumps(result, indent=2) + "\n")
    print(f"{settings.out}: {settings.epochs} epochs of {result['images']:,} images; {kept_score(result)}")


def kept_score(result: Mapping[str, Any]) -> str:
    """Describe how well the kept weights score, in a line."""
    if "valid" in result:
        scores = ", ".join(f"{rule} {result['valid'][rule]['accuracy']:.4f}" for rule in ("majority", "argmax"))
        return f"Valid {scores}"
    if "lfw_view1_accuracy" in result:
        return f"LFW View 1 {result['lfw_view1_accuracy']:.4f}"
    return f"loss {result['curves']['loss']:.4g}"


def write_run(
    folder: Path,
    settings: Mapping[str, Any],
    result: Mapping[str, Any],
    provenance: Mapping[str, Any],
    weights: Mapping[str, Tensor] | None,
) -> None:
    """Write the folder of a run that was made elsewhere; without weights it can be named, but not loaded."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / SETTINGS, json.dumps(settings, indent=2) + "\n")
    _write(folder / PROVENANCE, json.dumps(provenance, indent=2) + "\n")
    if weights is not None:
        torch.save(dict(weights), folder / WEIGHTS)
    _write(folder / RESULT, json.dumps(result, indent=2) + "\n")


def is_complete(run: Path) -> bool:
    """Return whether the run has written its result."""
    return (run / RESULT).is_file()


def load_settings(run: Path, *stages: str) -> dict[str, Any]:
    """Read the settings of a complete run.

    Args:
        run: Folder of the run, or a version folder, which stands for its joint run where that can be used, else
            for its emotion run, else for its identity run.
        stages: Stages that the caller can use; any stage if none is given.

    Raises:
        FileNotFoundError: The run does not exist or is not complete.
        ValueError: The run is of another stage.
    """
    if is_version(run):
        return read_stage(run, _part(stages)).settings
    if not is_complete(run):
        raise FileNotFoundError(f"{run} holds no complete run ({RESULT} is missing), and no exported model")
    settings: dict[str, Any] = json.loads((run / SETTINGS).read_text())
    if stages and settings["stage"] not in stages:
        raise ValueError(f"{run} is a run of stage {settings['stage']!r}; expected {' or '.join(stages)}")
    return settings


def crop_of(settings: Mapping[str, Any]) -> CropShape:
    """Return the shape of the crops that the network of a run takes, from its settings."""
    channels, height, width = settings.get("crop", CROP_SHAPE)
    return channels, height, width


def check_crop(run: Path, settings: Mapping[str, Any], found: Sequence[int]) -> None:
    """Raise a ValueError unless the network of a run takes crops of this shape."""
    expected = crop_of(settings)
    if expected != tuple(found):
        channels, height, width = found
        color = " --color true" if expected[0] == 3 else ""
        raise ValueError(
            f"{run} takes {describe_crop(expected)} crops, not {describe_crop((channels, height, width))}: "
            f"prepare data with --crop_size {expected[1]}{color}, or train it on crops like these"
        )


def _part(stages: Sequence[str]) -> str:
    """Return which run of an exported model is the most that a caller can use."""
    return next((part for part in ("joint", "emotion", "identity") if part in stages), "joint")


def load_provenance(run: Path) -> dict[str, Any]:
    """Read the commit, torch version and machine that the run was last started with."""
    if is_version(run):
        return read_stage(run, "joint").provenance
    provenance: dict[str, Any] = json.loads((run / PROVENANCE).read_text())
    return provenance


def load_result(run: Path) -> dict[str, Any]:
    """Read the scores of a complete run."""
    if is_version(run):
        return read_stage(run, "joint").result
    result: dict[str, Any] = json.loads((run / RESULT).read_text())
    return result


def load_weights(run: Path, stage: str = "joint") -> dict[str, Tensor]:
    """Read the weights of a complete run, of an exported model those of one stage; no code in the file is run."""
    if is_version(run):
        return part_weights(read_network(run), stage)
    weights: dict[str, Tensor] = torch.load(run / WEIGHTS, map_location="cpu", weights_only=True)
    return weights


def lineage(run: Path) -> dict[str, Path]:
    """List a run and its ancestors, each after those it was made from.

    The ancestors are the runs whose weights it started from and those it was distilled from.

    Returns:
        Folders by their names, preceded by the parent folder's name where two names are equal.
    """
    runs = list(dict.fromkeys(_ancestors(run)))
    names = Counter(each.name for each in runs)
    unique = {each for each in runs if names[each.name] == 1 and not is_version(each)}
    return {each.name if each in unique else f"{each.parent.name}/{each.name}": each for each in runs}


def _ancestors(run: Path) -> Iterator[Path]:
    if is_version(run):
        yield run
        return
    settings = load_settings(run)
    parents = [settings.get(name) for name in ("identity", "start", "emotion")]
    for parent in filter(None, [*parents, *settings.get("distill_from", []), *settings.get("parts", [])]):
        if not Path(parent).is_file():  # a checkpoint from elsewhere is no run
            yield from _ancestors(Path(parent))
    yield run


def current_commit() -> str:
    """Return the commit of this checkout, with "-dirty" if files have changed; "unknown" outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    described = subprocess.run(  # noqa: S603 - fixed arguments
        command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return described.stdout.strip() or "unknown"
