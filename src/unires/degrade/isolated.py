"""Training pairs: each task's own degradation alone, over its whole range.

A function per task turns clean pixels (B x 3 x H x W in [0, 1]) into (degraded pixels, severity). Severity, a B-tensor
from 0 (untouched) to 1 (the end of the range), is what the network may be told. All parameters come from the
generator; noise fields from a second one that lives on the pixels' device."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from unires.degrade import jpeg, kernels, operators, resample

TASKS = ("super-resolution", "motion-deblur", "defocus-deblur", "denoise", "dejpeg")
RANGES = {
    "super-resolution": (1.3, 4.5),  # times reduced
    "motion-deblur": (3.0, 31.0),  # extent in pixels
    "defocus-deblur": (0.6, 6.0),  # radius in pixels
    "denoise": (2.0, 60.0),  # sigma of 255
    "dejpeg": (11.0, 96.0),  # 101 less the quality
}
"""What a task's strength is counted in, and between which strengths it is trained."""
WHOLE_SHARE = 0.25  # of the photos with too few pixels: reduced by 2, 3 or 4, as people do
CLEAN_SHARE = 0.04  # of all pairs: nothing wrong with the photo, so that an expert learns to leave it alone


class Degraded(NamedTuple):
    """Pixels, B x 3 x H x W; how strong the degradation is, B, 0 to 1; the direction of a motion, B, radians (not a
    number for what has none)."""

    pixels: Tensor
    severity: Tensor
    angle: Tensor


def _still(pixels: Tensor, severity: Tensor) -> Degraded:
    return Degraded(pixels, severity, torch.full_like(severity, math.nan))


