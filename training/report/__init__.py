"""The report: all tables and plots of a run on one page."""
