"""The command line, as far as it trains nothing."""

import subprocess
import sys


def test_help_needs_none_of_the_libraries_that_take_seconds_to_import():
    code = "import sys; from training.cli import app\ntry: app(['all', '--help'])\nfinally: print(*sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "--data" in printed
    assert not {"torch", "lightning", "cv2", "onnxruntime", "pandas"} & set(printed.split())
