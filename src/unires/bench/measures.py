"""How good a result is: PSNR, SSIM, MS-SSIM, LPIPS on full pictures without a border cut, and how sure a mean is.

Pictures are B x 3 x H x W tensors of sRGB values in [0, 1]; each measure returns one number a picture (B, float64 on
the CPU). Results are clipped and rounded to 8 bits before they get here, as files are (`unires.bench.run`)."""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unires.errors import UniresError, shown
from unires.train.lpips import Lpips

LPIPS_VARIABLE = "UNIRES_LPIPS"
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang, Simoncelli, Bovik 2003, section 3.2
SMALLEST_MS_SSIM = 161  # pixels a side: the window of 11 has to fit in the fifth scale


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """-10 log10 of the mean squared error over all pixels and channels; infinite for identical pictures."""
    return -10 * (a.double() - b.double()).square().flatten(1).mean(dim=1).log10()


def _window(like: Tensor) -> Tensor:
    r = torch.arange(-5, 6, dtype=torch.float64)
    g = torch.exp(-(r**2) / (2 * 1.5**2))
    return (g / g.sum()).to(like)


def _smooth(x: Tensor) -> Tensor:
    g = _window(x)
    b, c, h, w = x.shape
    planes = x.reshape(b * c, 1, h, w)
    return F.conv2d(F.conv2d(planes, g.view(1, 1, -1, 1)), g.view(1, 1, 1, -1)).view(b, c, h - 10, w - 10)