@dataclass
class Draw:
    """Random parameters for B pictures. plain: which of them get what recipes have, too (straight paths, round
    apertures, white noise, bicubic reduction, one encoder), and none of its many relatives; None: none is bound to."""

    size: int
    host: torch.Generator
    device: torch.Generator
    plain: Tensor | None = None

    def uniform(self, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(self.size, generator=self.host)

    def log_uniform(self, low: float, high: float) -> Tensor:
        return torch.exp(self.uniform(math.log(low), math.log(high)))

    def chance(self, p: float) -> Tensor:
        return torch.rand(self.size, generator=self.host) < p

    def odd(self, p: float) -> Tensor:
        """By chance, but for plain ones never."""
        return self.chance(p) if self.plain is None else self.chance(p) & ~self.plain


Degrade = Callable[[Tensor, Draw], Degraded]


def severity_of(task: str, strength: Tensor) -> Tensor:
    """Position of a strength (what RANGES counts) on a logarithmic scale from half of its lowest (0) to its highest
    (1)."""
    low, high = RANGES[task]
    start = math.log(low / 2)
    return ((strength.log() - start) / (math.log(high) - start)).clamp(0, 1)


def strength_of(task: str, severity: float) -> float:
    """The strength at a severity."""
    low, high = RANGES[task]
    start = math.log(low / 2)
    return math.exp(start + severity * (math.log(high) - start))


def _traced(degrade: Degrade) -> Degrade:
    """Every file has a trace of noise: sigma 0 to 2."""

    def run(x: Tensor, draw: Draw) -> Degraded:
        out = degrade(x, draw)
        trace = draw.uniform(0, 2).to(x)
        return out._replace(pixels=operators.srgb_gaussian_noise(out.pixels, trace, draw.device))

    return run


def _each(where: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(where.view(-1, *[1] * (yes.dim() - 1)), yes, no)


def _centre(kernel: Tensor, size: int) -> Tensor:
    margin = (size - kernel.shape[-1]) // 2
    return torch.nn.functional.pad(kernel, (margin,) * 4)


def super_resolution(x: Tensor, draw: Draw) -> Degraded:
    scale = draw.log_uniform(*RANGES["super-resolution"])
    scale = torch.where(draw.chance(WHOLE_SHARE), scale.round().clamp(2, 4), scale)
    kinds = torch.multinomial(torch.tensor([0.15, 0.15, 0.5, 0.2]), draw.size, True, generator=draw.host)
    if draw.plain is not None:
        kinds = torch.where(draw.plain, resample.KERNELS.index("bicubic"), kinds)
    out = resample.there_and_back(x, scale, kinds, operators.round8)
    return _still(out, severity_of("super-resolution", scale))


def motion(x: Tensor, draw: Draw) -> Degraded:
    low, high = RANGES["motion-deblur"]
    extent = draw.log_uniform(low, high) * 0.5 + draw.uniform(low, high) * 0.5
    angle = draw.uniform(0, math.pi)
    bend = draw.uniform(-math.pi / 2, math.pi / 2) * draw.odd(0.5)
    path = _each(draw.odd(0.35), kernels.shake(extent, draw.host), kernels.arc(extent, angle, bend))
    excess = draw.uniform(0, 4) * draw.odd(0.2)
    out = operators.blur(x, kernels.splat(path).to(x), excess.to(x))
    return Degraded(out, severity_of("motion-deblur", extent), kernels.direction(path))


def defocus(x: Tensor, draw: Draw) -> Degraded:
    radius = draw.log_uniform(*RANGES["defocus-deblur"])
    blades = torch.randint(5, 9, (draw.size,), generator=draw.host)
    shapes = [
        kernels.disc(radius),
        kernels.polygon(radius, blades, draw.uniform(0, math.pi)),
        kernels.gaussian(radius / 2),  # the variance of the disc of that radius
    ]
    size = max(k.shape[-1] for k in shapes)
    disc, polygon, gaussian = (_centre(k, size) for k in shapes)
    kernel = _each(draw.odd(0.55), _each(draw.chance(0.45), polygon, gaussian), disc)
    excess = draw.uniform(0, 4) * draw.odd(0.1)
    return _still(operators.blur(x, kernel.to(x), excess.to(x)), severity_of("defocus-deblur", radius))


def noise(x: Tensor, draw: Draw) -> Degraded:
    white = ~draw.odd(0.45)
    low, high = RANGES["denoise"]
    sigma = draw.log_uniform(low, high) * 0.5 + draw.uniform(low, high) * 0.5
    plain = operators.srgb_gaussian_noise(x, sigma.to(x), draw.device)
    # Brooks et al. 2019, section 3.1: log read noise follows log shot noise along a line
    shot = draw.log_uniform(1e-4, 2e-2)
    log_read2 = 2.18 * shot.log() + 1.2 + 0.26 * torch.randn(draw.size, generator=draw.host)
    read = torch.exp(log_read2 / 2)
    camera = operators.sensor_noise(x, shot.to(x), read.to(x), draw.device)
    # real files: neighbours' noise has a correlation of 0.4 to 0.8 in them, and only 0.5 after demosaicing alone
    brightness = draw.uniform(0.1, 1)
    files = operators.smooth_noise(x, camera, brightness, brightness + draw.uniform(0, 0.8))
    camera = _each(draw.chance(0.7).to(x.device), files, camera)
    out = _each(white.to(x.device), plain, camera)
    strength = ((out.clamp(0, 1) - x) ** 2).mean(dim=(1, 2, 3)).sqrt().cpu() * 255
    return _still(out, severity_of("denoise", torch.where(white, sigma, strength.clamp(min=1))))


def compression(x: Tensor, draw: Draw) -> Degraded:
    quality = draw.uniform(5, 90).round()
    half = draw.chance(0.6)
    twice = draw.odd(0.25)
    first = draw.uniform(20, 95).round()
    shift = torch.randint(0, 8, (2,), generator=draw.host).tolist()
    run = _compress_cuda if x.is_cuda else _compress_cpu
    moved = x.roll(shift, dims=(-2, -1))
    before = run(moved, first, half).roll([-s for s in shift], dims=(-2, -1))
    out = run(_each(twice.to(x.device), before, x), quality, half)
    return _still(out, severity_of("dejpeg", 101 - quality))


def _compress_cpu(x: Tensor, quality: Tensor, half: Tensor) -> Tensor:
    kinds = ["4:2:0" if h else "4:4:4" for h in half.tolist()]
    return jpeg.encode_decode(x, [int(q) for q in quality.tolist()], kinds)


def _compress_cuda(x: Tensor, quality: Tensor, half: Tensor) -> Tensor:
    return jpeg.simulate(x, quality, half.to(x.device))


BLURS: dict[str, Degrade] = {
    "super-resolution": super_resolution,
    "motion-deblur": motion,
    "defocus-deblur": defocus,
}
DEGRADE: dict[str, Degrade] = {
    **{task: _traced(blur) for task, blur in BLURS.items()},
    "denoise": noise,
    "dejpeg": compression,
}


def softened(x: Tensor, draw: Draw) -> Tensor:
    """Each of B clean pictures as one of BLURS leaves it, without noise: what noise or blocks alone are to be taken out
    of, where they lie over a blur."""
    x = x.clone()
    kinds = torch.randint(len(BLURS), (draw.size,), generator=draw.host)
    for kind, blur in enumerate(BLURS.values()):
        here = (kinds == kind).nonzero().flatten().to(x.device)
        if len(here):
            x[here] = blur(x[here], Draw(len(here), draw.host, draw.device)).pixels.clamp(0, 1)
    return x


def pairs(x: Tensor, task: str, host: torch.Generator, device: torch.Generator) -> Degraded:
    """Degrade clean pixels x (B x 3 x H x W) for one task; the result has 8-bit values."""
    draw = Draw(x.shape[0], host, device)
    out, severity, angle = DEGRADE[task](x, draw)
    clean = draw.chance(CLEAN_SHARE)
    out = _each(clean.to(x.device), x, out)
    return Degraded(operators.round8(out), torch.where(clean, torch.zeros_like(severity), severity), angle)
