"""Data sets in the form people download them, and the compact prepared form that training reads."""
