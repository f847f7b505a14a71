"""Export a joint run as a version in the model repository."""
