"""What an enlarged photo was made from, and how an estimate of the sharp one is kept to it.

A photo c that was enlarged, c = U s, holds the small one: s = U^+ c. Whatever the sharp photo is, reduced it should be
s again (D x = s, with D the bicubic reduction). A network keeps to that only nearly. So what is missing is added, and
nothing else is touched:

    x_hat  <-  x_hat + D^+ (s - D x_hat)                                                                 (3)

the range of D from the photo, its null space from the network (Wang et al. 2023, "Zero-shot image restoration using
denoising diffusion null-space model", eq. 8). Of the ways to reduce a photo only the bicubic one is assumed: 450 crops
of training photos, reduced so by 1.3 to 4.5, gained 0.36 dB on average, by Lanczos 0.24, by area 0.13, and bilinearly
-0.08.

All matrices work on one axis: pictures are resampled along one, then along the other."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unires.degrade import resample
from unires.degrade.resample import Sliced

ENLARGED = "super-resolution"  # the task whose expert is kept to it
KERNEL = "bicubic"
ENLARGING = ("bicubic", "bilinear", "lanczos")  # by which of them a photo may have been enlarged
RIDGE, LOST = 0.01, 1e-4  # of the largest eigenvalue of D D^T and U^T U: so much is added, as D and U lose things
SIDE = 72  # pixels of the strips that are looked at to find a grid
PLACES = (0.0, 0.38, 1.0)  # where they lie, of the room there is: two sizes have not the same phase in all
RANGE = 1.25  # how far a scale that was read may be off
LEAST_SCALE = 1.2
AROUND = (-6, -5, -4, -3, -2, 2, 3, 4, 5, 6)  # sizes that a true one has to explain lines better than
CLEAR = 3.5  # by so many times what neighbouring sizes differ by, along either axis
ALONE = 1.5  # and by so many times as much as any other
AT_ONCE = 256  # sizes whose matrices are made together
BLOCK = 8  # pixels of JPEG's blocks, which look enlarged where their fine half is lost


class Axis(NamedTuple):
    """`small` pixels became `large`; here the pixel `start` is the first."""

    small: int
    large: int
    start: int = 0


class Grid(NamedTuple):
    """Both axes of an enlarged photo, or of a part of it, and the kernel that enlarged it."""

    rows: Axis
    columns: Axis
    kernel: str = KERNEL

    @property
    def scale(self) -> float:
        """How many times it was enlarged."""
        return math.sqrt(self.rows.large / self.rows.small * self.columns.large / self.columns.small)

    def at(self, top: int, left: int) -> Grid:
        """Of the part whose first pixel that is."""
        return self._replace(rows=self.rows._replace(start=top), columns=self.columns._replace(start=left))


def consistent(estimate: Tensor, condition: Tensor, grid: Grid) -> Tensor:
    """Equation (3): estimate and condition, B x C x H x W (any affine scale of values), to an estimate. Small pixels
    whose kernel is cut by a part's border are left as they are, so parts should overlap."""
    (down, solve, undo), (across, solve_x, undo_x) = (
        tuple(m.to(estimate) for m in _matrices(axis, length, grid.kernel))
        for axis, length in zip(grid[:2], estimate.shape[-2:], strict=True)
    )
    missing = solve @ condition @ solve_x.T - down @ estimate @ across.T
    out: Tensor = estimate + undo @ missing @ undo_x.T
    return out


@functools.lru_cache(maxsize=16)
def _matrices(axis: Axis, length: int, kernel: str) -> tuple[Tensor, Tensor, Tensor]:
    """D, U^+ and D^+ on a part so long: k x length, k x length, length x k, of the k small pixels whose kernel lies
    within it."""
    small, large, start = axis
    first, enlarge = resample.weights(small, large, kernel, start, start + length)
    left, reduce = resample.weights(large, small, KERNEL, first, first + enlarge.shape[1])
    place = torch.arange(left, left + reduce.shape[1])
    cut = (reduce[:, (place < start) | (place >= start + length)] != 0).any(dim=1)
    reduce = F.pad(reduce, (left - start, start + length - left - reduce.shape[1])).double()[~cut]
    solve, undo = _inverse(enlarge.double(), LOST)[~cut], _inverse(reduce.T, RIDGE).T
    solve /= solve.sum(dim=1, keepdim=True)  # flat surfaces stay as bright as they are
    return reduce.float(), solve.float(), undo.float()


def _inverse(m: Tensor, ridge: float) -> Tensor:
    """The pseudoinverse of n x k, k <= n, with a share of the largest eigenvalue of its square added to all."""
    square = m.T @ m
    most = float(square.abs().sum(dim=1).max()) if len(square) else 0.0  # no eigenvalue is larger
    out: Tensor = torch.linalg.solve(square + ridge * most * torch.eye(len(square)).to(m), m.T)
    return out


