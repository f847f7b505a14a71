"""Lets ``python -m service.cli`` run the ``tandem`` command."""

from service.cli.main import app

app()
