"""Change of size, as image software does it: separable, with the kernel widened when reducing.

Bilinear, bicubic (a = -0.5) and Lanczos (3 lobes) are those of Pillow; `area` is the exact mean over each new
pixel's footprint (OpenCV's INTER_AREA)."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

KERNELS = ("area", "bilinear", "bicubic", "lanczos")


def _bicubic(x: Tensor) -> Tensor:
    x, a = x.abs(), -0.5
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


@functools.lru_cache(maxsize=512)
def _matrix(old: int, new: int, kernel: str) -> Tensor:
    """The new x old matrix that resamples one axis; rows sum to one."""
    ratio = old / new
    if kernel == "area" and ratio > 1:
        edge = torch.arange(new, dtype=torch.float64)[:, None] * ratio
        pixel = torch.arange(old, dtype=torch.float64)[None, :]
        weight = (torch.minimum(edge + ratio, pixel + 1) - torch.maximum(edge, pixel)).clamp(min=0)
    else:
        stretch = max(ratio, 1.0)
        centre = (torch.arange(new, dtype=torch.float64)[:, None] + 0.5) * ratio
        x = (torch.arange(old, dtype=torch.float64)[None, :] + 0.5 - centre) / stretch
        if kernel == "bicubic":
            weight = _bicubic(x)
        elif kernel == "lanczos":
            weight = torch.where(x.abs() < 3, torch.sinc(x) * torch.sinc(x / 3), torch.zeros_like(x))
        else:  # bilinear; also what `area` means when enlarging
            weight = (1 - x.abs()).clamp(min=0)
    return (weight / weight.sum(dim=1, keepdim=True)).float()


def resize(pixels: Tensor, size: tuple[int, int], kernel: str = "bicubic") -> Tensor:
    """Resample B x C x H x W to B x C x size. Not clipped: bicubic and Lanczos overshoot.

    Raises ValueError for a kernel that is not in KERNELS."""
    if kernel not in KERNELS:
        raise ValueError(f"There is no resampling kernel {kernel!r}; there are {', '.join(KERNELS)}.")
    rows = _matrix(pixels.shape[-2], size[0], kernel).to(pixels)
    columns = _matrix(pixels.shape[-1], size[1], kernel).to(pixels)
    return rows @ (pixels @ columns.T)


def reduced_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """The size of a picture reduced by `scale`, at least one pixel a side."""
    return max(1, math.floor(height / scale + 0.5)), max(1, math.floor(width / scale + 0.5))
