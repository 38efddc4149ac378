"""Random mixtures, to train on what reads photos and weighs experts; never an expert.

Optics first, then the sensor's pixels, its noise, and the file, as in a camera: at most one of motion and defocus, too
few pixels, noise, JPEG, each drawn from the isolated task's whole range."""

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
NEAR = 0.04  # of severity: how close a draw may come to a test recipe


@dataclass(frozen=True)
class Mixture:
    """B degraded pictures, and what was done to each, task by task in the order of TASKS."""

    degraded: Tensor  # B x 3 x H x W, 8-bit valued
    severity: Tensor  # B x 5, from 0 to 1; ABSENT where the task was not drawn
    harm: Tensor  # B x 5, dB: the mean squared error it would make alone, pixels in [0, 1]; at least FLOOR
    angle: Tensor  # B, radians, the direction of a motion; not a number where there is none


def draw(clean: Tensor, host: torch.Generator, device: torch.Generator) -> Mixture:
    """Degrade clean pixels (B x 3 x H x W in [0, 1]). What comes close to a test recipe is drawn again."""
    count = clean.shape[0]
    chosen = _choose(count, host)
    x = clean.clone()
    severity = torch.full((count, len(TASKS)), ABSENT)
    harm = torch.full((count, len(TASKS)), FLOOR)
    angle = torch.full((count,), math.nan)
    for task in ("motion-deblur", "defocus-deblur", "super-resolution", "denoise", "dejpeg"):
        k = TASKS.index(task)
        for i in chosen[:, k].nonzero().flatten().tolist():
            here = slice(i, i + 1)
            while True:
                drawn = host.get_state(), device.get_state()
                out, strength, direction = isolated.DEGRADE[task](x[here], Draw(1, host, device))
                severity[here, k] = strength
                if task != "dejpeg" or not near_test(severity[i]):
                    break
            alone = out
            if bool((severity[i] >= 0).sum() > 1):  # what came before matters: JPEG changes noise as much as noise did
                host.set_state(drawn[0])
                device.set_state(drawn[1])
                alone = isolated.DEGRADE[task](clean[here], Draw(1, host, device)).pixels
            error = (alone.clamp(0, 1) - clean[here]).square().mean().cpu()
            harm[here, k] = (10 * error.clamp(min=1e-9).log10()).clamp(min=FLOOR)
            x[here] = out
            if task == "motion-deblur":
                angle[here] = direction
    near = torch.tensor([near_test(s) for s in severity])  # those that end before the file
    x[near], severity[near], harm[near], angle[near] = clean[near], ABSENT, FLOOR, math.nan
    return Mixture(operators.round8(x), severity, harm, angle)


def _choose(count: int, host: torch.Generator) -> Tensor:
    """Which tasks each picture gets: B x 5."""
    many = torch.multinomial(torch.tensor(COUNT_ODDS), count, True, generator=host)
    order = torch.rand(count, 4, generator=host).argsort(dim=1).argsort(dim=1)
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


def near_test(severity: Tensor) -> bool:
    """Whether a draw (5) has the very tasks of a test recipe, each at nearly its strength."""
    return bool(((severity - _TESTS).abs().amax(dim=1) < NEAR).any())
