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
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple, overload

from unires.errors import OptionError

Ramp = Literal["cosine", "linear"]
_GRAIN = 4096  # weights are multiples of 1/4096: products of two are exact in float32


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
class TilePlan(Sequence[Window]):
    """The windows of a picture, row by row, and how to blend them. Made by `plan_tiles`."""

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

    def __len__(self) -> int:
        return len(self.rows.starts) * len(self.columns.starts)

    def __iter__(self) -> Iterator[Window]:
        for top in self.rows.starts:
            for left in self.columns.starts:
                yield Window(top, left, self.rows.tile, self.columns.tile)

    @overload
    def __getitem__(self, index: int) -> Window: ...
    @overload
    def __getitem__(self, index: slice) -> list[Window]: ...
    def __getitem__(self, index: int | slice) -> Window | list[Window]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError("no such window")
        row, column = divmod(index % len(self), len(self.columns.starts))
        return Window(self.rows.starts[row], self.columns.starts[column], self.rows.tile, self.columns.tile)

    def weights(self, window: Window) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The weights of a window's rows and of its columns; a pixel's weight is the product of its two."""
        row = self.rows.weights[bisect_right(self.rows.starts, window.top) - 1]
        column = self.columns.weights[bisect_right(self.columns.starts, window.left) - 1]
        return row, column


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
    """Adds up tiles into one picture; its only large memory is that picture.

    `scale` is the whole factor by which results are larger than their windows. Results may have other leading
    dimensions (channels) than the input; the first one decides them, and the kind of array.
    """

    def __init__(self, plan: TilePlan, scale: int = 1) -> None:
        if scale < 1:
            raise OptionError("The scale of tiles must be a whole number of at least 1.")
        self.plan = plan
        self.scale = scale
        self._sum: Any = None

    def add(self, window: Window, result: Any) -> None:
        """Adds the `result` (..., height x scale, width x scale) of one `window`. Raises `ValueError` on a
        wrong shape."""
        s = self.scale
        if tuple(result.shape[-2:]) != (window.height * s, window.width * s):
            raise ValueError(f"a tile of {window.height} x {window.width} came back as {tuple(result.shape[-2:])}")
        result = _as_float(result)
        if self._sum is None:
            self._sum = _zeros(result, (*result.shape[:-2], self.plan.height * s, self.plan.width * s))
        rows, columns = self.plan.weights(window)
        height = min(window.height, self.plan.height - window.top)
        width = min(window.width, self.plan.width - window.left)
        # Pixels without weight are left out of the sum, so that whatever a margin holds (even a NaN) cannot
        # spread.
        y0, y1 = _support(rows[:height])
        x0, x1 = _support(columns[:width])
        down = _like(result, [w for w in rows[y0:y1] for _ in range(s)])
        across = _like(result, [w for w in columns[x0:x1] for _ in range(s)])
        part = result[..., y0 * s : y1 * s, x0 * s : x1 * s] * (down[:, None] * across[None, :])
        top, left = window.top + y0, window.left + x0
        self._sum[..., top * s : (window.top + y1) * s, left * s : (window.left + x1) * s] += part

    def picture(self) -> Any:
        """The blended picture (..., height x scale, width x scale)."""
        if self._sum is None:
            raise ValueError("no tile was added")
        return self._sum


def run_tiles(
    f: Callable[[Any], Any],
    picture: Any,
    plan: TilePlan,
    *,
    scale: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Any:
    """`f` over every window of `picture` (..., height, width; numpy or torch), blended into one picture.

    `f` gets (..., tile height, tile width) and returns the same size, times `scale`; its input is a view and
    must not be changed. `progress(done, total)` is called after each tile. Raises `ValueError` where shapes
    do not fit.
    """
    if tuple(picture.shape[-2:]) != (plan.height, plan.width):
        raise ValueError(f"the plan is for {plan.height} x {plan.width}, the picture {tuple(picture.shape[-2:])}")
    blender = Blender(plan, scale)
    for done, window in enumerate(plan, start=1):
        blender.add(window, f(cut(picture, window)))
        if progress is not None:
            progress(done, len(plan))
    return blender.picture()


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


def _support(weights: Sequence[float]) -> tuple[int, int]:
    used = [i for i, w in enumerate(weights) if w != 0.0]
    return (used[0], used[-1] + 1) if used else (0, 0)


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
