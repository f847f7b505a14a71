"""Files that attack decoders: `python -m tests.hostile` shows how each is answered."""
