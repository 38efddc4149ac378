"""Equation (3) for training: many small samples at once, each from its own number of pixels.

What `compose/consistency.py` does to a photo, whose matrices it keeps for its tiles, is done here to a batch whose
samples share no matrices: all are made and solved together, on the samples' device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unires.compose.consistency import LESS, LOST, REDUCING, RIDGE, inverse
from unires.compose.grid import Axis, Grid
from unires.degrade import resample


def kept(estimate: Tensor, condition: Tensor, grids: Sequence[Grid]) -> Tensor:
    """`consistent(estimate, condition, grid)` of each sample and its grid, B x C x H x W float32. The grids: of parts
    of pictures of one size, enlarged by the bicubic kernel."""
    sides = [grid.rows for grid in grids], [grid.columns for grid in grids]
    axes = list(dict.fromkeys(sides[0] + sides[1]))  # of many samples some are the same
    rows, columns = (torch.tensor([axes.index(axis) for axis in side]).to(estimate.device) for side in sides)
    solve, reduce, undo, whole = _matrices(axes, estimate.shape[-1], estimate.device)
    small = solve[rows][:, None] @ condition @ solve[columns][:, None].mT
    with torch.no_grad():
        each = reduce[:, rows][:, :, None], reduce[:, columns][:, :, None]  # kernels x B x 1 x small x large
        known = whole[:, rows][..., None] & whole[:, columns][..., None, :]  # kernels x B x small x small
        missing = small - each[0] @ estimate @ each[1].mT
        fine = sum(_square(missing.diff(dim=d), known.unfold(d, 2, 1).all(dim=-1)) for d in (-1, -2))
        fine = fine / known.sum(dim=(-2, -1)).clamp(min=1)
        best = (fine * torch.tensor([1 - LESS, *[1.0] * (len(REDUCING) - 1)]).to(fine)[:, None]).argmin(dim=0)
    (down, up), (across, back) = ([m[best, side][:, None] for m in (reduce, undo)] for side in (rows, columns))
    missing = (small - down @ estimate @ across.mT) * known[best, torch.arange(len(best))][:, None]
    return estimate + up @ missing @ back.mT


def _square(x: Tensor, where: Tensor) -> Tensor:
    """Kernels x B: the sum of squares of kernels x B x C x h x w where (kernels x B x h x w) it counts."""
    return (x.square().sum(dim=2) * where).sum(dim=(-2, -1))


def _matrices(axes: Sequence[Axis], length: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of each axis U^+, axes x small x length, and by each kernel of REDUCING D, kernels x axes x small x length, D^+,
    and which small pixels the part has whole; of all others the rows are zero."""
    large, most = axes[0].large, max(axis.small for axis in axes)
    small = torch.tensor([float(axis.small) for axis in axes], dtype=torch.float64, device=device)
    seen = torch.tensor([axis.start for axis in axes], device=device)[:, None] + torch.arange(length, device=device)

    def part(m: Tensor) -> Tensor:  # axes x most x large: the columns of each axis' own part
        return m.gather(2, seen[:, None].expand(-1, most, -1))

    solve = inverse(part(resample.enlargements(large, small).mT[:, :most]).mT, LOST)
    total = solve.sum(dim=2, keepdim=True)
    solve = solve / torch.where(total.abs() > 1e-6, total, 1)  # flat surfaces stay as bright as they are
    reduce, undo, whole = [], [], []
    for name in REDUCING:
        kernel = torch.full((len(axes),), resample.KERNELS.index(name), device=device)
        every = resample.reductions(large, small, kernel)[:, :most]
        here = part(every)
        ends = (every != 0).sum(dim=2)
        whole.append((ends > 0) & (ends == (here != 0).sum(dim=2)))
        reduce.append(here * whole[-1][..., None])
        undo.append(inverse(reduce[-1].mT, RIDGE).mT)
    return solve.float(), torch.stack(reduce).float(), torch.stack(undo).float(), torch.stack(whole)
