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
REACH = 64  # pixels from which a filter takes; 0.01 dB are lost against one without end, 0.1 with 48, 0.2 with 32
SIDE = 2 * REACH + 1  # of its kernel


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
    the pixels' values. Its kernel fades out over REACH pixels, so that what lies farther away, beyond a tile's border
    for one, is not seen. severity: B, 0 to 1; angle: B, radians."""
    height, width = pixels.shape[-2:]
    x = _mirrored((pixels + 1) / 2, REACH)
    rows, columns = x.shape[-2:]
    light, values = torch.fft.rfft2(x.square()), []
    for kernel in _kernels(task, severity, angle):
        placed = F.pad(kernel, (0, columns - SIDE, 0, rows - SIDE)).roll((-REACH, -REACH), (1, 2))
        values.append(torch.fft.irfft2(light * torch.fft.rfft2(placed)[:, None], s=(rows, columns)))
    sharp = torch.cat(values, dim=1)[..., REACH : REACH + height, REACH : REACH + width]
    return sharp.clamp(0, 1).sqrt() * 2 - 1 - pixels.repeat(1, len(REGULARISATION), 1, 1)


def _mirrored(x: Tensor, margin: int) -> Tensor:
    """With `margin` more pixels on each side: mirrored, as edges would ring otherwise, and repeated where too small."""
    down, right = min(margin, x.shape[-2] - 1), min(margin, x.shape[-1] - 1)
    x = F.pad(x, (right, right, down, down), "reflect")
    return F.pad(x, (margin - right, margin - right, margin - down, margin - down), "replicate")


def _kernels(task: str, severity: Tensor, angle: Tensor) -> list[Tensor]:
    """The filter's kernel for each regularisation, B x SIDE x SIDE, centred, with a sum of one."""
    low, high = EXTENTS[task]
    n = 4 * REACH
    h = transfer(task, low * (high / low) ** severity, angle, n, n)
    fy, fx = torch.fft.fftfreq(n, device=h.device)[:, None], torch.fft.rfftfreq(n, device=h.device)
    ramp = torch.arange(-REACH, REACH + 1, device=h.device)
    fade = (math.pi / 2 * (torch.hypot(ramp[:, None].float(), ramp.float()) / (REACH + 1)).clamp(max=1)).cos().square()
    kernels = []
    for r in REGULARISATION:
        whole = torch.fft.irfft2(h / (h.square() + r * (fy**2 + fx**2)), s=(n, n))
        kernel = whole.roll((REACH, REACH), (1, 2))[:, :SIDE, :SIDE] * fade
        kernels.append(kernel / kernel.sum(dim=(1, 2), keepdim=True))
    return kernels
