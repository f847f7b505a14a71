"""Scores, computed by the rules of each data set's authors."""
