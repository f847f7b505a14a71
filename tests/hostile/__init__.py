"""Files made to break a decoder, and what becomes of them: `python -m tests.hostile`."""
