"""A real Triton Inference Server as a child process, for machines that have none."""
