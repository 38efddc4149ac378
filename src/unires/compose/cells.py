"""How an estimate of what JPEG compressed is kept to what the file says.

JPEG rounds the coefficients of each block of 8 x 8 pixels to multiples of its table's steps. So a decoded photo c
tells, of each coefficient of what was compressed, the cell that it lies in: around that of s = U^+ c, half a step to
either side (U enlarges colours, of which most files hold half the size). An estimate elsewhere contradicts the file. It
is moved there, and nothing else is touched:

    x_hat  <-  x_hat + D^+ (P(D x_hat) - D x_hat)                                                        (4)

D reduces colours by area, as encoders do, and P clips each coefficient to its cell (Zakhor 1992, "Iterative procedures
for reduction of blocking effects in transform image coding", there with a smoothing filter in the network's place).
This holds for photos that were compressed last and not touched since; where noise was compressed with them, it holds
for the noisy photo, which no estimate is to be."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unires.compose.consistency import shrunken
from unires.compose.grid import Axis
from unires.degrade.jpeg import TO_RGB, TO_YCC, tables, waves
from unires.degrade.resample import Sliced

COMPRESSED = "dejpeg"  # the task whose degradation it is
BLOCK = 8
MIDDLE = 0.35  # of a step to either side: estimates nearer to their cell's border mostly lie too far out
CLOSE = 0.2  # of a step: a coefficient farther from all multiples isn't what was decoded, as where pixels were clipped
LEAST_STEP = 3  # smaller ones are hidden by pixels' rounding to whole values
SIDE = 512  # pixels of the part that is looked at to find a table
QUALITIES = range(5, 98)
NEAR = 0.12  # steps, the mean distance to multiples: a quarter where there is no such table
ENOUGH = 100, 40  # coefficients of a step or more, of brightness and of colours, to tell by
BORDER = 8  # small pixels of colour, at a part's border, that what lies beyond it has a share in


class Cells(NamedTuple):
    """The quality whose tables a photo was quantised by; how many times its colours were enlarged (0: that can't be
    told); and the axes of these colours: blocks begin with the photo."""

    quality: int
    enlarged: int
    rows: Axis
    columns: Axis

    def at(self, top: int, left: int) -> Cells:
        """Of the part whose first pixel that is."""
        return self._replace(rows=self.rows._replace(start=top), columns=self.columns._replace(start=left))


class _Blocks(NamedTuple):
    """Whole blocks along one axis of a part: their first pixel, their number, how many times their values are enlarged,
    and the matrix that makes these of the part's, where that is more than once."""

    first: int
    blocks: int
    enlarged: int = 1
    shrink: Tensor | None = None

    @property
    def pixels(self) -> slice:
        return slice(self.first, self.first + self.blocks * BLOCK * self.enlarged)


