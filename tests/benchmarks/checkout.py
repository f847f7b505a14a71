"""Run the service of this checkout, or of another commit in a temporary worktree."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tritonclient.grpc as triton_grpc
from processes import Usage, triton_grpc_port, usage

ROOT = Path(__file__).parents[2]
TRITON_HOME = ".triton"


@dataclass(frozen=True)
class Service:
    """A running service and its local Triton."""

    url: str
    process: int
    triton_url: str

    def usage(self) -> dict[str, Usage]:
        return usage(self.process)

    def batches(self) -> tuple[int, int]:
        """Return how many faces Triton has processed, and in how many batches."""
        with triton_grpc.InferenceServerClient(self.triton_url) as client:
            stats = client.get_inference_statistics("tandem").model_stats
            return sum(each.inference_count for each in stats), sum(each.execution_count for each in stats)


@contextlib.contextmanager
def worktree_of(revision: str) -> Iterator[Path]:
    """Check out another commit in a temporary worktree.

    It gets a copy of this checkout's Triton, because a service installs its own backend there when it starts.
    """
    with tempfile.TemporaryDirectory(prefix="tandem-baseline-") as folder:
        path = Path(folder) / "checkout"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", "--quiet", str(path), revision], check=True)
        try:
            shutil.copytree(ROOT / TRITON_HOME, path / TRITON_HOME)
            yield path
        finally:
            subprocess.run([*git, "remove", "--force", str(path)], check=True)


@contextlib.contextmanager
def served(checkout: Path, **settings: str) -> Iterator[Service]:
    """Run a checkout's service with its local Triton on a free port, with this interpreter.

    Args:
        checkout: root of the checkout; its ``service`` may have any layout with a ``service.cli serve``.
        settings: ``TANDEM_*`` variables.
    """
    command = [sys.executable, "-m", "service.cli", "serve", "--port", "0", "--log-level", "error"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(checkout),
        "TANDEM_TRITON_HOME": str(checkout / TRITON_HOME),
        **settings,
    }
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command, cwd=checkout, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
        try:
            assert process.stdout
            line = process.stdout.readline()
            found = re.search(r"http://\S+", line)
            if not found:
                log.seek(0)
                raise SystemExit(f"the service did not start: {line}{log.read()}")
            yield Service(found.group(), process.pid, f"127.0.0.1:{triton_grpc_port(process.pid)}")
        finally:
            process.terminate()
            process.wait(40)  # longer than a request may take
            assert process.stdout
            process.stdout.close()
