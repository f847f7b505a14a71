import os
import subprocess
import sys
from pathlib import Path

NEVER_TOLD = ("CI", "TF_BUILD", "GITHUB_ACTIONS", "ORT_DISABLE_TELEMETRY", "PYTEST_CURRENT_TEST")
"""Variables by which onnxruntime may find by itself that it has nothing to tell."""

COMMAND = "from service.vision.face_pipeline import FacePipeline; FacePipeline()"


def test_networks_leave_no_trace_of_this_machine(tmp_path: Path) -> None:
    own = {name: str(tmp_path) for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TMPDIR")}
    environment = {name: value for name, value in os.environ.items() if name not in NEVER_TOLD}
    subprocess.run([sys.executable, "-B", "-c", COMMAND], env=environment | own, check=True)
    assert not [each for each in tmp_path.rglob("*") if each.is_file()]
