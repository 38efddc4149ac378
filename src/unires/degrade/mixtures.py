"""Random mixtures, to train on what reads photos and weighs experts; never an expert.

Optics first, then the sensor's pixels, its noise, and the file, as in a camera: at most one of motion and defocus, too
few pixels, noise, JPEG, each drawn from the isolated task's whole range. A share of the pictures gets plain ones only:
who weighs experts shall also know what they can do at their best."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unires.degrade import isolated, operators
from unires.degrade.isolated import TASKS, Draw, severity_of
from unires.degrade.recipe import Recipe
from unires.degrade.recipes import TEST

COUNT_ODDS = (0.06, 0.42, 0.32, 0.15, 0.05)  # of 0, 1, 2, 3 and 4 degradations
ABSENT = -1.0
FLOOR = -50.0  # dB; a smaller change is none
ORDER = ("motion-deblur", "defocus-deblur", "super-resolution", "denoise", "dejpeg")
NEAR = 0.04  # of severity: how close a draw may come to a test recipe


@dataclass(frozen=True)
class Mixture:
    """B degraded pictures, and what was done to each, task by task in the order of TASKS."""

    degraded: Tensor  # B x 3 x H x W, 8-bit valued
    severity: Tensor  # B x 5, from 0 to 1; ABSENT where the task was not drawn
    harm: Tensor  # B x 5, dB: the mean squared error it would make alone, pixels in [0, 1]; at least FLOOR
    angle: Tensor  # B, radians, the direction of a motion; not a number where there is none


def draw(clean: Tensor, host: torch.Generator, device: torch.Generator, plain_share: float = 0.5) -> Mixture:
    """Degrade clean pixels (B x 3 x H x W in [0, 1]), a share of them by plain operators alone. What comes close to a
    test recipe stays clean."""
    count = clean.shape[0]
    chosen, plain = _choose(count, host), torch.rand(count, generator=host) < plain_share
    x = clean.clone()
    severity = torch.full((count, len(TASKS)), ABSENT)
    harm = torch.full((count, len(TASKS)), FLOOR)
    angle = torch.full((count,), math.nan)
    for task in ORDER:
        k = TASKS.index(task)
        here = chosen[:, k].nonzero().flatten()
        if not len(here):
            continue
        drawn = host.get_state(), device.get_state()
        there = here.to(x.device)
        draws = Draw(len(here), host, device, plain[here])
        out, severity[here, k], angles = isolated.DEGRADE[task](x[there], draws)
        # alone: what came before matters, as JPEG changes noise as much as noise did
        host.set_state(drawn[0])
        device.set_state(drawn[1])
        alone = isolated.DEGRADE[task](clean[there], draws).pixels
        error = (alone.clamp(0, 1) - clean[there]).square().mean(dim=(1, 2, 3)).cpu()
        harm[here, k] = (10 * error.clamp(min=1e-9).log10()).clamp(min=FLOOR)
        x[there] = out
        if task == "motion-deblur":
            angle[here] = angles
    near = near_test(severity)
    x[near.to(x.device)] = clean[near.to(x.device)]
    severity[near], harm[near], angle[near] = ABSENT, FLOOR, math.nan
    return Mixture(operators.round8(x), severity, harm, angle)


def _choose(count: int, host: torch.Generator) -> Tensor:
    """Which tasks each picture gets: B x 5."""
    many = torch.multinomial(torch.tensor(COUNT_ODDS), count, True, generator=host)
    odds = torch.tensor((1.5, 0.75, 1, 1))  # two blurs share one place: each is there nearly as often as few pixels
    order = (torch.rand(count, 4, generator=host).log() / -odds).argsort(dim=1).argsort(dim=1)
    blur, pixels, noise, file = (order < many[:, None]).unbind(dim=1)
    moved = torch.rand(count, generator=host) < 0.5
    return torch.stack((pixels, blur & moved, blur & ~moved, noise, file), dim=1)


OPERATORS = {  # of recipes: the task, and the parameter that is its strength
    "resize": ("super-resolution", "scale"),
    "motion": ("motion-deblur", "length"),
    "defocus": ("defocus-deblur", "radius"),
    "noise": ("denoise", "sigma"),
    "jpeg": ("dejpeg", "quality"),
}


def severities(recipe: str) -> Tensor:
    """The severity of each task in a recipe of these operators, as training counts it."""
    row = torch.full((len(TASKS),), ABSENT)
    for name, parameters in Recipe.parse(recipe).steps:
        task, key = OPERATORS[name]
        value = float(dict(parameters)[key])
        row[TASKS.index(task)] = severity_of(task, torch.tensor(101 - value if name == "jpeg" else value))
    return row


_TESTS = torch.stack([severities(r) for r in TEST])


def near_test(severity: Tensor) -> Tensor:
    """Which of B draws (B x 5) have the very tasks of a test recipe, each at nearly its strength."""
    near: Tensor = ((severity[:, None] - _TESTS).abs().amax(dim=2) < NEAR).any(dim=1)
    return near
