"""One page with everything a run reached: tables and plots."""
