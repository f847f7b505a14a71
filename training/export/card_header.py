"""The head of a model card that Hugging Face reads: license, tags, data and scores.

https://huggingface.co/docs/hub/model-cards
"""

from collections.abc import Mapping
from typing import Any

import yaml  # type: ignore[import-untyped]

from training.protocols.readings import ReadingsScore

TAGS = ["emotion-recognition", "facial-expression-recognition", "onnx", "torchscript", "triton"]
OTHER = "other"
"""What Hugging Face calls a license that it has no name for."""


def render_header(
    name: str, license_name: str, data: Mapping[str, Mapping[str, Any]], scores: Mapping[str, ReadingsScore]
) -> str:
    """Render the YAML between two lines of dashes.

    Args:
        name: Name of the model.
        license_name: License of the weights, as Hugging Face names it; ``OTHER`` refers to the card.
        data: Manifests of the prepared sets, by name.
        scores: Scores of the reporting half of Valid, by rule.
    """
    head: dict[str, Any] = {"license": license_name}
    if license_name == OTHER:
        head["license_name"] = "terms-of-the-training-data"
    head |= {
        "pipeline_tag": "image-classification",
        "tags": TAGS,
        "datasets": sorted({str(manifest["source"]).lower() for manifest in data.values()}),
        "metrics": ["accuracy", "recall"],
        "model-index": [{"name": name, "results": [_result(rule, each) for rule, each in scores.items()]}],
    }
    text: str = yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=115)
    return f"---\n{text}---\n\n"


def _result(rule: str, scores: ReadingsScore) -> dict[str, Any]:
    return {
        "task": {"type": "image-classification", "name": "facial expression recognition"},
        "dataset": {"type": "ferplus", "name": f"FER+ Valid, reporting half, {rule} rule", "split": "validation"},
        "metrics": [
            {"type": "accuracy", "value": round(scores.accuracy, 4), "name": "accuracy"},
            {"type": "recall", "value": round(scores.macro_recall, 4), "name": "macro recall"},
        ],
    }
