"""Run the ``tandem`` command with ``python -m service.cli``."""

from service.cli.main import app

app()
