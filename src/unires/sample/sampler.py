"""Sampling, line by line (docs/method.md has the equations' places).

    z_1     = eps                                               nothing is known but the conditions
    x_hat_t = sum_k W[t, k] D(z_t, t, c_k, tau_k)               `composed_estimate`
    z_s     = alpha_s x_hat_t + sigma_s eps_hat(z_t, x_hat_t)   `ddim`; `multistep` looks one step back as well

A solver is that last line: a plain function from (z_t, x_hat_t, the x_hat of the step before, times, step) to z_s. It
works pixel by pixel, so that a picture too large to be held whole can be taken through it in parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from unires.compose.conditions import Conditions
from unires.compose.experts import KEEP
from unires.compose.origin import Origin
from unires.compose.weights import Weights
from unires.denoise.interface import Denoiser, Hint
from unires.denoise.schedule import alpha_sigma
from unires.errors import OptionError, nearest

AT_ONCE = 1 << 20  # pixels: a larger batch takes more memory and saves no time


@dataclass(frozen=True)
class State:
    """What a callback gets after each step: step i of `steps` went from z_t, at time t, to time s."""

    step: int
    steps: int
    t: float
    s: float
    z: Tensor
    estimate: Tensor  # x_hat_t


Estimate = Callable[[Tensor, float, int, Tensor | None], Tensor]  # of (z, t, step, relay): x_hat_t
Condition = Callable[[str, Tensor | None], Tensor]
Callback = Callable[[State], None]
Solver = Callable[[Tensor, Tensor, Tensor | None, Sequence[float], int], Tensor]


def times(steps: int) -> list[float]:
    """From 1 to 0 in equal parts: `steps` + 1 numbers."""
    return [1 - i / steps for i in range(steps + 1)]


def composed_estimate(
    denoiser: Denoiser, conditions: Condition, weights: Weights, z: Tensor, t: float, step: int, relay: Tensor | None,
    hints: Mapping[str, Hint] | None = None, origin: Origin | None = None, used: Sequence[int] | None = None,
) -> Tensor:
    """x_hat_t = sum_k W[t, k] D(z_t, t, c_k, tau_k). The experts of the step run as one batch, or as
    several where pictures are large (AT_ONCE); `keep` runs nothing. Where all of them see the relay, they see nothing
    else: z's noise takes the place of z.

    conditions: `Conditions`, or another function of a condition's name and the relay. hints: what a task's
    experts are told of its degradation; a task that is not named is told nothing. origin: what the photo was made
    from, where that is known: an expert that works alone is kept to it (`Origin.keep`). used: the experts that count
    in this step, where that is settled for a larger picture than this part of it."""
    used = weights.active(step) if used is None else used
    networks = [k for k in used if weights.experts[k].task != KEEP]
    if relay is not None and networks and all(weights.experts[k].condition == "relay" for k in networks):
        # what z holds of the estimate before, they are shown without noise: they start afresh, at t = 1
        alpha, sigma = levels(t)
        z, t = (z - alpha * relay) / sigma, 1.0
    seen = {k: conditions(weights.experts[k].condition, relay) for k in used}
    parts = {k: seen[k] for k in used if k not in networks}
    size = z.shape[-2], z.shape[-1]
    count = z.shape[0]
    at_once = max(1, AT_ONCE // (count * size[0] * size[1] * denoiser.facts.reduction**2))
    for some in (networks[i : i + at_once] for i in range(0, len(networks), at_once)):
        condition = torch.cat([seen[k] for k in some])
        tasks = [weights.experts[k].task for k in some for _ in range(count)]
        told = [(hints or {}).get(task) for task in tasks]
        together = denoiser.predict(z.repeat(len(some), 1, 1, 1), t, condition, tasks, told)
        parts |= dict(zip(some, together.chunk(len(some)), strict=True))
    if origin and len(networks) == 1:
        (k,) = networks
        parts[k] = origin.keep(weights.experts[k], parts[k], seen[k])
    total = torch.zeros_like(z)
    for k in used:
        total += weights.at(step, k, size, used).to(z) * parts[k]
    return total


def ddim(z: Tensor, x: Tensor, before: Tensor | None, ts: Sequence[float], i: int) -> Tensor:
    """First order: DDIM (Song et al. 2021, eq. 12 with eta = 0)."""
    alpha, sigma = levels(ts[i])
    noise = (z - alpha * x) / sigma
    alpha, sigma = levels(ts[i + 1])
    return alpha * x + sigma * noise


def multistep(z: Tensor, x: Tensor, before: Tensor | None, ts: Sequence[float], i: int) -> Tensor:
    """Second order: DPM-Solver++(2M) (Lu et al. 2022, "DPM-Solver++", algorithm 2), lambda = log(alpha / sigma).

    From t = 1, where lambda is infinite, the first step is DDIM's and the second has no slope to correct by."""
    alpha, sigma = levels(ts[i])
    alpha_s, sigma_s = levels(ts[i + 1])
    target = x
    if i >= 2 and before is not None:
        h = log_ratio(ts[i + 1]) - log_ratio(ts[i])
        r = (log_ratio(ts[i]) - log_ratio(ts[i - 1])) / h
        target = x + (x - before) / (2 * r)
    # exp(-h) written out: sigma_s alpha_t / (alpha_s sigma_t)
    return sigma_s / sigma * z + (alpha_s - sigma_s * alpha / sigma) * target


