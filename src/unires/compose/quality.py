"""How good a restored picture is, without knowing the truth. A quality function takes B x 3 x H x W in [0, 1] and
returns B numbers, more being better; if it is to be climbed (`search.optimised`), it is differentiable."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from unires.compose.router import HARM_UNIT, Router
from unires.compose.spectrum import spectra
from unires.errors import UniresError

Quality = Callable[[Tensor], Tensor]
INVISIBLE = 1e-5  # squared error (50 dB) that nobody sees


def remaining_harm(router: Router) -> Quality:
    """The error that is left, in dB below full scale, as the router reads it: each degradation's harm by how likely
    it is there. Works offline; the router has seen degraded photos, not restored ones, so that it doesn't know
    what a network invents."""

    def quality(pictures: Tensor) -> Tensor:
        presence, _, harm, _ = router.judge(router.look(spectra(pictures)[0]))
        left = (presence.sigmoid() * 10 ** (harm * HARM_UNIT / 10)).sum(dim=1)
        return -10 * (left + INVISIBLE).log10()

    return quality


def from_pyiqa(name: str, device: str = "cpu") -> Quality:
    """A no-reference measure of the package pyiqa (musiq, clipiqa, niqe, ...), most of which may be used for
    non-commercial purposes only. Raises UniresError without the package, or for a measure that needs a reference."""
    try:
        pyiqa: Any = importlib.import_module("pyiqa")
    except ImportError as error:
        raise UniresError(
            "The quality function needs the package pyiqa (licensed for non-commercial use): pip install pyiqa."
        ) from error
    metric = pyiqa.create_metric(name, device=torch.device(device), as_loss=True)
    if metric.metric_mode != "NR":
        raise UniresError(f"{name} compares with a reference, which nobody has of a photo to restore.")
    sign = -1.0 if metric.lower_better else 1.0

    def quality(pictures: Tensor) -> Tensor:
        said: Tensor = sign * metric(pictures.clamp(0, 1)).flatten()
        return said

    return quality