def _ssim_parts(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """(SSIM, its contrast-structure factor), each B x 3: means over the places where the window fits."""
    c1, c2 = 0.01**2, 0.03**2
    ma, mb = _smooth(a), _smooth(b)
    va, vb, vab = _smooth(a * a) - ma * ma, _smooth(b * b) - mb * mb, _smooth(a * b) - ma * mb
    contrast = (2 * vab + c2) / (va + vb + c2)
    both = (2 * ma * mb + c1) / (ma * ma + mb * mb + c1) * contrast
    return both.mean(dim=(2, 3)), contrast.mean(dim=(2, 3))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity as Wang et al. 2004 define it: Gaussian window, 11 x 11, sigma 1.5, data range 1, the
    mean of the three channels. It equals scikit-image's `structural_similarity(a, b, data_range=1, channel_axis=...,
    gaussian_weights=True, sigma=1.5, use_sample_covariance=False)`; that function's default is another window (flat,
    7 x 7), which few papers report. Raises UniresError below 11 pixels a side."""
    if min(a.shape[-2:]) < 11:
        raise UniresError("SSIM needs pictures of at least 11 pixels a side.")
    return _ssim_parts(a.double(), b.double())[0].mean(dim=1).cpu()


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Multi-scale SSIM (Wang, Simoncelli, Bovik 2003, equation 7) over five scales, each the 2 x 2 mean of the one
    before; negative factors count as zero. NaN for pictures under 161 pixels a side, which have no fifth scale."""
    if min(a.shape[-2:]) < SMALLEST_MS_SSIM:
        return torch.full((a.shape[0],), math.nan, dtype=torch.float64)
    x, y = a.double(), b.double()
    product = torch.ones(a.shape[:2], dtype=torch.float64, device=a.device)
    last = len(MS_SSIM_WEIGHTS) - 1
    for i, weight in enumerate(MS_SSIM_WEIGHTS):
        whole, contrast = _ssim_parts(x, y)
        product *= (whole if i == last else contrast).clamp(min=0) ** weight
        if i < last:
            odd = [s % 2 for s in x.shape[-2:]]
            x, y = (F.avg_pool2d(p, 2, padding=odd) for p in (x, y))
    return product.mean(dim=1).cpu()


def find_lpips(option: str | None, device: str = "cpu") -> Lpips | None:
    """LPIPS from the option, else from the environment variable, else None. Raises UniresError for a file that was
    named but is unusable."""
    path = lpips_path(option)
    return Lpips(path, device) if path else None


def lpips_path(option: str | None) -> Path | None:
    """Where the weights are said to be."""
    path = option or os.environ.get(LPIPS_VARIABLE)
    return Path(path) if path else None


class Extra:
    """More measures by their names in the package `pyiqa` (niqe, dists, musiq, ...), if it is installed. It and many of
    its weights are licensed for non-commercial use: see its own pages before a figure leaves the house."""

    def __init__(self, names: Sequence[str] = (), device: str = "cpu") -> None:
        """Raises UniresError for a name that it doesn't know, and if it isn't installed."""
        self.names: tuple[str, ...] = tuple(names)
        self.functions: list[Any] = []
        if not names:
            return
        try:
            pyiqa = importlib.import_module("pyiqa")
        except ImportError as error:
            raise UniresError("pyiqa is not installed (pip install pyiqa; non-commercial licence).") from error
        for name in names:
            try:
                self.functions.append(pyiqa.create_metric(name, device=torch.device(device)))
            except Exception as error:  # it raises what it likes, also for weights that it can't download
                raise UniresError(f"pyiqa has no measure {shown(name)} ready: {str(error).strip()}.") from error

    def __call__(self, out: Tensor, truth: Tensor | None) -> dict[str, float]:
        """By name, for one picture; those that need a truth are NaN without one."""
        values: dict[str, float] = {}
        for name, function in zip(self.names, self.functions, strict=True):
            if getattr(function, "metric_mode", "FR") == "NR":
                values[name] = float(function(out))
            else:
                values[name] = math.nan if truth is None else float(function(out, truth))
        return values


@dataclass(frozen=True)
class Mean:
    """A mean with its 95 % confidence interval: `value` +- `half`, over `count` photos."""

    value: float
    half: float
    count: int

    def __str__(self) -> str:
        return f"{self.value:.2f}" if math.isnan(self.half) else f"{self.value:.2f} ± {self.half:.2f}"


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Mean:
    """The mean and Student's t interval around it; values that are NaN are left out. With fewer than two values the
    half-width is NaN, as nothing is known of the spread."""
    known = [v for v in values if not math.isnan(v)]
    n = len(known)
    if not n:
        return Mean(math.nan, math.nan, 0)
    mean = math.fsum(known) / n
    if n < 2:
        return Mean(mean, math.nan, n)
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in known) / (n - 1))
    return Mean(mean, student_quantile((1 + confidence) / 2, n - 1) * spread / math.sqrt(n), n)


def mean_by_photo(values: Iterable[tuple[object, float]]) -> Mean:
    """Of (photo, value) pairs, several a photo: the mean over photos of each one's own mean, and the interval around
    it. Ten mixtures of one photo are no ten independent ones: what is hard about it is hard in all."""
    own: dict[object, list[float]] = {}
    for photo, value in values:
        if not math.isnan(value):
            own.setdefault(photo, []).append(value)
    return mean_interval([math.fsum(v) / len(v) for v in own.values()])


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> Mean:
    """Mean of the differences photo by photo, with its interval: what is common to both drops out, so that it is far
    narrower than either's own."""
    return mean_interval([a - b for a, b in zip(ours, theirs, strict=True)])


def student_quantile(p: float, freedom: int) -> float:
    """The p-quantile (0.5 < p < 1) of Student's t distribution, by bisection on its distribution function."""
    low, high = 0.0, 1e3 if freedom > 1 else 1e5
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_cdf(middle, freedom) < p else (low, middle)
    return (low + high) / 2


def _student_cdf(t: float, freedom: int) -> float:
    """For t >= 0, in closed form (Abramowitz and Stegun 26.7.3 and 26.7.4): A(t | freedom) / 2 + 1 / 2."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    term, total = (cosine, 0.0) if freedom % 2 else (1.0, 0.0)
    for k in range(3 if freedom % 2 else 2, freedom + 1, 2):
        total += term
        term *= cosine**2 * (k - 1) / k
    if freedom % 2:
        return 0.5 + (angle + sine * total) / math.pi
    return 0.5 + sine * total / 2
