"""What a model card says about repeating its runs: only what the runs have recorded."""

from collections.abc import Mapping
from typing import Any

FACTS = ("commit", "torch", "python", "device", "processor", "threads", "precision")
UNKNOWN = "not recorded"


def render_reproducibility(stages: Mapping[str, Mapping[str, Any]]) -> str:
    """Render a table of seeds, versions and hardware, and what follows from them.

    Args:
        stages: Settings and provenance of each run, by name.
    """
    lines = ["| run | seed | " + " | ".join(FACTS) + " |", "|---|---|" + "---|" * len(FACTS)]
    for name, stage in stages.items():
        known = stage["provenance"]
        facts = [str(known.get(fact, UNKNOWN))[:40] for fact in FACTS]
        lines.append("| " + " | ".join([name, str(stage["settings"]["seed"]), *facts]) + " |")
    devices = {str(stage["provenance"].get("device", UNKNOWN)) for stage in stages.values()}
    text = [
        "The seed sets the initial weights, the order of the images, augmentation and dropout.",
    ]
    if "cpu" in devices:
        text += [
            "What was trained on a CPU gives the same weights, bit by bit, with the same commit, versions, kind",
            "of processor and number of threads, also if it is interrupted; with others it rounds differently.",
        ]
    if devices - {"cpu", UNKNOWN}:
        text += [
            "What was trained on a GPU does not: its kernels add up in no fixed order, so that weights and scores",
            "differ a little each time.",
        ]
    if UNKNOWN in devices:
        text += ["Of a run whose device is not recorded, nothing more can be said."]
    if any("command" in stage["settings"] for stage in stages.values()):
        text += ["A bundle trains for a given time, so that its number of steps depends on the machine, too."]
    return "\n".join([*lines, "", *text])
