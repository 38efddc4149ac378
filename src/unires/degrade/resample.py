"""Change of size, as image software does it: separable, with the kernel widened when reducing.

Bilinear, bicubic (a = -0.5) and Lanczos (3 lobes) are those of Pillow; `area` is the exact mean over each new
pixel's footprint (OpenCV's INTER_AREA)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

KERNELS = ("area", "bilinear", "bicubic", "lanczos")
_BLOCK = 512  # pixels a side that are made at once: a whole photo's matrices would be nearly all zeros


class Sliced(Protocol):
    """What tensors are cut from: `shape` is B x C x H x W, and `[..., rows, columns]` gives that part. A tensor is one,
    and so is a picture that is only computed where it is looked at."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, key: Any, /) -> Tensor: ...


def _bicubic(x: Tensor) -> Tensor:
    x, a = x.abs(), -0.5
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def weights(old: int, new: int, kernel: str, start: int, stop: int) -> tuple[int, Tensor]:
    """Of the new x old matrix that resamples one axis: rows `start` to `stop`, and of those the columns that aren't
    zero, with the number of the first. Rows sum to one."""
    ratio = old / new
    stretch = max(ratio, 1.0)
    reach = math.ceil(3 * stretch) + 1
    first = min(max(math.floor(start * ratio) - reach, 0), old - 1)
    end = min(math.ceil(stop * ratio) + reach, old)
    places = torch.arange(start, stop, dtype=torch.float64)[:, None]
    pixel = torch.arange(first, end, dtype=torch.float64)[None, :]
    if kernel == "area" and ratio > 1:
        weight = _overlap(places * ratio, ratio, pixel)
    else:
        weight = _profile((pixel + 0.5 - (places + 0.5) * ratio) / stretch, kernel)
    return first, (weight / weight.sum(dim=1, keepdim=True)).float()


def _overlap(edge: Tensor, ratio: Tensor | float, pixel: Tensor) -> Tensor:
    """How much of each pixel lies between `edge` and `edge + ratio`."""
    return (torch.minimum(edge + ratio, pixel + 1) - torch.maximum(edge, pixel)).clamp(min=0)


def _profile(x: Tensor, kernel: str) -> Tensor:
    if kernel == "bicubic":
        return _bicubic(x)
    if kernel == "lanczos":
        return torch.where(x.abs() < 3, torch.sinc(x) * torch.sinc(x / 3), torch.zeros_like(x))
    return (1 - x.abs()).clamp(min=0)  # bilinear; also what `area` means when enlarging


_small_weights = functools.lru_cache(maxsize=512)(weights)


def resize(pixels: Tensor, size: tuple[int, int], kernel: str = "bicubic") -> Tensor:
    """Resample B x C x H x W to B x C x size. Not clipped: bicubic and Lanczos overshoot.

    Raises ValueError for a kernel that is not in KERNELS."""
    if max(size) <= _BLOCK:
        return part(pixels, size, kernel, slice(0, size[0]), slice(0, size[1]))
    out = pixels.new_empty(*pixels.shape[:2], *size)
    for y in range(0, size[0], _BLOCK):
        for x in range(0, size[1], _BLOCK):
            rows, columns = slice(y, min(y + _BLOCK, size[0])), slice(x, min(x + _BLOCK, size[1]))
            out[..., rows, columns] = part(pixels, size, kernel, rows, columns)
    return out


def part(pixels: Sliced, size: tuple[int, int], kernel: str, rows: slice, columns: slice) -> Tensor:
    """The part `[..., rows, columns]` of `resize(pixels, size, kernel)`; no more of `pixels` is looked at than it
    needs. Raises ValueError as `resize` does."""
    if kernel not in KERNELS:
        raise ValueError(f"There is no resampling kernel {kernel!r}; there are {', '.join(KERNELS)}.")
    (top, down), (left, across) = (
        (_small_weights if old * new <= _BLOCK**2 else weights)(old, new, kernel, *which.indices(new)[:2])
        for old, new, which in zip(pixels.shape[-2:], size, (rows, columns), strict=True)
    )
    x = pixels[..., top : top + down.shape[1], left : left + across.shape[1]]
    return down.to(x) @ (x @ across.to(x).T)


def there_and_back(pixels: Tensor, scale: Tensor, kernel: Tensor, between: Callable[[Tensor], Tensor]) -> Tensor:
    """Each picture reduced by its own factor, with its own kernel, and enlarged to its old size by the bicubic one, all
    of a batch in a few products: small pictures lie in a corner of large ones. What `resize` gives one by one.

    pixels: B x C x H x W; scale: B, at least 1; kernel: B, which of KERNELS; between: what is done to the small
    picture's pixels (zero stays zero)."""
    sides = []
    where = torch.device("cpu") if pixels.device.type == "mps" else pixels.device  # Apple's GPUs have no float64
    for old in pixels.shape[-2:]:
        new = (old / scale.to(where, torch.float64) + 0.5).floor().clamp(min=1)
        sides.append((reductions(old, new, kernel.to(where)).to(pixels), enlargements(old, new).to(pixels)))
    (down, up), (across, back) = sides
    small = between(down[:, None] @ pixels @ across[:, None].mT)
    return up[:, None] @ small @ back[:, None].mT


def reductions(old: int, new: Tensor, kernel: Tensor) -> Tensor:
    """Of each picture the matrix that reduces one axis from `old` to `new` (B), B x old x old; rows from `new` on are
    zero."""
    place, pixel = _places(old, new.device)
    ratio = (old / new).view(-1, 1, 1)
    x = (pixel + 0.5 - (place + 0.5) * ratio) / ratio
    weight = _overlap(place * ratio, ratio, pixel)
    for k, name in enumerate(KERNELS[1:], start=1):
        weight = torch.where((kernel == k).view(-1, 1, 1), _profile(x, name), weight)
    weight = torch.where(place < new.view(-1, 1, 1), weight, 0)
    return weight / weight.sum(dim=2, keepdim=True).clamp(min=1e-9)


def enlargements(old: int, new: Tensor) -> Tensor:
    """Likewise the matrix that enlarges from `new` (B) to `old`; columns from `new` on are zero."""
    place, pixel = _places(old, new.device)
    ratio = (new / old).view(-1, 1, 1)
    weight = torch.where(pixel < new.view(-1, 1, 1), _bicubic(pixel + 0.5 - (place + 0.5) * ratio), 0)
    return weight / weight.sum(dim=2, keepdim=True)


def enlarging(small: Tensor, large: int, start: int, stop: int) -> Tensor:
    """Of the matrices that enlarge one axis from `small` (B) pixels to `large` by the bicubic kernel the rows from
    `start` to `stop`, all at once: B x rows x columns, float64, columns from the first that isn't zero."""
    place = (torch.arange(start, stop, dtype=torch.float64) + 0.5) * (small.double() / large)[:, None] - 0.5
    first = (place[:, :1].floor() - 1).clamp(min=0)
    pixel = first + torch.arange(int((place[:, -1] - place[:, 0]).max()) + 5)
    weight = torch.where(pixel < small[:, None], 1.0, 0.0)[:, None] * _bicubic(pixel[:, None] - place[:, :, None])
    return weight / weight.sum(dim=2, keepdim=True)


def _places(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    ramp = torch.arange(count, dtype=torch.float64, device=device)
    return ramp[:, None], ramp[None, :]


def reduced_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """The size of a picture reduced by `scale`, at least one pixel a side."""
    return max(1, math.floor(height / scale + 0.5)), max(1, math.floor(width / scale + 0.5))
