"""Blur kernels, batched: each function returns B x k x k kernels (k odd) that sum to one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

PATH_POINTS = 256  # per path; at 31 px that is a point every 0.12 px, far below what splatting resolves


def _grid(half: int, like: Tensor) -> tuple[Tensor, Tensor]:
    r = torch.arange(-half, half + 1, dtype=torch.float32, device=like.device)
    return r[:, None], r[None, :]


def _normalise(kernel: Tensor) -> Tensor:
    return kernel / kernel.sum(dim=(-2, -1), keepdim=True)


def disc(radius: Tensor) -> Tensor:
    """Defocus by a round aperture. radius: B, in pixels. The edge is anti-aliased over one pixel."""
    y, x = _grid(math.ceil(float(radius.max()) + 0.5), radius)
    return _normalise((radius[:, None, None] + 0.5 - torch.hypot(y, x)).clamp(0, 1))


def polygon(radius: Tensor, blades: Tensor, rotation: Tensor) -> Tensor:
    """Defocus by an aperture of `blades` straight edges. radius (B, px) is that of the disc of equal area;
    rotation: B, radians."""
    n = blades.to(radius.dtype)
    apothem = radius * torch.sqrt(math.pi / (n * torch.tan(math.pi / n)))
    corner = apothem / torch.cos(math.pi / n)
    y, x = _grid(math.ceil(float(corner.max()) + 0.5), radius)
    sector = (2 * math.pi / n)[:, None, None]
    angle = torch.atan2(y, x) - rotation[:, None, None]
    # distance from the centre along the normal of the edge whose sector the pixel lies in
    inside = torch.hypot(y, x) * torch.cos(torch.remainder(angle, sector) - sector / 2)
    return _normalise((apothem[:, None, None] + 0.5 - inside).clamp(0, 1))


def gaussian(sigma: Tensor) -> Tensor:
    """Gaussian blur. sigma: B, in pixels; cut at four sigma."""
    y, x = _grid(max(1, math.ceil(4 * float(sigma.max()))), sigma)
    return _normalise(torch.exp(-(y**2 + x**2) / (2 * sigma[:, None, None] ** 2)))


def arc(length: Tensor, angle: Tensor, bend: Tensor | None = None) -> Tensor:
    """Points of a path of constant speed: a straight line, or an arc that turns by `bend` in all.

    length: B, pixels; angle, bend: B, radians (angle counts counter-clockwise, rows pointing down).
    Returns B x N x 2 (row, column), centred on its mean."""
    s = (torch.arange(PATH_POINTS, dtype=torch.float32, device=length.device) + 0.5) / PATH_POINTS - 0.5
    turn = torch.zeros_like(length) if bend is None else bend
    heading = angle[:, None] + turn[:, None] * s
    step = length[:, None] / PATH_POINTS
    path = torch.stack((-(step * heading.sin()).cumsum(1), (step * heading.cos()).cumsum(1)), dim=-1)
    return path - path.mean(dim=1, keepdim=True)


def shake(extent: Tensor, generator: torch.Generator) -> Tensor:
    """Points of a hand's tremble: four random cosine modes, amplitudes falling with the square of their
    frequency, scaled so that no two points lie further apart than `extent` (B, px). Returns B x N x 2."""
    modes = torch.arange(1, 5, dtype=torch.float32)
    s = (torch.arange(PATH_POINTS, dtype=torch.float32) + 0.5) / PATH_POINTS
    amplitude = torch.randn(extent.shape[0], 2, 4, generator=generator) / modes**2
    path = torch.einsum("bdm,mn->bnd", amplitude, torch.cos(math.pi * modes[:, None] * s)).to(extent.device)
    path = path - path.mean(dim=1, keepdim=True)
    spread = torch.cdist(path[:, ::8], path[:, ::8]).amax(dim=(1, 2))
    return path * (extent / spread)[:, None, None]


def direction(path: Tensor) -> Tensor:
    """The direction in which a path (B x N x 2) extends most, B, radians modulo pi (as `arc` counts them)."""
    y, x = (path - path.mean(dim=1, keepdim=True)).unbind(dim=-1)
    angle = torch.atan2(-2 * (x * y).mean(dim=1), (x * x - y * y).mean(dim=1)) / 2
    return angle.remainder(math.pi)


def splat(path: Tensor) -> Tensor:
    """Render paths (B x N x 2, row and column offsets in pixels) as kernels by bilinear splatting, which
    keeps the centre of mass exact below a pixel."""
    half = math.ceil(float(path.abs().max())) + 1
    size = 2 * half + 1
    p = path + half
    corner = p.floor()
    frac = p - corner
    cell = corner.long()
    kernel = torch.zeros(path.shape[0], size * size, device=path.device)
    for dy in (0, 1):
        for dx in (0, 1):
            weight = (frac[..., 0] if dy else 1 - frac[..., 0]) * (frac[..., 1] if dx else 1 - frac[..., 1])
            kernel.scatter_add_(1, (cell[..., 0] + dy) * size + cell[..., 1] + dx, weight)
    return _normalise(kernel.view(-1, size, size))
