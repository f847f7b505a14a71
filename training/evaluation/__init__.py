"""The commands that measure trained networks: evaluate, verify, crossvalidate, compare and robustness."""
