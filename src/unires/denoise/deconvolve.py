"""What linear deconvolution makes of a photo, given how far it is blurred: a second look at the condition that the
network is shown beside it. A network that has to find a blur and undo it in one pass does neither well; a filter
that is told the blur undoes what can be undone, and leaves noise and ringing, which networks take out well."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

EXTENTS = {"motion-deblur": (1.5, 31.0), "defocus-deblur": (0.3, 6.0)}
"""Pixels at severity 0 and 1 (on a logarithmic scale between): a path's length, an aperture's radius."""
REGULARISATION = (0.03, 0.3)
MARGIN = 48  # pixels that a picture is mirrored by, as its edges would ring otherwise


def transfer(task: str, extent: Tensor, angle: Tensor, height: int, width: int) -> Tensor:
    """A blur's transfer function on the frequencies of `rfft2`, B x height x (width / 2 + 1), real.

    extent: B, pixels; angle: B, radians, of a straight path (counter-clockwise, rows pointing down). A disc's is
    2 J1(a) / a with a = 2 pi r f, a line's sinc(L f); both are smoothed as sampling on pixels does."""
    fy = torch.fft.fftfreq(height, device=extent.device)[None, :, None]
    fx = torch.fft.rfftfreq(width, device=extent.device)[None, None, :]
    size = extent[:, None, None]
    if task == "defocus-deblur":
        f = torch.hypot(fy, fx)
        a = (2 * math.pi * f * size).clamp(min=1e-4)
        disc: Tensor = 2 * torch.special.bessel_j1(a) / a * torch.sinc(f)
        return disc
    along = fx * angle.cos()[:, None, None] - fy * angle.sin()[:, None, None]
    return torch.sinc(size * along) * torch.sinc(fx).square() * torch.sinc(fy).square()


def deconvolve(pixels: Tensor, task: str, severity: Tensor, angle: Tensor) -> Tensor:
    """B x 3 x H x W in [-1, 1] to B x 6 x H x W: less and more regularised, each as the change that it makes.

    Wiener's filter H / (H^2 + r f^2), as photos' power falls with f^2, in light that is taken to be the square of
    the pixels' values. severity: B, 0 to 1; angle: B, radians."""
    height, width = pixels.shape[-2:]
    down, right = min(MARGIN, height - 1), min(MARGIN, width - 1)
    x = F.pad((pixels + 1) / 2, (right, right, down, down), "reflect")
    low, high = EXTENTS[task]
    rows, columns = x.shape[-2:]
    h = transfer(task, low * (high / low) ** severity, angle, rows, columns)[:, None]
    fy, fx = torch.fft.fftfreq(rows, device=x.device)[:, None], torch.fft.rfftfreq(columns, device=x.device)
    light = torch.fft.rfft2(x.square())
    sharp = [  # at f = 0 the filter is one, as H is
        torch.fft.irfft2(light * (h / (h.square() + r * (fy**2 + fx**2))), s=(rows, columns)) for r in REGULARISATION
    ]
    values = torch.cat(sharp, dim=1)[..., down : down + height, right : right + width].clamp(0, 1).sqrt() * 2 - 1
    return values - pixels.repeat(1, len(REGULARISATION), 1, 1)
