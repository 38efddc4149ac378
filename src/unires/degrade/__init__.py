"""Degradations: operators, recipes that compose them, isolated training pairs. Knows nothing of networks."""
