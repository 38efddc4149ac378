"""Transparency: colours that nobody sees must not bleed into those that are seen.

Editors leave anything under fully transparent pixels, black or white most often. A network looks around each
pixel, so that colour would creep into the visible edge. Therefore the network is shown colours continued from
the visible surroundings (`fill_hidden`), and `Photo.with_pixels` puts the originals back where alpha is 0, as
they were in the file.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from unires.photo.model import IntArray, bands, most


def fill_hidden(samples: IntArray, alpha: IntArray) -> IntArray:
    """`samples` (height x width x channels), where `alpha` (height x width) is 0 replaced by colours of nearby
    visible pixels.

    Pull and push: each level of a pyramid holds the mean of the visible pixels below it, and hidden pixels
    take theirs from the finest level that saw anything. Visible pixels stay bit for bit. Without any visible
    pixel the picture is returned as it is.
    """
    known = alpha > 0
    if known.all() or not known.any():
        return samples
    return _filled(samples, known)


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


def _pairs(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Sums of 2 x 2."""
    return x[0::2, 0::2] + x[1::2, 0::2] + x[0::2, 1::2] + x[1::2, 1::2]
