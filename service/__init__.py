"""The gateway: a photo in by HTTP, the emotion of every face out."""

__version__ = "0.1.0"
