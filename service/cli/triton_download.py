"""Download the local Triton for the commands that start one. Needs little else, so that it can be done first."""

from contextlib import suppress
from pathlib import Path

from service.cli.console import stderr
from service.triton import install
from service.triton.errors import NotInstalled


def install_triton(home: Path) -> Path:
    """Install the local Triton unless it is there already; returns its folder.

    Raises:
        LocalTritonError: it cannot be installed.
        OSError: its folder cannot be written.
    """
    with suppress(NotInstalled):
        return install.installed(home)
    with stderr.status(f"Downloading Triton into {home}"):
        return install.install(home)
