"""Transparency: colours that nobody sees must not bleed into those that are seen.

Editors leave anything under fully transparent pixels, black or white most often. A network looks around each
pixel, so that colour would creep into the visible edge. Therefore the network is shown colours continued from
the visible surroundings, texture and all (`fill_hidden`), and `Photo.with_pixels` puts the originals back where
alpha is 0, as they were in the file.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from unires.photo.model import IntArray, bands, most

REACH = 4  # pixels around each that its mean is of


def fill_hidden(samples: IntArray, alpha: IntArray) -> IntArray:
    """`samples` (height x width x channels), where `alpha` (height x width) is 0 replaced by colours of nearby
    visible pixels.

    Pull and push: each level of a pyramid holds the mean of the visible pixels below it, and hidden pixels
    take theirs from the finest level that saw anything. Large holes get the texture of what is seen beside them, too:
    means have no noise, and a router that reads them would take the photo for less noisy than it is. Visible pixels
    stay bit for bit. Without any visible pixel the picture is returned as it is.
    """
    known = alpha > 0
    if known.all() or not known.any():
        return samples
    return _textured(_filled(samples, known), known)


def keep_hidden(new: IntArray, old: IntArray, alpha: IntArray) -> IntArray:
    """`new` samples with those of `old` where `alpha` is 0."""
    if alpha.all():
        return new
    out = np.empty_like(new)
    for rows in bands(len(new)):
        out[rows] = np.where(alpha[rows, :, None] == 0, old[rows], new[rows])
    return out


def divided(samples: IntArray, alpha: IntArray) -> IntArray:
    """Colours that were multiplied by alpha as plain ones; `multiplied` gives exactly the same numbers back."""
    return _scaled(samples, alpha, lambda x, a, top: np.where(a > 0, np.minimum(x * top / np.maximum(a, 1), top), x))


def multiplied(samples: IntArray, alpha: IntArray) -> IntArray:
    """Colours multiplied by alpha; what nobody sees stays."""
    return _scaled(samples, alpha, lambda x, a, top: np.where(a > 0, x * a / top, x))


def resize_alpha(alpha: IntArray, height: int, width: int) -> IntArray:
    """`alpha` in another size, by bicubic interpolation (with area-true support when reducing)."""
    from PIL import Image

    top = most(8 * alpha.dtype.itemsize)
    resized = Image.fromarray(alpha.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    whole: IntArray = np.rint(np.clip(np.asarray(resized), 0, top)).astype(alpha.dtype)
    return whole


def _scaled(samples: IntArray, alpha: IntArray, rule: Any) -> IntArray:
    out = np.empty_like(samples)
    top = most(8 * samples.dtype.itemsize)
    for rows in bands(len(samples)):
        # doubles, as products of two 16-bit numbers don't fit into float32
        out[rows] = np.rint(rule(samples[rows].astype(np.float64), alpha[rows, :, None], top))
    return out


def _filled(colour: IntArray, known: npt.NDArray[np.bool_]) -> IntArray:
    height, width = known.shape
    if known.all() or known.size <= 1:
        return colour
    # Half the size: means over those of 2 x 2 that are known; odd sizes are continued by nothing.
    half = np.empty((-(-height // 2), -(-width // 2), colour.shape[2]), colour.dtype)
    half_known = np.empty(half.shape[:2], np.bool_)
    for rows in bands(height):
        part, seen = colour[rows].astype(np.float32) * known[rows, :, None], known[rows].astype(np.float32)
        rim = ((0, len(part) % 2), (0, width % 2))
        count = _pairs(np.pad(seen, rim)[..., None])
        mean = _pairs(np.pad(part, (*rim, (0, 0)))) / np.maximum(count, 1)
        under = slice(rows.start // 2, rows.start // 2 + len(mean))
        half[under], half_known[under] = np.rint(mean), count[..., 0] > 0
    coarse = _filled(half, half_known)
    out = colour.copy()
    for rows in bands(height):
        y = np.arange(*rows.indices(height)) // 2
        up = coarse[y].repeat(2, axis=1)[:, :width]
        out[rows] = np.where(known[rows, :, None], out[rows], up)
    return out


def _textured(filled: IntArray, known: npt.NDArray[np.bool_]) -> IntArray:
    """`filled` itself, and where nothing is known within REACH pixels, with what the pixels mirrored at the nearest
    known one of the row (or, in rows without one, of the nearest row with one) have beyond the mean around them."""
    height, aside = len(known), ((0, 0), (REACH, REACH), (0, 0))
    near = _mirrored(np.asarray(known.any(axis=1))[None])[0]
    for rows in bands(height):
        y = np.arange(*rows.indices(height))
        around = np.clip(np.arange(y[0] - REACH, y[-1] + REACH + 1), 0, height - 1)
        seen = _sums(np.pad(known[around, :, None].astype(np.float32), aside), (0, 1))
        far = seen < 0.5
        if not far.any():
            continue
        source = near[y]
        lines = (filled[np.clip(source + dy, 0, height - 1)].astype(np.float32) for dy in range(-REACH, REACH + 1))
        mean = _sums(np.pad(sum(lines), aside, "edge"), (1,)) / (2 * REACH + 1) ** 2
        beyond = np.take_along_axis(filled[source] - mean, _mirrored(known[source])[..., None], axis=1)
        values = np.clip(filled[rows] + beyond, 0, most(8 * filled.dtype.itemsize))
        filled[rows] = np.where(far, np.rint(values).astype(filled.dtype), filled[rows])
    return filled


def _sums(x: npt.NDArray[np.float32], axes: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Of each 2 REACH + 1 pixels next to each other along axes: so many fewer are left."""
    for axis in axes:
        run = np.cumsum(np.insert(x, 0, 0, axis), axis, dtype=np.float64)
        last, first = np.split(run, [2 * REACH + 1], axis)[1], np.split(run, [run.shape[axis] - 2 * REACH - 1], axis)[0]
        x = (last - first).astype(np.float32)
    return x


def _mirrored(known: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """For each place of each row (n x length) a known one: itself, or the one mirrored at the nearest known, within the
    run that this is the end of. Rows without any: 0."""

    def one_way(known: npt.NDArray[np.bool_]) -> tuple[Any, Any]:
        x = np.arange(known.shape[1])
        last = np.maximum.accumulate(np.where(known, x, -1), axis=1)
        gap = np.maximum.accumulate(np.where(known, -1, x), axis=1)
        run = np.take_along_axis(last - gap, np.maximum(last, 0), axis=1)
        away = np.where(last < 0, known.shape[1] * 2, x - last)
        return np.where(known, x, last - (away - 1) % np.maximum(run, 1)), away

    before, left = one_way(known)
    behind, right = one_way(known[:, ::-1])
    behind, right = known.shape[1] - 1 - behind[:, ::-1], right[:, ::-1]
    chosen: npt.NDArray[np.int64] = np.clip(np.where(left <= right, before, behind), 0, known.shape[1] - 1)
    return chosen


def _pairs(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Sums of 2 x 2."""
    return x[0::2, 0::2] + x[1::2, 0::2] + x[0::2, 1::2] + x[1::2, 1::2]
