"""The recipe of `training all`: every step from downloaded data to a model that Triton serves."""