def solve(
    solver: Solver, estimate: Estimate, z: Tensor, ts: Sequence[float], callback: Callback | None = None,
    relay: Tensor | None = None,
) -> Tensor:
    """From z at time ts[0] to the estimate at the time before the last, which is the result. relay: what the first
    step's experts that see the estimate before are shown."""
    x = relay
    for i, (t, s) in enumerate(pairwise(ts)):
        before, x = x, estimate(z, t, i, x)
        if callback:
            callback(State(i, len(ts) - 1, t, s, z, x))
        if i + 2 < len(ts):
            z = solver(z, x, before, ts, i)
    assert x is not None
    return x


def levels(t: float) -> tuple[float, float]:
    """(alpha_t, sigma_t) as numbers."""
    alpha, sigma = alpha_sigma(torch.tensor(t, dtype=torch.float64))
    return float(alpha), float(sigma)


def log_ratio(t: float) -> float:
    alpha, sigma = levels(t)
    return math.log(alpha / sigma)


SOLVERS: dict[str, Solver] = {"ddim": ddim, "multistep": multistep}


def check_solver(name: str) -> None:
    """Raises OptionError for an unknown one."""
    if name not in SOLVERS:
        raise OptionError(nearest(name, SOLVERS, kind="solver"))


def sample(
    denoiser: Denoiser,
    pixels: Tensor,
    weights: Weights,
    *,
    steps: int = 1,
    noise: Tensor | None = None,
    hints: Mapping[str, Hint] | None = None,
    solver: str = "ddim",
    callback: Callback | None = None,
    relay: Tensor | None = None,
    origin: Origin | None = None,
) -> Tensor:
    """Restore pixels (B x 3 x H x W in [0, 1]) with the experts weighted by `weights`; returns the same shape,
    not clipped. noise: z_1, unit Gaussian samples; with one step it is not looked at and may be None.
    hints, origin: as `composed_estimate` takes them. relay: pixels that earlier steps made, to go on from. Raises
    OptionError for an unknown solver."""
    check_solver(solver)
    conditions = Conditions(denoiser, pixels)
    if noise is None:
        noise = torch.zeros_like(conditions("lq", None))

    def estimate(z: Tensor, t: float, step: int, relay: Tensor | None) -> Tensor:
        return composed_estimate(denoiser, conditions, weights, z, t, step, relay, hints, origin)

    before = None if relay is None else denoiser.encode(relay)
    return denoiser.decode(solve(SOLVERS[solver], estimate, noise, times(steps), callback, before))
