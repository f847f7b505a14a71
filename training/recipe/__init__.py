"""The recipe of the committed model: every step from downloaded data to a model that Triton serves."""
