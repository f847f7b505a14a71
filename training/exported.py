"""A version folder of an exported model, read as the runs that the model was made of."""

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.crop_spec import CROP_SHAPE
from training.networks.blocks import fuse, unfuse
from training.networks.presets import BACKBONES, is_elsewhere
from training.networks.tandem import TandemNet

MODEL, CARD = "model.pt", "model_card.json"
MAX_WEIGHTS_BYTES = 256 * 1024 * 1024
"""A larger file is no model of ours; torch would read all of it into memory."""

CLASSES = 8


@dataclass(frozen=True, eq=False)
class Stage:
    """What the model card knows of a run: its settings, its result, and the commit that it was made with."""

    settings: dict[str, Any]
    result: dict[str, Any]
    provenance: dict[str, Any]


def is_version(folder: Path) -> bool:
    """Return whether this is a version folder of an exported model."""
    return (folder / MODEL).is_file() and (folder / CARD).is_file()


def read_stage(version: Path, name: str) -> Stage:
    """Read what is known of the run "identity", "emotion" or "joint" of a version.

    Raises:
        FileNotFoundError: The folder lacks ``model.pt`` or ``model_card.json``.
        ValueError: A network was made from a file, whose structure is not beside the model.
    """
    for file in (MODEL, CARD):
        if not (version / file).is_file():
            raise FileNotFoundError(f"{version} has no {file}; it must be a version folder of an exported model")
    card = json.loads((version / CARD).read_text())
    *_, last = card["stages"]
    joint = card["stages"][last]
    found = joint if name == "joint" else _parent(card, joint, name)
    settings = {**found["settings"], "stage": name, "exported_in": str(version)}
    if name == "joint":
        settings |= {"identity": str(version), "emotion": str(version)}
        return Stage(settings, found["result"], found["provenance"])
    network = card["export"].get("networks", {}).get(name) or settings["network"]
    members = [str(version / each) if each.endswith(".json") else each for each in network.split("+")]
    settings["network"] = "+".join(members)
    if any(each.endswith(".onnx") or not (each in BACKBONES or is_elsewhere(each)) for each in members):
        raise ValueError(
            f"{version}: its {name} network is {settings['network']}, which {MODEL} does not "
            "describe; use the run that it was exported from"
        )
    if name == "identity":
        settings["manifests"] = {key: value for key, value in card["data"].items() if not key.startswith("FER+")}
    return Stage(settings, found["result"], found["provenance"])


def _parent(card: dict[str, Any], joint: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the entry of the run, or of the exported model, that a network of the joint run came from."""
    path = Path(joint["settings"][name])
    stages: dict[str, dict[str, Any]] = card["stages"]
    return stages[path.name] if path.name in stages else stages[f"{path.parent.name}/{path.name}"]


def read_network(version: Path) -> TandemNet:
    """Read the network of a version, in eval mode, with normalizations that change nothing.

    They had been folded away. Before the network is trained on, ``blocks.calibrate`` gives them statistics.

    Raises:
        FileNotFoundError: The folder lacks ``model.pt`` or ``model_card.json``.
        ValueError: The weights do not fit the model card, or are too large.
    """
    joint = read_stage(version, "joint").settings
    names = {part: read_stage(version, part).settings["network"] for part in ("identity", "emotion")}
    network = TandemNet(
        names["identity"],
        names["emotion"],
        CLASSES,
        hidden=joint["hidden"],
        dropout=joint["dropout"],
        crop=tuple(joint.get("crop", CROP_SHAPE)),
    ).eval()
    path = version / MODEL
    if path.stat().st_size > MAX_WEIGHTS_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes; the limit is {MAX_WEIGHTS_BYTES:,}")
    exported = torch.jit.load(path, map_location="cpu").state_dict()  # type: ignore[no-untyped-call]
    weights = {key: value for key, value in without_prefix(exported, "network.").items() if ".like" not in key}
    fused = fuse(deepcopy(network))
    try:
        fused.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the networks in its model card: {error}") from error
    unfuse(network, fused)
    return network


def part_weights(network: TandemNet, part: str) -> dict[str, Tensor]:
    """Return the weights of the run "identity", "emotion" or "joint" of a network.

    The emotion run's classifier is the part of the joint one that reads the emotion features.

    Raises:
        ValueError: The classifier has a hidden layer, so that no part of it reads the emotion features alone.
    """
    weights = {key: value.clone() for key, value in network.state_dict().items()}
    if part == "joint":
        return weights
    own = without_prefix(weights, f"{part}.")
    if part == "identity":
        return own
    if len(network.classifier) != 2:
        raise ValueError("the classifier has a hidden layer, so that the emotion network has none of its own")
    last = f"classifier.{len(network.classifier) - 1}"
    return {
        **{f"backbone.{key}": value for key, value in own.items()},
        "classifier.weight": weights[f"{last}.weight"][:, network.identity.features :],
        "classifier.bias": weights[f"{last}.bias"],
    }


def without_prefix(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the weights whose names have the prefix, by the rest of their names."""
    return {key.removeprefix(prefix): value.clone() for key, value in weights.items() if key.startswith(prefix)}
