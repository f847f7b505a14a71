"""Serve an HTTP API that takes photos and returns the emotion that every face shows."""

__version__ = "0.1.0"
