"""One path from picture to picture."""
