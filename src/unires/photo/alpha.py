"""Transparency: colours that nobody sees must not bleed into those that are seen.

Editors leave anything under fully transparent pixels, black or white most often. A network looks around each
pixel, so that colour would creep into the visible edge. Therefore the network is shown colours continued from
the visible surroundings (`fill_hidden`), and `Photo.with_pixels` puts the originals back where alpha is 0, as
they were in the file.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from unires.photo.model import FloatArray


def fill_hidden(pixels: FloatArray, alpha: FloatArray) -> FloatArray:
    """`pixels` (height x width x 3), where `alpha` (height x width) is 0 replaced by colours of nearby
    visible pixels.

    Pull and push: each level of a pyramid holds the mean of the visible pixels below it, and hidden pixels
    take theirs from the finest level that saw anything. Visible pixels stay bit for bit. Without any visible
    pixel the picture is returned as it is.
    """
    known = alpha > 0
    if known.all() or not known.any():
        return pixels
    return np.where(known[..., None], pixels, _filled(pixels, known))


def resize_alpha(alpha: FloatArray, height: int, width: int) -> FloatArray:
    """`alpha` (float32, 0..1) in another size, by bicubic interpolation (with area-true support when
    reducing)."""
    from PIL import Image

    resized = Image.fromarray(alpha).resize((width, height), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(resized, dtype=np.float32), 0.0, 1.0)


def _filled(pixels: FloatArray, known: npt.NDArray[np.bool_]) -> FloatArray:
    if known.all() or min(known.shape) == 0:
        return pixels
    if known.shape == (1, 1):
        return pixels
    height, width = known.shape
    # Half the size: sums over 2 x 2 of what is known, odd sizes continued by nothing (weight 0).
    even = ((0, height % 2), (0, width % 2))
    weight = np.pad(known.astype(np.float32), even)
    colour = np.pad(pixels * known[..., None], (*even, (0, 0)))
    half_weight = weight[0::2, 0::2] + weight[1::2, 0::2] + weight[0::2, 1::2] + weight[1::2, 1::2]
    half = colour[0::2, 0::2] + colour[1::2, 0::2] + colour[0::2, 1::2] + colour[1::2, 1::2]
    half = (half / np.maximum(half_weight, 1.0)[..., None]).astype(np.float32)
    coarse = _filled(half, half_weight > 0)
    up = coarse.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
    return np.where(known[..., None], pixels, up)
