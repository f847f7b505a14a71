import signal
import subprocess
import sys
from pathlib import Path

CRASH = """
import os, signal
from service.server.core_dumps import disable_core_dumps
disable_core_dumps()
if os.fork() == 0:
    os.kill(os.getpid(), signal.SIGSEGV)
_, status = os.wait()
print(os.WTERMSIG(status), os.WCOREDUMP(status))
"""


def test_a_crash_leaves_no_core(tmp_path: Path) -> None:
    environment = {"PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", CRASH]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.split() == [str(int(signal.SIGSEGV)), "False"]
    assert not list(tmp_path.iterdir())
