"""Runs a real Triton Inference Server as a child process, on machines that have no other."""
