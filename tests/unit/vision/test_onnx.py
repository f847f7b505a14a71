import os
import subprocess
import sys
from pathlib import Path

HIDES_TELEMETRY = ("CI", "TF_BUILD", "GITHUB_ACTIONS", "ORT_DISABLE_TELEMETRY", "PYTEST_CURRENT_TEST")
"""Variables that may switch onnxruntime's telemetry off without our doing."""

COMMAND = "from service.vision.face_pipeline import FacePipeline; FacePipeline()"


def test_onnxruntime_stores_no_machine_id(tmp_path: Path) -> None:
    own = {name: str(tmp_path) for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TMPDIR")}
    environment = {name: value for name, value in os.environ.items() if name not in HIDES_TELEMETRY}
    subprocess.run([sys.executable, "-B", "-c", COMMAND], env=environment | own, check=True)
    assert not [each for each in tmp_path.rglob("*") if each.is_file()]
