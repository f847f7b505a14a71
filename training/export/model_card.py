"""The model card: what a served network is made of, what it reaches, and what it is not for.

Mitchell et al., "Model Cards for Model Reporting", FAT* 2019.
"""

import json
from dataclasses import asdict
from pathlib import Path
from string import Template
from typing import Any

from training.augmentation import Augmentation
from training.datasets.prepared import load_prepared
from training.protocols.ferplus import FerPlusScore, RuleScore
from training.runs import lineage, load_made_by, load_result, load_settings

CARD_TEMPLATE = Path(__file__).parent / "model_card.md.template"
SILENT = ("out", "augmentation", "accelerator", "devices")
"""Settings that a stage's row of the card leaves out; all of them are in ``model_card.json``."""


def write_card(version: Path, run: Path, reached: FerPlusScore, exported: dict[str, Any]) -> None:
    """Write ``MODEL_CARD.md`` for people and ``model_card.json`` for programs beside an exported model.

    Args:
        version: folder of the model's version.
        run: the joint run; the stages before it are found through its settings.
        reached: scores of the exported file on Valid.
        exported: commit, temperature, mirror, parity and checksum of the file.
    """
    stages = {name: _stage(folder) for name, folder in lineage(run).items()}
    joint = list(stages.values())[-1]
    identity = load_settings(Path(joint["settings"]["identity"]))
    data = {name: load_prepared(folder).manifest for name, folder in _sets(identity, joint["settings"]).items()}
    facts = {
        "export": exported,
        "valid": reached.as_dict(),
        "stages": stages,
        "data": data,
    }
    (version / "model_card.json").write_text(json.dumps(facts, indent=2) + "\n")
    text = Template(CARD_TEMPLATE.read_text()).substitute(
        commit=joint["made_by"]["commit"],
        export_commit=exported["commit"],
        sha256=exported["sha256"],
        temperature=f"{exported['temperature']:.3f}",
        parity=f"{exported['parity']:.1g}",
        mirror_option=" --mirror true" if exported["mirror"] else "",
        answer="mean of the crop and its mirror image" if exported["mirror"] else "of the crop alone",
        scores=_scores(reached),
        recall=_recall(reached.majority),
        unanswered=f"{reached.unanswered:,}",
        run=run,
        commands="\n".join(_command(facts["settings"]) for facts in stages.values()),
        stages=_stages(stages),
        data=_data(data),
        teacher=_teacher(data["faces by person"], identity),
        augmentation=", ".join(f"{k} {v}" for k, v in joint["settings"]["augmentation"].items()),
    )
    (version / "MODEL_CARD.md").write_text(text)


def _stage(folder: Path) -> dict[str, Any]:
    return {"settings": load_settings(folder), "result": load_result(folder), "made_by": load_made_by(folder)}


def _sets(identity: dict[str, Any], joint: dict[str, Any]) -> dict[str, Path]:
    expressions = Path(joint["data"])
    folders = {
        "faces by person": Path(identity["data"]),
        "FER+ train": expressions / "train",
        "FER+ valid": expressions / "valid",
    }
    if identity["lfw"]:
        folders["LFW View 1, dev-train"] = Path(identity["lfw"]) / "dev-train"
        folders["LFW View 1, dev-test"] = Path(identity["lfw"]) / "dev-test"
    return folders


def _command(settings: dict[str, Any]) -> str:
    name = "identity" if "margin" in settings else "joint" if "identity" in settings else "emotion"
    options = {key: value for key, value in settings.items() if key not in SILENT[1:] and value not in (None, [])}
    if "taught_by" in options:
        options["taught_by"] = f"[{','.join(options['taught_by'])}]"
    usual = asdict(Augmentation())
    options |= {
        f"augmentation.{key}": value for key, value in settings["augmentation"].items() if value != usual[key]
    }
    return f"training {name} " + " ".join(f"--{key} {value}" for key, value in options.items())


def _scores(reached: FerPlusScore) -> str:
    lines = ["| rule | rows | accuracy | macro recall | macro F1 | ECE |", "|---|---|---|---|---|---|"]
    for rule, figures in (("majority", reached.majority), ("argmax", reached.argmax)):
        shown = (figures.accuracy, figures.macro_recall, figures.macro_f1, figures.calibration_error)
        lines.append(f"| {rule} | {figures.rows:,} | " + " | ".join(f"{value:.4f}" for value in shown) + " |")
    return "\n".join(lines)


def _recall(figures: RuleScore) -> str:
    lines = ["| " + " | ".join(figures.recall) + " |", "|" + "---|" * len(figures.recall)]
    return "\n".join([*lines, "| " + " | ".join(f"{value:.3f}" for value in figures.recall.values()) + " |"])


def _stages(stages: dict[str, Any]) -> str:
    lines = ["| stage | images | seed | epochs | at the end of its curves | kept |", "|---|---|---|---|---|---|"]
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
    """A line on the network whose embeddings were a second target; nothing where there was none."""
    if "teacher" not in people or not identity["teacher_weight"]:
        return ""
    network = f"`{people['teacher']}` (sha256 `{people['teacher_sha256']}`)"
    return (
        f"- **Teacher**: {network},\n  whose embeddings of the faces by person were a second target of both "
        "networks that were trained on people. It is no\n  part of the weights.\n"
    )


def _data(data: dict[str, Any]) -> str:
    lines = ["| set | images read | kept | no face found | unreadable |", "|---|---|---|---|---|"]
    for name, manifest in data.items():
        outcomes = manifest["outcomes"]
        counts = (manifest["images"], manifest["kept"], outcomes["no face"], outcomes["unreadable"])
        lines.append(f"| {name} | " + " | ".join(f"{count:,}" for count in counts) + " |")
    return "\n".join(lines)
