"""The model card: where a model comes from, how well it performs, and what it must not be used for.

Mitchell et al., "Model Cards for Model Reporting", FAT* 2019.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from string import Template
from typing import Any

from training.crop_spec import describe_crop
from training.datasets.prepared import load_prepared
from training.export.card_header import OTHER, render_header
from training.export.reproducibility import render_reproducibility
from training.protocols.readings import ReadingsScore
from training.runs import RECIPE, crop_of, lineage, load_provenance, load_result, load_settings
from training.settings.augmentation import Augmentation

CARD_TEMPLATE = Path(__file__).parent / "model_card.md.template"
NOT_SHOWN = ("stage", "crop", "augmentation", "accelerator", "devices", "num_nodes", "sync_batchnorm", "loggers")
"""Settings that the commands in the card leave out; ``model_card.json`` has all of them."""


def write_card(
    version: Path,
    run: Path,
    scores: dict[str, dict[str, ReadingsScore]],
    exported: dict[str, Any],
    license_name: str = OTHER,
) -> None:
    """Write ``MODEL_CARD.md`` for people and ``model_card.json`` for programs.

    Args:
        version: Folder of the version in the model repository.
        run: The joint run; the runs it was made from are found through its settings.
        scores: Scores of the exported file, by half of Valid and by rule.
        exported: Commit, temperature, mirror, parity and checksum of the exported file.
        license_name: License of the weights, as Hugging Face names it.
    """
    stages = {name: _stage(folder) for name, folder in lineage(run).items()}
    joint = list(stages.values())[-1]
    identity = load_settings(Path(joint["settings"]["identity"]), "identity")
    known = identity.get("manifests", {})  # a restored run knows its data only by the model card it came from
    data = {
        name: known.get(name) or load_prepared(folder).manifest
        for name, folder in _sets(identity, joint["settings"]).items()
    }
    facts = {
        "export": exported,
        "valid": {half: {rule: asdict(each) for rule, each in rules.items()} for half, rules in scores.items()},
        "stages": stages,
        "data": data,
    }
    (version / "model_card.json").write_text(json.dumps(facts, indent=2) + "\n")
    text = Template(CARD_TEMPLATE.read_text()).substitute(
        identity=Path(identity["network"]).name,
        emotion=Path(load_settings(Path(joint["settings"]["emotion"]), "emotion")["network"]).name,
        header=render_header(version.parent.name, license_name, data, scores["reporting"]),
        reproducibility=render_reproducibility(stages),
        crop=describe_crop(crop_of(joint["settings"])),
        commit=joint["provenance"]["commit"],
        export_commit=exported["commit"],
        sha256=exported["sha256"],
        temperature=f"{exported['temperature']:.3f}",
        parity=f"{exported['parity']:.1g}",
        onnx_parity=f"{exported['onnx_parity']:.1g}",
        onnx_sha256=exported["onnx_sha256"],
        mirror_option=" --mirror true" if exported["mirror"] else "",
        answer="mean over the crop and its mirror image" if exported["mirror"] else "from the crop alone",
        scores=_scores(scores),
        recall=_recall(scores["reporting"]["majority"]),
        run=run,
        commands="\n".join(dict.fromkeys(line for facts in stages.values() for line in _commands(facts))),
        recipe=_recipe(run, stages),
        stages=_stages(stages),
        data=_data(data),
        teacher=_teacher(data["faces by person"], identity)
        + _starts(facts["settings"] for facts in stages.values()),
        augmentation=", ".join(f"{k} {v}" for k, v in joint["settings"]["augmentation"].items()),
    )
    (version / "MODEL_CARD.md").write_text(text)


def _stage(folder: Path) -> dict[str, Any]:
    return {
        "settings": load_settings(folder),
        "result": load_result(folder),
        "provenance": load_provenance(folder),
    }


def _sets(identity: dict[str, Any], joint: dict[str, Any]) -> dict[str, Path]:
    expressions = Path(joint["data"])
    folders = {
        "faces by person": Path(identity["data"]),
        "FER+ train": expressions / "train",
        "FER+ valid": expressions / "valid",
    }
    for name in joint.get("also", {}):
        folders[f"{name} train"] = Path(name) / "train"
    if identity.get("lfw"):
        folders["LFW View 1, dev-train"] = Path(identity["lfw"]) / "dev-train"
        folders["LFW View 1, dev-test"] = Path(identity["lfw"]) / "dev-test"
    return folders


def _recipe(run: Path, stages: dict[str, Any]) -> str:
    """Name the command that has run all of this, if there was one."""
    file = run.parent / RECIPE
    if not file.is_file() or any("extended" in facts["provenance"] for facts in stages.values()):
        return ""
    settings = json.loads(file.read_text())
    options = " ".join(
        f"--{name} {str(value).lower() if isinstance(value, bool) else value}"
        for name, value in settings.items()
        if value is not None
    )
    return f"All of it was run by\n\n```\ntraining all {options}\n```\n\n"


def _commands(facts: dict[str, Any]) -> list[str]:
    """Return the commands that make a run: one, and one more for each time that it was extended."""
    settings = facts["settings"]
    if "exported_in" in settings:  # an exported model, which the other commands name
        return []
    before = [{**settings, "epochs": epochs} for epochs in facts["provenance"].get("extended", [])]
    return [_command(each) for each in (*before, settings)]


def _command(settings: dict[str, Any]) -> str:
    """Return the command that makes a run with these settings."""
    if "restored_from" in settings:
        out, data = Path(settings["out"]).parent, settings["restored_with"]
        return f"training restore --version {settings['restored_from']} --data {data} --out {out}"
    if "command" in settings:  # a run of a bundle
        return str(settings["command"])
    options = {
        key: value for key, value in settings.items() if key not in NOT_SHOWN and value not in (None, [], {})
    }
    for name in ("distill_from", "parts"):
        if name in options:
            options[name] = f"[{','.join(options[name])}]"
    if "also" in options:
        options["also"] = (
            "'{" + ", ".join(f"{name}: {weight:g}" for name, weight in options["also"].items()) + "}'"
        )
    default = asdict(Augmentation())
    options |= {
        f"augmentation.{key}": value for key, value in settings["augmentation"].items() if value != default[key]
    }
    return f"training {settings['stage']} " + " ".join(f"--{key} {value}" for key, value in options.items())


def _scores(scores: dict[str, dict[str, ReadingsScore]]) -> str:
    lines = [
        "| half | rule | rows | accuracy | 95 % | best reading - worst | macro recall | ECE |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for half, rules in scores.items():
        for rule, each in rules.items():
            measures = (each.spread, each.macro_recall, each.calibration_error)
            shown = [f"{each.rows:,}", f"{each.accuracy:.4f}", f"{each.low:.4f} to {each.high:.4f}"]
            shown += [f"{value:.4f}" for value in measures]
            lines.append(f"| {half} | {rule} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _recall(scores: ReadingsScore) -> str:
    lines = ["| " + " | ".join(scores.recall) + " |", "|" + "---|" * len(scores.recall)]
    return "\n".join([*lines, "| " + " | ".join(f"{value:.3f}" for value in scores.recall.values()) + " |"])


def _stages(stages: dict[str, Any]) -> str:
    lines = ["| run | images | seed | epochs | last values logged | kept weights |", "|---|---|---|---|---|---|"]
    for name, facts in stages.items():
        settings, result = facts["settings"], facts["result"]
        curves = ", ".join(f"{key} {value:.4g}" for key, value in result["curves"].items() if "lr-" not in key)
        kept = f"LFW View 1 {result['lfw_view1_accuracy']:.4f}" if "lfw_view1_accuracy" in result else ""
        if "valid" in result:
            kept = f"Valid majority {result['valid']['majority']['accuracy']:.4f}, "
            kept += f"argmax {result['valid']['argmax']['accuracy']:.4f}"
        row = (name, f"{result['images']:,}", settings["seed"], settings["epochs"], curves, kept)
        lines.append("| " + " | ".join(str(value) for value in row) + " |")
    return "\n".join(lines)


def _teacher(people: dict[str, Any], identity: dict[str, Any]) -> str:
    """Return an item on the teacher network; nothing if there was none."""
    if "teacher" not in people or not identity.get("teacher_weight"):
        return ""
    network = f"`{people['teacher']}` (sha256 `{people['teacher_sha256']}`)"
    return (
        f"- **Teacher**: {network}.\n  Its embeddings of the faces by person were a second target in training the "
        "networks on people. It is not part of the\n  weights.\n"
    )


def _starts(stages: Iterable[dict[str, Any]]) -> str:
    """Return an item for each file that an emotion network was started from."""
    known = list(stages)
    networks = "+".join(settings.get("network", "") for settings in known).split("+")
    files = [Path(name) for name in dict.fromkeys(networks) if name.endswith(".onnx")]
    starts = [Path(settings["start"]) for settings in known if settings.get("start")]
    files += [file for file in dict.fromkeys(starts) if file.is_file()]
    lines = []
    for file in files:
        checksum = hashlib.sha256(file.read_bytes()).hexdigest()
        lines.append(f"- **Start** of the emotion network: `{file.name}` (sha256 `{checksum}`),")
        lines.append("  trained on by the commands above.")
    return "".join(f"{line}\n" for line in lines)


def _data(data: dict[str, Any]) -> str:
    lines = ["| set | images read | kept | no face found | unreadable |", "|---|---|---|---|---|"]
    for name, manifest in data.items():
        outcomes = manifest["outcomes"]
        counts = (manifest["images"], manifest["kept"], outcomes["no face"], outcomes["unreadable"])
        lines.append(f"| {name} | " + " | ".join(f"{count:,}" for count in counts) + " |")
    return "\n".join(lines)
