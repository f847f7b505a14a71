"""Train the networks, measure them, and export what Triton serves."""
