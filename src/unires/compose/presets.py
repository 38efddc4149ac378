"""Weights to start from, by name; and what `--fidelity` means while no router chooses."""

from __future__ import annotations

from collections.abc import Sequence

from unires.compose.weights import Weights

MOST_STEPS = 8


def default_weights(scale: float, fidelity: float, tasks: Sequence[str]) -> Weights:
    """For a photo of which nothing is known: the blind expert; where it is enlarged, half of it
    super-resolution. Lower fidelity moves weight to the estimate from a reduced photo, which invents more."""
    base = "super-resolution=0.5,blind=0.5" if scale > 1 else "blind"
    if fidelity >= 1:
        return Weights.parse(base, tasks)
    share = 0.3 * (1 - fidelity)
    parts = [item.partition("=") for item in base.split(",")]
    kept = ",".join(f"{name}={(1 - share) * float(value or 1):.6f}" for name, _, value in parts)
    return Weights.parse(f"{kept},super-resolution@down2={share:.6f}", tasks)


def default_steps(fidelity: float, weights: Weights) -> int:
    """One step at fidelity 1 (or one for each list of weights), up to MOST_STEPS at 0."""
    return max(weights.steps, 1 + round((MOST_STEPS - 1) * (1 - fidelity)))
