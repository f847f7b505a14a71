"""Write a version of a model into the model repository: TorchScript, ONNX, configuration and model card."""

import hashlib
import json
from pathlib import Path
from string import Template
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from training.crop_spec import BOX_TEMPLATE, TEMPLATE, CropShape
from training.datasets.ferplus import EMOTIONS
from training.datasets.prepared import load_prepared
from training.export.model_card import write_card
from training.export.onnx import OnnxNetwork, save_onnx
from training.export.torchscript import MAX_DIFFERENCE, ServedNet, check_parity, fit_temperature, to_torchscript
from training.networks.inference import predict
from training.networks.onnx_backbone import OnnxBackbone
from training.networks.tandem import JoinedBackbones
from training.protocols.readings import ReadingsScore, choosing_half, score_readings
from training.runs import check_crop, current_commit, load_provenance, load_settings
from training.settings.commands import ExportSettings
from training.trained import load_tandem

CONFIG_TEMPLATE = Path(__file__).parent / "config.pbtxt.template"


def export(settings: ExportSettings) -> None:
    """Write ``model.pt``, ``model.onnx``, ``config.pbtxt`` and the model card of a joint run.

    Raises:
        ValueError: The run is of another stage, or the exported network differs from the trained one.
        FileNotFoundError: A run or a prepared set is missing.
    """
    commit = current_commit()  # read before the export changes files of the checkout
    joint = load_settings(settings.run, "joint")
    valid = load_prepared(Path(joint["data"]) / "valid")
    check_crop(settings.run, joint, valid.shape)
    served = ServedNet(load_tandem(settings.run), 1.0, mirror=settings.mirror).eval()
    logits = predict(served.logits, valid.crops)
    choosing = choosing_half(valid)
    fitted = valid.aligned & choosing
    served.temperature = fit_temperature(logits[fitted], valid.arrays["votes"][fitted])
    print(f"Temperature {served.temperature:.3f}; tracing the network")
    exported = to_torchscript(served, valid.shape)
    difference = check_parity(served, exported, valid.crops)
    print(f"TorchScript differs from eager mode by at most {difference:.2g} (limit {MAX_DIFFERENCE:g})")

    model = settings.repository / settings.name
    version = model / str(settings.version)
    version.mkdir(parents=True, exist_ok=True)
    unfinished = version / "unfinished"  # a Triton that polls the folder must not see half a file
    save_onnx(served, unfinished, valid.shape)
    onnx_difference = check_parity(served, OnnxNetwork(unfinished), valid.crops)
    print(f"ONNX Runtime differs from eager mode by at most {onnx_difference:.2g} (limit {MAX_DIFFERENCE:g})")
    unfinished.replace(version / "model.onnx")
    exported.save(str(unfinished))
    unfinished.replace(version / "model.pt")
    network = torch.jit.load(version / "model.pt", map_location="cpu")  # type: ignore[no-untyped-call]
    scores = {
        half: score_readings(network, valid, rows, f"Scoring the {half} half of Valid")
        for half, rows in (("choosing", choosing), ("reporting", ~choosing))
    }
    for half, rules in scores.items():
        shown = ", ".join(f"{rule} {each.accuracy:.4f}" for rule, each in rules.items())
        print(f"{half.capitalize()} half of Valid, mean over readings: {shown}")
    checksum = hashlib.sha256((version / "model.pt").read_bytes()).hexdigest()
    config = render_config(settings.name, settings.run, scores["reporting"], checksum, valid.shape)
    (version / "config.pbtxt").write_text(config)
    current = model / "config.pbtxt"
    # With a version policy, `tandem model activate` chooses the version and its configuration.
    if not current.exists() or "version_policy" not in current.read_text():
        current.write_text(config)
    networks = write_structures(
        version,
        served.network,
        {part: load_settings(Path(joint[part]), part)["network"] for part in ("identity", "emotion")},
    )
    write_card(
        version,
        settings.run,
        scores,
        {
            "commit": commit,
            "networks": networks,
            "temperature": served.temperature,
            "mirror": settings.mirror,
            "parity": difference,
            "sha256": checksum,
            "onnx_parity": onnx_difference,
            "onnx_sha256": hashlib.sha256((version / "model.onnx").read_bytes()).hexdigest(),
        },
        settings.license,
    )
    if settings.safetensors:
        weights = {name: value.contiguous() for name, value in served.network.state_dict().items()}
        unfinished.write_bytes(save(weights, {"format": "pt"}))  # save_file would make it private
        unfinished.replace(version / "model.safetensors")
        print(f"{version}: model.safetensors")
    print(f"{version}: model.pt, model.onnx, config.pbtxt, MODEL_CARD.md, model_card.json")


def write_structures(version: Path, network: nn.Module, names: dict[str, str]) -> dict[str, str]:
    """Write the structure of each network that came from a file; return the names that all are built by again."""
    described: dict[str, str] = {}
    for part, name in names.items():
        backbone = getattr(network, part)
        members = backbone.networks if isinstance(backbone, JoinedBackbones) else [backbone]
        shown = name.split("+")
        for at, member in enumerate(members):
            if isinstance(member, OnnxBackbone):
                shown[at] = f"{part}-network{f'-{at}' if len(members) > 1 else ''}.json"
                (version / shown[at]).write_text(json.dumps(member.describe()) + "\n")
        described[part] = "+".join(shown)
    return described


def render_config(name: str, run: Path, scores: dict[str, ReadingsScore], checksum: str, crop: CropShape) -> str:
    """Render Triton's configuration of the model, from which the gateway learns its input and output."""
    metrics = {
        "ferplus_valid_majority": round(scores["majority"].accuracy, 4),
        "ferplus_valid_argmax": round(scores["argmax"].accuracy, 4),
    }
    fields: dict[str, Any] = {
        "name": name,
        "kind": "Gray crops" if crop[0] == 1 else "Crops in RGB",
        "dims": ", ".join(map(str, crop)),
        "classes": len(EMOTIONS),
        "labels": ",".join(EMOTIONS),
        "alignment_template": ";".join(f"{x:.6f},{y:.6f}" for x, y in TEMPLATE),
        "box_template": ",".join(f"{edge:.6f}" for edge in BOX_TEMPLATE),
        "commit": load_provenance(run)["commit"],
        "data": "FER+ train; faces by person",
        "metrics": ", ".join(f"{key} {value}" for key, value in metrics.items()),
        "sha256": checksum,
    }
    return Template(CONFIG_TEMPLATE.read_text()).substitute(fields)
