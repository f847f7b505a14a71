"""Readers of data sets as downloaded, and the prepared form that training reads."""
