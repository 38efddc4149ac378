"""What an enlarged photo was made from, found in its lines.

A photo that was enlarged, c = U s, holds the small one. Lines of it are explained by as many small pixels as there
were, and much worse by a few more or less; noise is as far from all of these. All matrices work on one axis: pictures
are resampled along one, then along the other. What it is good for says `consistency.py`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unires.degrade import resample
from unires.degrade.jpeg import TO_YCC
from unires.degrade.resample import Sliced

ENLARGED = "super-resolution"  # the task whose degradation it is
KERNEL = "bicubic"
ENLARGING = (KERNEL, "bilinear", "lanczos")  # by which of them a photo may have been enlarged
SIDE = 72  # pixels of the strips that are looked at to find a grid
PLACES = (0.0, 0.38, 1.0)  # where they lie, of the room there is: two sizes have not the same phase in all
RANGE = 1.25  # how far a scale that was read may be off
LEAST_SCALE = 1.2
AROUND = (-6, -5, -4, -3, -2, 2, 3, 4, 5, 6)  # sizes that a true one has to explain lines better than
CLEAR = 3.5  # by so many times what neighbouring sizes differ by, along either axis
CLEAR_ENOUGH = 2.5  # of photos that seem to have been enlarged anyway
ALONE = 1.5  # and by so many times as much as any other
BETTER = 0.008  # another kernel than the usual one explains lines by so much: at x2, under noise, two do equally well
AT_ONCE = 256  # sizes whose matrices are made together
MEAN = (1 / 3, 1 / 3, 1 / 3)  # of colours, in which noise hides least,
LUMA = TO_YCC[0]  # and which JPEG hasn't enlarged itself
BLOCK, HALF = 8, 4  # pixels of JPEG's blocks, which look enlarged where their fine half is lost
HIDDEN = (3, 5, 6, 7)  # small pixels in a block: sizes that can't be told from such blocks,
BEYOND = 0.45  # and by how much half the size is to be better than they are, along both axes together (logarithms)
BLOCKS, AT_MOST = 0.3, 1.8  # how much blocks count beside neighbouring sizes, and how much better they may do

Strip = tuple[int, Tensor]  # the number of its first pixel, and the SIDE x SIDE products of its lines


class Axis(NamedTuple):
    """`small` pixels became `large`; here the pixel `start` is the first."""

    small: int
    large: int
    start: int = 0


class Grid(NamedTuple):
    """Both axes of an enlarged photo, or of a part of it, the kernel that enlarged it, and the one that reduced it
    before, if that is settled."""

    rows: Axis
    columns: Axis
    kernel: str = KERNEL
    reduced_by: str = ""

    @property
    def scale(self) -> float:
        """How many times it was enlarged."""
        return math.sqrt(self.rows.large / self.rows.small * self.columns.large / self.columns.small)

    def at(self, top: int, left: int) -> Grid:
        """Of the part whose first pixel that is."""
        return self._replace(rows=self.rows._replace(start=top), columns=self.columns._replace(start=left))


def find(picture: Sliced, scale: float, compressed: bool = False, likely: bool = False) -> Grid | None:
    """Which small picture a picture (1 x 3 x H x W in [0, 1]) was enlarged from, about `scale` times: that by whose
    pixels lines are explained much better than by a few more or less, in both directions, even under noise. None where
    there is none, or where it can't be told; compressed: by JPEG, whose blocks hide sizes that fit them; likely: that
    it was enlarged at all, so that less is enough to tell from what."""
    height, width = picture.shape[-2:]
    if scale < LEAST_SCALE or min(height, width) < SIDE:
        return None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a thousand small factorisations: waking other threads takes longer than each
    try:
        return _found(picture, scale, compressed, CLEAR_ENOUGH if likely else CLEAR)
    finally:
        torch.set_num_threads(threads)


def _found(picture: Sliced, scale: float, compressed: bool, clear: float) -> Grid | None:
    height, width = picture.shape[-2:]
    share = torch.tensor(LUMA if compressed else MEAN).double()
    down: list[Strip] = []
    across: list[Strip] = []
    for place in PLACES:
        top, left = (int(place * (side - SIDE)) for side in (height, width))
        upright = torch.einsum("cyx,c->yx", picture[..., top : top + SIDE, :width][0].cpu().double(), share)
        lying = torch.einsum("cyx,c->xy", picture[..., :height, left : left + SIDE][0].cpu().double(), share)
        down.append((top, upright @ upright.T))
        across.append((left, lying @ lying.T))
    tall, wide = _clearer(down, height, scale, compressed), _clearer(across, width, scale, compressed)
    pairs = [(y + wide[n], min(y, wide[n]), m, n) for m, y in tall.items()
             for n in range(round(m * width / height) - 1, round(m * width / height) + 2) if n in wide]  # fmt: skip
    if not pairs:
        return None
    together, least, *size = max(pairs)
    if least < clear or together < ALONE * max((p[0] for p in pairs if list(p[2:]) != size), default=0.0):
        return None
    rows, columns = Axis(size[0], height), Axis(size[1], width)
    fits = compressed and _in_a_block(rows) == HALF
    if fits and _beyond_blocks(down, rows) + _beyond_blocks(across, columns) < BEYOND:
        return None
    # blocks without a fine half look like the sharpest kernel's doing
    kernels = (KERNEL,) if compressed else ENLARGING
    off = {kernel: _off(down, rows, kernel) * _off(across, columns, kernel) for kernel in kernels}
    off[KERNEL] *= 1 - BETTER
    return Grid(rows, columns, min(off, key=off.__getitem__))


def _clearer(strips: list[Strip], large: int, scale: float, compressed: bool) -> dict[int, float]:
    """Of sizes along one axis how much better they explain the lines than their neighbours do; of each few neighbours
    the best."""
    edge = max(AROUND)
    sizes = range(int(large / scale / RANGE) - edge, int(large / max(scale / RANGE, LEAST_SCALE)) + 1 + edge)
    curve = _curve(strips, large, sizes)
    usual = 1.48 * float(((curve[:-2] + curve[2:]) / 2 - curve[1:-1]).abs().median()) + 1e-4
    inner = range(edge, len(sizes) - edge)
    dip = {i: float(curve[[i + k for k in AROUND]].median() - curve[i]) / usual for i in inner}
    best = [i for i in inner if dip[i] == max(dip.get(i + k, 0.0) for k in (*AROUND, -1, 0, 1))]
    return {sizes[i]: dip[i] for i in best if not (compressed and _in_a_block(Axis(sizes[i], large)) in HIDDEN)}


def _curve(strips: list[Strip], large: int, sizes: Sequence[int]) -> Tensor:
    """The log mean square of what each of so many small pixels don't explain of the lines."""
    off: list[float] = []
    for some in torch.split(torch.tensor(sizes), AT_ONCE):
        every = [resample.enlarging(some, large, start, start + SIDE) for start, _ in strips]
        off += [_left(matrices, strips) for matrices in zip(*every, strict=True)]
    return torch.tensor(off).log()


