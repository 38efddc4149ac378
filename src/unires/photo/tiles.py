"""Overlapping tiles without seams.

A picture is cut into windows of one common shape, each is worked on alone, and the results are blended. Three
things keep the outcome independent of the cutting:

- *Same shape everywhere.* Windows are spread evenly, and where the picture does not divide they overlap more.
- *Same phase everywhere.* Windows start at multiples of `multiple` (the network's reduction inside). The
  picture is thought of as mirrored by up to `multiple - 1` pixels beyond its right and lower edge, as an
  untiled network does.
- *Margins.* Near a border that is not the picture's own, a network sees padding instead of the picture. That
  `margin` is ignored before blending.

Blend weights are multiples of 1/4096 made by differences of steps, so that they add up to one exactly, in
float32 too, in one dimension and in two. Arrays of numpy and of torch work alike, of any leading shape; torch
is not imported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from unires.errors import OptionError

Ramp = Literal["cosine", "linear"]
_GRAIN = 4096  # weights are multiples of 1/4096: products of two are exact in float32
_BAND = 128  # rows (or columns) that are handed on at once


class Window(NamedTuple):
    """A rectangle of the picture, in pixels; it may reach past the lower and right edge by less than
    `multiple`."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Axis:
    """Windows along one axis: where they start, and the weight of each pixel of each window (exact, sums to
    one)."""

    length: int
    tile: int
    starts: tuple[int, ...]
    weights: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class TilePlan:
    """The windows of a picture, and how to blend them. Made by `plan_tiles`.

    They come in strips across the picture's shorter side, so that a strip is small: rows of windows from top to
    bottom where the picture is upright, columns of windows from left to right where it is wide."""

    rows: Axis
    columns: Axis

    @property
    def height(self) -> int:
        """The picture's height in pixels."""
        return self.rows.length

    @property
    def width(self) -> int:
        """The picture's width in pixels."""
        return self.columns.length

    @property
    def upright(self) -> bool:
        """Whether strips are rows of windows."""
        return self.height >= self.width

    def __len__(self) -> int:
        return len(self.rows.starts) * len(self.columns.starts)

    def __iter__(self) -> Iterator[Window]:
        """Strip by strip."""
        if self.upright:
            places = [(top, left) for top in self.rows.starts for left in self.columns.starts]
        else:
            places = [(top, left) for left in self.columns.starts for top in self.rows.starts]
        return (Window(top, left, self.rows.tile, self.columns.tile) for top, left in places)


def plan_tiles(
    height: int,
    width: int,
    tile: int,
    overlap: int,
    *,
    margin: int = 0,
    multiple: int = 1,
    ramp: Ramp = "cosine",
) -> TilePlan:
    """Windows that cover a picture of `height` x `width` pixels, all of the same shape.

    `tile` is the side of a window (rounded down to a multiple of `multiple`; along an axis on which the
    picture is smaller, the whole axis is one window), `overlap` the least number of pixels that neighbours
    share, `margin` how many pixels of each window are ignored next to its inner borders. The rest of the
    overlap, `overlap - 2 * margin`, is the width of the blend; with 0 there it is a hard cut.

    Raises `OptionError` for sizes that make no sense (a tile smaller than its overlap, and so on).
    """
    if height < 1 or width < 1:
        raise OptionError(f"A picture of {width} x {height} pixels cannot be cut into tiles.")
    if multiple < 1 or overlap < 0 or margin < 0:
        raise OptionError("A tile's multiple must be at least 1, its overlap and margin at least 0.")
    if overlap < 2 * margin:
        raise OptionError(f"Tiles that ignore a margin of {margin} pixels must overlap by at least {2 * margin}.")
    side = tile // multiple * multiple
    if side < 1 or (side - overlap) // multiple < 1:
        raise OptionError(f"A tile of {tile} pixels is too small for an overlap of {overlap} pixels.")
    rows, columns = (_axis(length, side, overlap, margin, multiple, ramp) for length in (height, width))
    return TilePlan(rows, columns)


