"""The conditions that experts work on, made from the degraded photo."""

from __future__ import annotations

from torch import Tensor

from unires.degrade import resample
from unires.denoise.interface import Denoiser


class Conditions:
    """Encoded conditions of one picture (or batch), each made once: `conditions(name, relay)`."""

    def __init__(self, denoiser: Denoiser, pixels: Tensor) -> None:
        """pixels: B x 3 x H x W in [0, 1]."""
        self.denoiser, self.pixels = denoiser, pixels
        self._made: dict[str, Tensor] = {}

    def __call__(self, name: str, relay: Tensor | None) -> Tensor:
        """relay: the estimate of the step before, a sample; in the first step, None, it is the photo."""
        if name == "relay":
            return self("lq", None) if relay is None else relay
        if name not in self._made:
            self._made[name] = self.denoiser.encode(self._reduced(name))
        return self._made[name]

    def _reduced(self, name: str) -> Tensor:
        """The photo, or "DownLQ": reduced by area, enlarged again by bicubic (UniRes, section 3)."""
        if name == "lq":
            return self.pixels
        size = self.pixels.shape[-2], self.pixels.shape[-1]
        small = resample.resize(self.pixels, resample.reduced_size(*size, float(name.removeprefix("down"))), "area")
        return resample.resize(small, size, "bicubic").clamp(0, 1)
