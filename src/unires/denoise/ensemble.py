"""Self-ensemble: the mean of what a denoiser says of a picture turned and mirrored (Timofte et al. 2016, "Seven ways to
improve example-based single image super resolution", section 3.7). Slower by the number of views."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from unires.denoise.interface import Denoiser, Facts, Hint
from unires.errors import OptionError

VIEWS = (1, 2, 4, 8)


class Ensembled:
    """`denoiser` asked about `views` of each picture: as it is, mirrored, upside down, and with its axes swapped."""

    def __init__(self, denoiser: Denoiser, views: int) -> None:
        """Raises OptionError unless views is 1, 2, 4 or 8."""
        if views not in VIEWS:
            raise OptionError(f"An ensemble has 1, 2, 4 or 8 views, not {views}.")
        self.denoiser, self.views = denoiser, views

    @property
    def facts(self) -> Facts:
        return self.denoiser.facts

    def encode(self, pixels: Tensor) -> Tensor:
        return self.denoiser.encode(pixels)

    def decode(self, sample: Tensor) -> Tensor:
        return self.denoiser.decode(sample)

    @torch.inference_mode()
    def predict(
        self,
        z: Tensor,
        t: float,
        condition: Tensor | None,
        tasks: Sequence[str],
        hints: Sequence[Hint | None] | None = None,
    ) -> Tensor:
        """As the interface has it; views run one after the other, so that memory stays what it was."""
        total = torch.zeros_like(z)
        for view in range(self.views):
            seen = None if condition is None else _turned(condition, view)
            told = None if hints is None else [None if hint is None else _turned_hint(hint, view) for hint in hints]
            total += _turned(self.denoiser.predict(_turned(z, view), t, seen, tasks, told), view, back=True)
        return total / self.views


def _turned(x: Tensor, view: int, back: bool = False) -> Tensor:
    """One of the square's eight symmetries: bit 0 mirrors, bit 1 turns upside down, bit 2 swaps the axes."""
    flips = [axis for axis, bit in ((-1, 1), (-2, 2)) if view & bit]
    if view & 4 and not back:
        x = x.transpose(-1, -2)
    x = x.flip(flips) if flips else x
    return x.transpose(-1, -2) if view & 4 and back else x


def _turned_hint(hint: Hint, view: int) -> Hint:
    """With a path's angle as that view shows it (a path has no forward: angles count modulo pi)."""
    if hint.angle is None:
        return hint
    angle = math.pi / 2 - hint.angle if view & 4 else hint.angle
    return hint._replace(angle=-angle if view & 3 in (1, 2) else angle)