def find(picture: Sliced, scale: float, compressed: bool = False) -> Grid | None:
    """Which small picture a picture (1 x 3 x H x W in [0, 1]) was enlarged from, about `scale` times: that by whose
    pixels lines are explained much better than by a few more or less, in both directions, even under noise. None where
    there is none, or where it can't be told; compressed: by JPEG, whose blocks hide sizes that fit them."""
    height, width = picture.shape[-2:]
    if scale < LEAST_SCALE or min(height, width) < SIDE:
        return None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a thousand small factorisations: waking other threads takes longer than each
    try:
        return _found(picture, scale, compressed)
    finally:
        torch.set_num_threads(threads)


def _found(picture: Sliced, scale: float, compressed: bool) -> Grid | None:
    height, width = picture.shape[-2:]
    down: list[tuple[int, Tensor]] = []
    across: list[tuple[int, Tensor]] = []
    for place in PLACES:
        top, left = (int(place * (side - SIDE)) for side in (height, width))
        upright = picture[..., top : top + SIDE, :width][0].transpose(0, 1).flatten(1).double()
        lying = picture[..., :height, left : left + SIDE][0].permute(2, 0, 1).flatten(1).double()
        down.append((top, upright @ upright.T))
        across.append((left, lying @ lying.T))
    tall, wide = _clearer(down, height, scale, compressed), _clearer(across, width, scale, compressed)
    pairs = [(y + wide[n], min(y, wide[n]), m, n) for m, y in tall.items()
             for n in range(round(m * width / height) - 1, round(m * width / height) + 2) if n in wide]  # fmt: skip
    if not pairs:
        return None
    together, least, *size = max(pairs)
    if least < CLEAR or together < ALONE * max((p[0] for p in pairs if list(p[2:]) != size), default=0.0):
        return None
    rows, columns = Axis(size[0], height), Axis(size[1], width)
    off = {kernel: _off(down, rows, kernel) * _off(across, columns, kernel) for kernel in ENLARGING}
    return Grid(rows, columns, min(off, key=off.__getitem__))


def _clearer(strips: list[tuple[int, Tensor]], large: int, scale: float, compressed: bool) -> dict[int, float]:
    """Of sizes along one axis how much better they explain the lines than their neighbours do; of each few neighbours
    the best. strips: the first pixel's number, and the SIDE x SIDE products of lines."""
    edge = max(AROUND)
    sizes = range(int(large / scale / RANGE) - edge, int(large / max(scale / RANGE, LEAST_SCALE)) + 1 + edge)
    off: list[float] = []
    for some in torch.split(torch.tensor(sizes), AT_ONCE):
        every = [resample.enlarging(some, large, start, start + SIDE) for start, _ in strips]
        off += [_left(matrices, strips) for matrices in zip(*every, strict=True)]
    curve = torch.tensor(off).log()
    usual = 1.48 * float(((curve[:-2] + curve[2:]) / 2 - curve[1:-1]).abs().median()) + 1e-4
    inner = range(edge, len(sizes) - edge)
    dip = {i: float(curve[[i + k for k in AROUND]].median() - curve[i]) / usual for i in inner}
    best = [i for i in inner if dip[i] == max(dip.get(i + k, 0.0) for k in (*AROUND, -1, 0, 1))]
    return {sizes[i]: dip[i] for i in best if not (compressed and _fits_blocks(sizes[i], large))}


def _fits_blocks(small: int, large: int) -> bool:
    """Whether a block of JPEG has a whole number of small pixels, to a pixel and a half on the whole."""
    return abs(math.remainder(BLOCK * small / large, 1)) < 1.5 * BLOCK / large


def _off(strips: list[tuple[int, Tensor]], axis: Axis, kernel: str) -> float:
    """The mean square of what an axis' small pixels don't explain of the lines."""
    small, large, _ = axis
    return _left([resample.weights(small, large, kernel, y, y + SIDE)[1].double() for y, _ in strips], strips)


def _left(matrices: Sequence[Tensor], strips: list[tuple[int, Tensor]]) -> float:
    """Likewise; matrices: of each strip, from small pixels to its own."""
    left = freedom = 0.0
    for matrix, (_, products) in zip(matrices, strips, strict=True):
        basis = torch.linalg.qr(matrix[:, (matrix != 0).any(dim=0)]).Q
        left += float(products.trace() - ((products @ basis) * basis).sum())
        freedom += SIDE - basis.shape[1]
    return max(left, 1e-9) / freedom
