"""Make runs of an exported model again, so that it can be trained on with the statistics of one's own data."""

import json

import torch

from training.datasets.prepared import calibration_crops, load_prepared
from training.exported import part_weights, read_network, read_stage
from training.networks.blocks import calibrate
from training.runs import RESULT, SETTINGS, WEIGHTS, write_provenance
from training.settings.commands import RestoreSettings


def restore(settings: RestoreSettings) -> None:
    """Write the runs ``identity``, ``emotion`` and ``joint`` of a version of an exported model.

    With a hidden layer in the classifier there is no run ``emotion``.

    Raises:
        FileNotFoundError: The folder lacks ``model.pt`` or ``model_card.json``, or the prepared set is missing.
        ValueError: The weights do not fit the model card, or a network was made from a file that is not in it.
    """
    network = read_network(settings.version)
    joint = read_stage(settings.version, "joint").settings
    crops = calibration_crops(load_prepared(settings.data / "train"), joint["seed"])
    calibrate(network, torch.from_numpy(crops))
    parts = ("identity", "joint") if joint["hidden"] else ("identity", "emotion", "joint")
    for part in parts:
        _write(settings, part, part_weights(network, part))
    print(f"{settings.out} holds the runs {', '.join(parts)} of {settings.version}")


def _write(settings: RestoreSettings, part: str, weights: dict[str, torch.Tensor]) -> None:
    folder = settings.out / part
    folder.mkdir(parents=True, exist_ok=True)
    known = read_stage(settings.version, part)
    parents = {each: str(settings.out / each) for each in ("identity", "emotion")} if part == "joint" else {}
    kept = {
        key: value
        for key, value in known.settings.items()
        if key not in ("start", "distill_from", "parts", "exported_in")
    }
    restored = {**kept, **parents, "out": str(folder)}
    restored |= {"restored_from": str(settings.version), "restored_with": str(settings.data)}
    restored["data"] = str(settings.data) if part != "identity" else restored["data"]
    (folder / SETTINGS).write_text(json.dumps(restored, indent=2) + "\n")
    write_provenance(folder)
    torch.save(weights, folder / WEIGHTS)
    (folder / RESULT).write_text(json.dumps(known.result, indent=2) + "\n")