def _in_a_block(axis: Axis) -> int:
    """How many small pixels a block of JPEG has; 0 where that is no whole number (to a pixel and a half on the
    whole)."""
    count = BLOCK * axis.small / axis.large
    return round(count) if abs(math.remainder(count, 1)) < 1.5 * BLOCK / axis.large else 0


def _beyond_blocks(strips: list[Strip], axis: Axis) -> float:
    """How much better half as many pixels explain the lines than a few more or less do, and than blocks do of which
    JPEG has kept the coarse half alone."""
    curve = _curve(strips, axis.large, [axis.small + k for k in (0, *AROUND)])
    n = torch.arange(BLOCK, dtype=torch.float64)
    waves = torch.cos(math.pi / BLOCK * (n[:, None] + 0.5) * n[:HALF])
    blocks = torch.kron(torch.eye(SIDE // BLOCK + 1, dtype=torch.float64), waves)
    coarse = min(
        math.log(_left([blocks[(start + off) % BLOCK :][:SIDE] for start, _ in strips], strips)) for off in range(BLOCK)
    )  # of a part that was cut out blocks may begin anywhere
    return float(curve[1:].median() - curve[0]) + BLOCKS * max(coarse - float(curve[0]), -AT_MOST)


def _off(strips: list[Strip], axis: Axis, kernel: str) -> float:
    """The mean square of what an axis' small pixels don't explain of the lines."""
    small, large, _ = axis
    return _left([resample.weights(small, large, kernel, y, y + SIDE)[1].double() for y, _ in strips], strips)


def _left(matrices: Sequence[Tensor], strips: list[Strip]) -> float:
    """Likewise; matrices: of each strip, from small pixels to its own."""
    left = freedom = 0.0
    for matrix, (_, products) in zip(matrices, strips, strict=True):
        basis = torch.linalg.qr(matrix[:, (matrix != 0).any(dim=0)]).Q
        left += float(products.trace() - ((products @ basis) * basis).sum())
        freedom += SIDE - basis.shape[1]
    return max(left, 1e-9) / freedom
