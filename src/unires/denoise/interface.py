"""What every denoiser offers, and what it states about itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor


@dataclass(frozen=True)
class Facts:
    """What the layers above need to know about a denoiser, and all that they know."""

    tasks: tuple[str, ...]  # the experts' tasks; "blind" is the dropped task
    channels: int  # of a sample
    reduction: int  # pixels a side of one sample position: 1 in pixel space, 8 for a latent
    multiple: int  # results don't depend on where a tile starts if that is a multiple of so many pixels
    reach: int  # pixels from a border beyond which the border is not seen
    parameters: int
    number_type: str  # what the network computes in
    memory: int = 512  # bytes that predicting takes at its peak, for each pixel of each sample


class Hint(NamedTuple):
    """What an expert is told of its degradation: severity, 0 to 1 of its training range; angle of a motion, radians
    (counter-clockwise, rows pointing down), None where unknown or without meaning."""

    severity: float
    angle: float | None = None


class Denoiser(Protocol):
    """Predicts the clean sample from a noisy one: x_hat = D(z_t, t, c, tau)."""

    @property
    def facts(self) -> Facts: ...

    def encode(self, pixels: Tensor) -> Tensor:
        """B x 3 x H x W in [0, 1] to samples of unit scale (the identity but for scale in pixel space)."""
        ...

    def predict(
        self,
        z: Tensor,
        t: float,
        condition: Tensor | None,
        tasks: Sequence[str],
        hints: Sequence[Hint | None] | None = None,
    ) -> Tensor:
        """x_hat for B samples z at time t in (0, 1]. condition: B encoded pictures, or None for none; tasks: B
        names; hints: B, None where nothing is known."""
        ...

    def decode(self, sample: Tensor) -> Tensor:
        """Samples to pixels in [0, 1] (not clipped)."""
        ...
