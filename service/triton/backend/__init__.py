"""Triton's `pytorch` backend in Python; ``model.py`` runs inside Triton and is never imported here."""
