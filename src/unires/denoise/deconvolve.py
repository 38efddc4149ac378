"""What deconvolution makes of a photo, given how far it is blurred: a second look at the condition that the network
is shown beside it. A network that has to find a blur and undo it in one pass does neither well. Deconvolution that is
told the blur undoes what can be undone; one that knows that photos are smooth but for edges rings little. It leaves
flattened textures and traces of noise, which networks do better."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

EXTENTS = {"motion-deblur": (1.5, 31.0), "defocus-deblur": (0.3, 6.0)}
"""Pixels at severity 0 and 1 (on a logarithmic scale between): a path's length, an aperture's radius."""
ANSWERS = ((300.0, 1.0), (4000.0, 1.6))
"""(how much the photo counts beside the prior, how large gradients are that don't), of each answer."""
ROUNDS = (4.0, 16.0, 64.0, 256.0)  # how closely the answer's gradients follow the shrunken ones, more each time
REACH = 64  # pixels from which a filter takes
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
    """B x 3 x H x W in [-1, 1] to B x 6 x H x W: more and less regularised, each as the change that it makes.

    Least `m |h * x - y|^2` plus a penalty on gradients that grows slower than they do, by half-quadratic splitting
    (Krishnan and Fergus 2009, "Fast image deconvolution using hyper-Laplacian priors", section 2): in turn, gradients
    are shrunk, those of all channels together and large ones hardly (the garrote, Gao 1998), and the picture is solved
    for by linear filters of the photo and of what is left of the gradients. In light, that is taken to be the square of
    the pixels' values. severity: B, 0 to 1; angle: B, radians."""
    height, width = pixels.shape[-2:]
    y = _mirrored((pixels + 1) / 2, REACH).square()
    rows, columns = y.shape[-2:]
    seen, out = torch.fft.rfft2(y), []
    for (_, least), filters in zip(ANSWERS, _filters(task, severity, angle), strict=True):
        x = y
        for follow, kernels in zip(ROUNDS, filters, strict=True):
            right, down = x.roll(-1, -1).sub_(x), x.roll(-1, -2).sub_(x)
            size = right.square().addcmul_(down, down).sum(dim=1, keepdim=True)
            kept = (1 - (least * follow ** (-1 / 1.2)) ** 2 / size.clamp(min=1e-12)).clamp_(min=0)
            right.mul_(kept)
            down.mul_(kept)
            bend = right.roll(1, -1).sub_(right).add_(down.roll(1, -2)).sub_(down)
            placed = F.pad(kernels, (0, columns - SIDE, 0, rows - SIDE)).roll((-REACH, -REACH), (-2, -1))
            of_photo, of_bend = torch.fft.rfft2(placed).split(1, dim=1)
            x = torch.fft.irfft2((seen * of_photo).addcmul_(torch.fft.rfft2(bend), of_bend), s=(rows, columns))
        out.append(x[..., REACH : REACH + height, REACH : REACH + width].clamp(0, 1).sqrt() * 2 - 1 - pixels)
    return torch.cat(out, dim=1)


def _mirrored(x: Tensor, margin: int) -> Tensor:
    """With `margin` more pixels on each side: mirrored, as edges would ring otherwise, and repeated where too small."""
    down, right = min(margin, x.shape[-2] - 1), min(margin, x.shape[-1] - 1)
    x = F.pad(x, (right, right, down, down), "reflect")
    return F.pad(x, (margin - right, margin - right, margin - down, margin - down), "replicate")


def _filters(task: str, severity: Tensor, angle: Tensor) -> list[list[Tensor]]:
    """For each answer and round the kernels that the photo and the bend are filtered with, B x 2 x SIDE x SIDE,
    centred: they solve `(m H^2 + f D^2) x = m H y + f bend`, with `D^2` of the two differences. They fade out over
    REACH pixels, so that what lies farther away, beyond a tile's border for one, is hardly seen, and rings less."""
    low, high = EXTENTS[task]
    n = 4 * REACH
    h = transfer(task, low * (high / low) ** severity, angle, n, n)
    fy, fx = torch.fft.fftfreq(n, device=h.device)[:, None], torch.fft.rfftfreq(n, device=h.device)
    slope = 4 * ((math.pi * fy).sin().square() + (math.pi * fx).sin().square())
    ramp = torch.arange(-REACH, REACH + 1, device=h.device)
    fade = (math.pi / 2 * (torch.hypot(ramp[:, None].float(), ramp.float()) / (REACH + 1)).clamp(max=1)).cos().square()

    def kernels(trust: float, follow: float) -> Tensor:
        solved = torch.stack((trust * h, torch.full_like(h, follow)), dim=1) / (trust * h**2 + follow * slope)[:, None]
        k: Tensor = torch.fft.irfft2(solved, s=(n, n)).roll((REACH, REACH), (-2, -1))[..., :SIDE, :SIDE] * fade
        k[:, 0] /= k[:, 0].sum(dim=(1, 2), keepdim=True)  # flat surfaces stay as bright as they are
        return k

    return [[kernels(trust, follow) for follow in ROUNDS] for trust, _ in ANSWERS]