def blend_ramp(length: int, ramp: Ramp = "cosine") -> list[float]:
    """`length` values that climb from 0 to 1 (both excluded), point-symmetric: ramp plus its mirror image is
    one."""
    if ramp not in ("cosine", "linear"):
        raise OptionError(f"Unknown ramp '{ramp}'; there are 'cosine' and 'linear'.")
    values = [0.5] * length
    for i in range(length // 2):
        x = (i + 0.5) / length
        y = x if ramp == "linear" else 0.5 - 0.5 * math.cos(math.pi * x)
        values[i] = math.floor(y * _GRAIN) / _GRAIN
        # The second half mirrors the first, so that rounding cannot break the symmetry.
        values[length - 1 - i] = 1.0 - values[i]
    return values


def cut(picture: Any, window: Window) -> Any:
    """The window's part of `picture` (..., height, width): a view, or a mirrored copy where it reaches past
    the edge."""
    height, width = picture.shape[-2:]
    bottom, right = window.top + window.height, window.left + window.width
    if bottom <= height and right <= width:
        return picture[..., window.top : bottom, window.left : right]
    rows, columns = _mirrored(window.top, bottom, height), _mirrored(window.left, right, width)
    y, x = min(rows), min(columns)
    part = picture[..., y : max(rows) + 1, x : max(columns) + 1]
    return part[..., [row - y for row in rows], :][..., [column - x for column in columns]]


class Blender:
    """Adds up tiles and hands on what is finished; its only large memory is one strip of tiles.

    `put(window, part)` is called with parts of the picture (..., height, width), in the order of the strips; they are
    lent, as the memory is used again. By the time that a strip begins, all before it is handed on and nothing behind
    its beginning is, so that a picture may be replaced by its own result in place. Results may have any leading
    dimensions (channels); the first one decides them, and the kind of array.
    """

    def __init__(self, plan: TilePlan, put: Callable[[Window, Any], object]) -> None:
        self.plan, self.put = plan, put
        self._along, self._across = (plan.rows, plan.columns) if plan.upright else (plan.columns, plan.rows)
        self._expected, self._done = iter(plan), 0
        self._strip: Any = None  # (..., along, across)

    def add(self, window: Window, result: Any) -> None:
        """Adds the `result` (..., height, width) of the plan's next `window`. Raises `ValueError` on a wrong shape, or
        out of order."""
        if tuple(result.shape[-2:]) != (window.height, window.width):
            raise ValueError(f"a tile of {window.height} x {window.width} came back as {tuple(result.shape[-2:])}")
        if next(self._expected, None) != window:
            raise ValueError("tiles are added in the order of their plan")
        result = self._turned(_as_float(result))
        if self._strip is None:
            length = min(self._along.tile, self._along.length)
            self._strip = _zeros(result, (*result.shape[:-2], length, self._across.length))
        strip, place = divmod(self._done, len(self._across.starts))
        # Pixels without weight are left out of the sum, so that whatever a margin holds (even a NaN) cannot spread.
        y, down = _support(self._along, strip)
        x, across = _support(self._across, place)
        at = self._across.starts[place] + x
        part = result[..., y : y + len(down), x : x + len(across)]
        part = part * (_like(result, down)[:, None] * _like(result, across)[None, :])
        self._strip[..., y : y + len(down), at : at + len(across)] += part
        self._done += 1
        if place + 1 == len(self._across.starts):
            self._hand_on(strip)

    def _turned(self, part: Any) -> Any:
        """From (..., height, width) to (..., along, across), and back."""
        return part if self.plan.upright else part.swapaxes(-1, -2)

    def _hand_on(self, strip: int) -> None:
        """What no later strip adds to; the rest becomes the beginning of the next strip."""
        starts = (*self._along.starts, self._along.length)
        for at in range(starts[strip], starts[strip + 1], _BAND):
            length = min(_BAND, starts[strip + 1] - at)
            part = self._turned(self._strip[..., at - starts[strip] : at - starts[strip] + length, :])
            size = part.shape[-2], part.shape[-1]
            self.put(Window(at, 0, *size) if self.plan.upright else Window(0, at, *size), part)
        rest = self._strip[..., starts[strip + 1] - starts[strip] :, :] + 0  # a copy
        self._strip[..., : rest.shape[-2], :] = rest
        self._strip[..., rest.shape[-2] :, :] = 0


def _axis(length: int, side: int, overlap: int, margin: int, multiple: int, ramp: Ramp) -> Axis:
    """Windows and weights along one axis. Counted in units of `multiple`, so that every start is one."""
    units = -(-length // multiple)
    tile = min(side // multiple, units)
    step = (side - overlap) // multiple
    spare = units - tile
    gaps = -(-spare // step)
    # Spread evenly; as `spare / gaps <= step`, no two neighbours are further apart than `step`.
    starts = tuple(i * spare // gaps * multiple for i in range(gaps + 1)) if gaps else (0,)
    tile *= multiple
    # Neighbours i and i + 1 are blended around the middle of what they share. The blend is as wide as was
    # asked for, unless its two sides would meet inside a window (then weights could turn negative).
    blend = overlap - 2 * margin
    if gaps > 1:
        blend = min(blend, min(b - a for a, b in pairwise(starts)) - 1)
    blend = max(blend, 0)
    climb = blend_ramp(blend, ramp)
    begins = [(a + tile + b) // 2 - blend // 2 for a, b in pairwise(starts)]

    def step_at(boundary: int, x: int) -> float:
        # 0 before the boundary's blend, 1 after it; those outside the picture are long past or never come.
        if boundary < 0:
            return 1.0
        if boundary >= gaps or x < begins[boundary]:
            return 0.0
        return climb[x - begins[boundary]] if x < begins[boundary] + blend else 1.0

    weights = tuple(
        tuple(step_at(i - 1, x) - step_at(i, x) for x in range(start, start + tile)) for i, start in enumerate(starts)
    )
    return Axis(length, tile, starts, weights)


def _mirrored(start: int, stop: int, length: int) -> list[int]:
    """Indices start..stop into an axis of `length`, reflected at its end (the last pixel not repeated)."""
    period = max(2 * (length - 1), 1)
    return [x if x < length else period - x for x in (i % period for i in range(start, stop))]


def _support(axis: Axis, index: int) -> tuple[int, list[float]]:
    """Where the weights of a window, within the picture, begin to be more than zero, and those that are."""
    weights = axis.weights[index][: axis.length - axis.starts[index]]
    used = [i for i, w in enumerate(weights) if w != 0.0]
    return (used[0], list(weights[used[0] : used[-1] + 1])) if used else (0, [])


def _as_float(array: Any) -> Any:
    """Float32 unless it is float64 already: halves and integers are too coarse to be added up."""
    if hasattr(array, "new_zeros"):
        return array if array.is_floating_point() and array.element_size() >= 4 else array.float()
    return array if array.dtype.kind == "f" and array.dtype.itemsize >= 4 else array.astype("float32")


def _zeros(like: Any, shape: tuple[int, ...]) -> Any:
    if hasattr(like, "new_zeros"):
        return like.new_zeros(shape)
    import numpy as np

    return np.zeros(shape, dtype=like.dtype)


def _like(like: Any, values: list[float]) -> Any:
    if hasattr(like, "new_tensor"):
        return like.new_tensor(values)
    import numpy as np

    return np.asarray(values, dtype=like.dtype)
