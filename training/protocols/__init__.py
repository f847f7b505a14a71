"""How results are measured, by the rules of each data set's authors."""
