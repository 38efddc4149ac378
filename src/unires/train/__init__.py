"""Data, objective and loop that make the experts."""
