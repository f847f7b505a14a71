"""Train away from the data: one file with everything that a run needs, and the parts that come back."""
