"""Triton's `pytorch` backend in Python.

These modules run inside Triton's stub process and import each other by their bare names. ``model.py`` cannot be
imported anywhere else.
"""
