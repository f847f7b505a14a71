"""Moves from one version of the model to another and back: which of them Triton loads, how two compare."""