def find(picture: Sliced) -> Cells | None:
    """By which of libjpeg's tables a picture (1 x 3 x H x W in [0, 1]) was quantised last, with blocks from its first
    pixel on; None where by none, or where that can't be told."""
    sides = picture.shape[-2:]
    top, left = (max(0, side - SIDE) // 2 // (2 * BLOCK) * 2 * BLOCK for side in sides)
    part = picture[..., top : top + SIDE, left : left + SIDE].cpu().float() * 255
    rows, columns = (Axis((side + 1) // 2, (side + 1) // 2 * 2) for side in sides)
    cells = Cells(0, 0, rows, columns)
    qualities = tables(torch.tensor(QUALITIES))
    brightness = _told(part, 0, _axes(cells.at(top, left), part, 1))
    off = [_off(brightness, table, ENOUGH[0]) for table in qualities[:, 0]]
    best = min(range(len(off)), key=off.__getitem__)
    if off[best] > NEAR:
        return None
    colours = {}
    for enlarged in (1, 2):
        axes = _axes(cells.at(top, left), part, enlarged)
        both = torch.cat([_told(part, plane, axes) for plane in (1, 2)])
        colours[enlarged] = _off(both, qualities[best, 1], ENOUGH[1])
    enlarged = min(colours, key=colours.__getitem__)
    return cells._replace(quality=QUALITIES[best], enlarged=enlarged if colours[enlarged] <= NEAR else 0)


def _off(coefficients: Tensor, table: Tensor, enough: int) -> float:
    """How far coefficients that are a step or more are from multiples of a table's steps: the mean, in steps."""
    steps = coefficients / table
    away = (steps - steps.round()).abs()[(steps.abs() > 0.5) & (table >= LEAST_STEP)]
    return float(away.mean()) if len(away) >= enough else math.inf


def within(estimate: Tensor, condition: Tensor, cells: Cells) -> Tensor:
    """Equation (4): estimate and condition, B x 3 x H x W in [-1, 1], to an estimate. Blocks that a part's border cuts
    stay as they are."""
    mine, photo = (estimate + 1) * 127.5, (condition + 1) * 127.5
    change, back, dct = torch.zeros_like(mine), torch.tensor(TO_RGB).to(mine), waves().to(mine)
    steps = tables(torch.tensor([cells.quality]))[0].to(mine)
    for plane, enlarged in enumerate((1, cells.enlarged, cells.enlarged)):
        axes = _axes(cells, mine, enlarged) if enlarged else ()
        if not axes or not all(axis.blocks for axis in axes):
            continue
        rows, columns = axes
        table = steps[min(plane, 1)]
        own = _coefficients(F.avg_pool2d(_plane(mine[..., rows.pixels, columns.pixels], plane), enlarged))
        told = _told(photo, plane, axes)
        centre, half = (told / table).round() * table, MIDDLE * table
        known = ((told - centre).abs() < CLOSE * table) & (table >= LEAST_STEP)
        moved = dct.T @ ((own.clamp(centre - half, centre + half) - own) * known) @ dct
        moved = moved.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        moved = moved.repeat_interleave(enlarged, dim=1).repeat_interleave(enlarged, dim=2)
        change[..., rows.pixels, columns.pixels] += back[:, plane, None, None] * moved[:, None]
    return estimate + change / 127.5


def _axes(cells: Cells, part: Tensor, enlarged: int) -> tuple[_Blocks, _Blocks]:
    rows, columns = cells.rows, cells.columns
    return _blocks(rows, part.shape[-2], enlarged), _blocks(columns, part.shape[-1], enlarged)


def _blocks(axis: Axis, length: int, enlarged: int) -> _Blocks:
    """Of a part so long, whose first pixel is the axis' start."""
    if enlarged == 1:
        first = -axis.start % BLOCK
        return _Blocks(first, (length - first) // BLOCK)
    first, shrink = shrunken(axis, length, "bilinear")
    low = first + BORDER * (axis.start > 0)
    high = first + len(shrink) - BORDER * (axis.start + length < axis.large - 1)
    low = -(-low // BLOCK) * BLOCK
    blocks = max(0, min(high - low, (axis.start + length) // 2 - low) // BLOCK)
    return _Blocks(2 * low - axis.start, blocks, 2, shrink[low - first :][: blocks * BLOCK])


def _told(pixels: Tensor, plane: int, axes: tuple[_Blocks, _Blocks]) -> Tensor:
    """The coefficients that decoded pixels were made from."""
    rows, columns = axes
    values = _plane(pixels, plane)
    if rows.shrink is None or columns.shrink is None:
        return _coefficients(values[..., rows.pixels, columns.pixels])
    return _coefficients(rows.shrink.to(values) @ values @ columns.shrink.to(values).T)


def _plane(pixels: Tensor, plane: int) -> Tensor:
    """Brightness (0) or one of two colours of B x 3 x H x W, from 0 to 255: B x 1 x H x W, around zero."""
    values = torch.einsum("c,bchw->bhw", torch.tensor(TO_YCC[plane]).to(pixels), pixels)[:, None]
    return values - 128 if plane == 0 else values


def _coefficients(plane: Tensor) -> Tensor:
    """Of B x 1 x H x W, whole blocks: B x H/8 x W/8 x 8 x 8."""
    dct, (count, _, height, width) = waves().to(plane), plane.shape
    blocks = plane.reshape(count, height // BLOCK, BLOCK, width // BLOCK, BLOCK).transpose(2, 3)
    return dct @ blocks @ dct.T
