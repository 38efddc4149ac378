"""Weights where no router chooses, and what `--fidelity` does to weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from unires.compose.experts import KEEP, Expert
from unires.compose.weights import Weights

CRISP = "crisp"  # the expert that a model may have for fidelity below 1 (`unires.train.crisp`)
BEYOND = 1.4  # so many times what it changes at fidelity 0: more looks right still, where there is texture
MOST_STEPS = 8
CRISPEST = 0.3  # weight of the reduced photo's estimate at fidelity 0
FREQUENT = (
    "defocus-deblur=-0.2,dejpeg=1.2",
    "defocus-deblur=-0.2,denoise=0.8,dejpeg=0.4",
    "super-resolution=0.4,denoise=0.6",
    "motion-deblur=1.2,keep=-0.2",
    "defocus-deblur=-0.2,denoise=1,dejpeg=0.2",
    "super-resolution=-0.2,motion-deblur=1.2",
    "denoise=0.6,dejpeg=0.6,keep=-0.2",
    "super-resolution=0.2,motion-deblur=0.6,defocus-deblur=-0.2,dejpeg=0.4",
)
"""The paper's default sets, found anew for our experts (docs/benchmarks.md says which): those of its grid that
`unires bench search --photos 8 --crop 192` found to win most often, for 4 to 2 of 80 tuning mixtures.
`search:frequent` chooses from them."""


def default_weights(scale: float, tasks: Sequence[str]) -> Weights:
    """For a photo of which nothing is known: the blind expert; where it is enlarged, half of it
    super-resolution."""
    return Weights.parse("super-resolution=0.5,blind=0.5" if scale > 1 else "blind", tasks)


def crisper(weights: Weights, fidelity: float) -> Weights:
    """For a model with the expert CRISP: one step more, in which lower fidelity moves weight to it from what the steps
    before left, and beyond. So places between the two ends are blends of these."""
    if fidelity >= 1 or weights.only_keep:
        return weights
    experts = tuple(dict.fromkeys((*weights.experts, Expert(KEEP, "relay"), Expert(CRISP, "relay"))))
    steps, _, *size = weights.values.shape
    values = weights.values.new_zeros(steps + 1, len(experts), *size)
    values[:steps, : len(weights.experts)] = weights.values
    values[steps, experts.index(Expert(KEEP, "relay"))] = 1 - BEYOND * (1 - fidelity)
    values[steps, experts.index(Expert(CRISP, "relay"))] = BEYOND * (1 - fidelity)
    return Weights(experts, values)


def inventive(weights: Weights, fidelity: float) -> Weights:
    """For a model without it: lower fidelity moves weight to the estimate from a reduced photo, which invents more, and
    `default_steps` samples more."""
    if fidelity >= 1:
        return weights
    share = CRISPEST * (1 - fidelity)
    added = torch.full_like(weights.values[:, :1], share)
    values = torch.cat(((1 - share) * weights.values, added), dim=1)
    return Weights((*weights.experts, Expert("super-resolution", "down2")), values)


def default_steps(fidelity: float, weights: Weights) -> int:
    """One step at fidelity 1 (or one for each list of weights), up to MOST_STEPS at 0."""
    return max(weights.steps, 1 + round((MOST_STEPS - 1) * (1 - fidelity)))
