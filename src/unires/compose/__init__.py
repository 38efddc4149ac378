"""Experts, conditions, weights: what is asked, and how much each answer counts. Knows denoisers by their interface."""
