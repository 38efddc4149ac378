"""How an estimate of the sharp photo is kept to the small one that it was enlarged from.

A photo c that was enlarged, c = U s, holds the small one: s = U^+ c. Whatever the sharp photo is, reduced it should be
s again, D x = s. A network keeps to that only nearly. So what is missing is added, and nothing else is touched:

    x_hat  <-  x_hat + D^+ (s - D x_hat)                                                                 (3)

the range of D from the photo, its null space from the network (Wang et al. 2023, "Zero-shot image restoration using
denoising diffusion null-space model", eq. 8). Which kernel D reduced the photo by nobody tells: it is taken to be the
one that the estimate, which was made without it, contradicts least in the small photo's finest detail."""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from unires.compose.grid import KERNEL, Axis, Grid
from unires.degrade import resample

REDUCING = (KERNEL, "area", "lanczos")  # by which of them a photo may have been reduced; a lens looks like bilinear
LESS = 0.1  # than the usual one another has to be contradicted by so much
RIDGE, LOST = 0.01, 1e-4  # of the largest eigenvalue of D D^T and U^T U: so much is added, as D and U lose things
SEEN = 1e-6  # share of a pixel from which a small one has one in it
CUT = 3  # small pixels at a part's end that can't be told from the part
KEPT = 16  # axes whose matrices are remembered: tiles of a column share one


def consistent(estimate: Tensor, condition: Tensor, grid: Grid) -> Tensor:
    """Equation (3): estimate and condition, B x C x H x W (any affine scale of values), to an estimate. Small pixels
    whose kernel is cut by a part's border are left as they are, so parts should overlap."""
    return _kept(estimate, condition, grid)[0]


def reduced_by(estimate: Tensor, condition: Tensor, grid: Grid) -> str:
    """Which kernel D the estimate contradicts least: what one part of a photo tells, other parts can be kept to."""
    return _kept(estimate, condition, grid)[1]


def _kept(estimate: Tensor, condition: Tensor, grid: Grid) -> tuple[Tensor, str]:
    down, across = zip(grid[:2], estimate.shape[-2:], strict=True)
    (top, solve), (left, solve_x) = shrunken(*down, grid.kernel), shrunken(*across, grid.kernel)
    small = solve.to(estimate) @ condition @ solve_x.to(estimate).T
    least, best, chosen = math.inf, estimate, KERNEL
    for kernel in (grid.reduced_by,) if grid.reduced_by else REDUCING:
        rows, reduce, undo = _reducing(*down, top, len(solve), kernel)
        columns, reduce_x, undo_x = _reducing(*across, left, len(solve_x), kernel)
        missing = small[..., rows, :][..., columns] - reduce.to(estimate) @ estimate @ reduce_x.to(estimate).T
        fine = sum(float(missing.detach().diff(dim=d).square().sum()) for d in (-1, -2)) / max(1, missing.numel())
        fine *= 1 - LESS if kernel == KERNEL else 1
        if fine < least:
            least, best, chosen = fine, estimate + undo.to(estimate) @ missing @ undo_x.to(estimate).T, kernel
    return best, chosen


@functools.lru_cache(maxsize=KEPT)
def shrunken(axis: Axis, length: int, kernel: str) -> tuple[int, Tensor]:
    """U^+ on a part so long, k x length, of the k small pixels whose kernel reaches it; and the first one's number."""
    small, large, start = axis
    first, enlarge = resample.weights(small, large, kernel, start, start + length)
    used = (enlarge.abs() > SEEN).any(dim=0).nonzero()
    low, high = int(used[0]), int(used[-1]) + 1
    solve = inverse(enlarge[:, low:high].double(), LOST)
    return first + low, (solve / solve.sum(dim=1, keepdim=True)).float()  # flat surfaces stay as bright as they are


def well_told(axis: Axis, length: int, kernel: str) -> Tensor:
    """`shrunken`, but for the small pixels at cut ends: what lies beyond the part has a share in them."""
    _, solve = shrunken(axis, length, kernel)
    return solve[CUT * (axis.start > 0) : len(solve) - CUT * (axis.start + length < axis.large)]


@functools.lru_cache(maxsize=KEPT * len(REDUCING))
def _reducing(axis: Axis, length: int, first: int, count: int, kernel: str) -> tuple[Tensor, Tensor, Tensor]:
    """Of `count` small pixels from `first` on: the numbers of those which a part so long has whole, k, by the kernel
    that made them; D and D^+ of these, k x length and length x k."""
    small, large, start = axis
    left, reduce = resample.weights(large, small, kernel, first, first + count)
    place = torch.arange(left, left + reduce.shape[1])
    cut = (reduce[:, (place < start) | (place >= start + length)] != 0).any(dim=1)
    reduce = F.pad(reduce, (left - start, start + length - left - reduce.shape[1])).double()[~cut]
    return (~cut).nonzero()[:, 0], reduce.float(), inverse(reduce.T, RIDGE).T.float()


def inverse(m: Tensor, ridge: float) -> Tensor:
    """The pseudoinverse of n x k, k <= n, with a share of the largest eigenvalue of its square added to all; or of each
    of B x n x k."""
    square = m.mT @ m
    sums = square.abs().sum(dim=-1)  # no eigenvalue is larger than their largest
    most = sums.amax(dim=-1) if sums.shape[-1] else sums.sum(dim=-1)
    out: Tensor = torch.linalg.solve(square + ridge * most[..., None, None] * torch.eye(sums.shape[-1]).to(m), m.mT)
    return out
