"""What a photo is between its two files: pixels, transparency, and everything that has to come out as it went
in."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from unires.errors import PhotoError

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

EXTENSIONS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "TIFF": ".tif", "AVIF": ".avif"}


@dataclass(frozen=True)
class Encoding:
    """How a file was encoded, so that the output can be encoded alike. Only what its format knows is filled
    in."""

    tables: tuple[tuple[int, ...], ...] = ()  # JPEG: quantisation tables, 64 numbers each
    subsampling: str = ""  # JPEG, AVIF: "4:4:4", "4:2:2", "4:2:0"; "" where unknown
    progressive: bool = False  # JPEG
    lossless: bool = False  # WebP: the lossless kind; always so for PNG and for TIFF without JPEG inside
    compression: str = ""  # TIFF: "none", "lzw" or "deflate"
    extra_sample: int = 2  # TIFF: 0 a mask without meaning, 1 colours multiplied by alpha, 2 plain alpha
    extras: tuple[tuple[str, bytes], ...] = ()  # JPEG segments and PNG chunks that are copied as they are
    source: bytes = field(default=b"", repr=False, compare=False)  # lossy files: the whole file,
    fingerprint: bytes = field(default=b"", compare=False)  # which is copied while the photo has this fingerprint


@dataclass(frozen=True)
class Photo:
    """A photo, upright, in its own colour space.

    `pixels` is float32, height x width x 3, values 0 to 1 as in the file (not linear light, no colour
    conversion); a grey photo has three equal channels and `grey` set, and is written back as one channel.
    `alpha` is float32, height x width, or None. `bit_depth` is 8 or 16 bits a channel, `format` one of JPEG,
    PNG, WEBP, TIFF and AVIF. `icc`, `exif` (starting at its byte-order mark, orientation already reset to 1),
    `xmp` and `iptc` (Photoshop image resources, which hold the IPTC record) are bytes as they lie in the
    file, `dpi` dots an inch (x, y), `comment` the file's comment as bytes.

    Treat it as immutable, its arrays too; `with_pixels` makes the output photo. Raises `PhotoError` when
    shapes do not agree.
    """

    pixels: FloatArray
    alpha: FloatArray | None = None
    bit_depth: int = 8
    format: str = "PNG"
    grey: bool = False
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    dpi: tuple[float, float] | None = None
    comment: bytes | None = None
    encoding: Encoding = field(default_factory=Encoding)

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3 or self.pixels.shape[2] != 3 or 0 in self.pixels.shape:
            raise PhotoError(f"A photo needs pixels of height x width x 3, not {self.pixels.shape}.")
        if self.pixels.dtype != np.float32:
            raise PhotoError(f"A photo needs float32 pixels, not {self.pixels.dtype}.")
        if self.alpha is not None and (self.alpha.shape != self.pixels.shape[:2] or self.alpha.dtype != np.float32):
            raise PhotoError("A photo's alpha must be float32 and of the size of its pixels.")
        if self.bit_depth not in (8, 16):
            raise PhotoError(f"A photo has 8 or 16 bits a channel, not {self.bit_depth}.")
        if self.format not in EXTENSIONS:
            raise PhotoError(f"A photo is {', '.join(EXTENSIONS)}, not {self.format}.")

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int(self.pixels.shape[1])

    @property
    def extension(self) -> str:
        """The usual ending for the photo's format, dot included; what is in the file decides, not its
        name."""
        return EXTENSIONS[self.format]

    def replace(self, **changes: Any) -> Photo:
        """A copy with some fields changed, like `dataclasses.replace`."""
        return dataclasses.replace(self, **changes)

    def visible(self) -> FloatArray:
        """The pixels for a network: where alpha is 0, colours from the nearest visible surroundings (see
        `alpha.py`)."""
        if self.alpha is None or self.encoding.extra_sample == 0:
            return self.pixels
        from unires.photo.alpha import fill_hidden

        return fill_hidden(self.pixels, self.alpha)

    def with_pixels(self, pixels: npt.NDArray[Any], alpha: npt.NDArray[Any] | None = None) -> Photo:
        """The photo with other `pixels` (height x width x 3, floats, 0 to 1; the size may differ) and all
        else kept.

        Same size: alpha stays bit for bit, and pixels under alpha 0 keep their original colours. Another
        size: alpha is resized (bicubic, clipped to 0..1). An `alpha` given here replaces the photo's own.
        Raises `PhotoError` when values are not finite.
        """
        new = np.asarray(pixels, dtype=np.float32)
        if not np.isfinite(new).all():
            raise PhotoError("The new pixels hold values that are not numbers, so they are not put into a photo.")
        if new.ndim == 3 and new.shape[2] == 3 and self.alpha is not None and alpha is None:
            if new.shape == self.pixels.shape:
                if self.encoding.extra_sample != 0:
                    new = np.where((self.alpha == 0)[..., None], self.pixels, new)
                alpha = self.alpha
            else:
                from unires.photo.alpha import resize_alpha

                alpha = resize_alpha(self.alpha, int(new.shape[0]), int(new.shape[1]))
        mask = None if alpha is None else np.asarray(alpha, dtype=np.float32)
        return dataclasses.replace(self, pixels=new, alpha=mask)


def fingerprint(photo: Photo, samples: IntArray) -> bytes:
    """A number for the photo's samples (as in its file, but upright) and all its metadata together."""
    state = hashlib.blake2b(np.ascontiguousarray(samples).data, digest_size=16)
    carried = (photo.format, photo.icc, photo.exif, photo.xmp, photo.iptc, photo.dpi, photo.comment)
    state.update(repr((samples.shape, carried)).encode())
    return state.digest()


def from_integers(values: npt.NDArray[Any], maximum: float, out: FloatArray | None = None) -> FloatArray:
    """Numbers 0..maximum as float32 0..1. `to_integers` gives exactly the same whole numbers back (up to 16 bits)."""
    if values.dtype.itemsize > 2 and values.dtype != np.float32:
        # 32-bit numbers and doubles don't fit into float32, so they are divided before they are rounded to it.
        values, maximum = values / maximum, 1.0
    result: FloatArray = np.divide(values, np.float32(maximum), out=out, dtype=np.float32, casting="unsafe")
    return result


def to_integers(values: FloatArray, bit_depth: int) -> IntArray:
    """0..1 as whole numbers of 8 or 16 bits: clipped and rounded to the nearest, never cut off.

    Works in bands of rows, so that the only large memory is the result. Raises `PhotoError` on NaN and
    infinity.
    """
    kind: Any = np.uint8 if bit_depth == 8 else np.uint16
    out: IntArray = np.empty(values.shape, dtype=kind)
    for top in range(0, values.shape[0], 256):
        band = values[top : top + 256]
        if not np.isfinite(band).all():
            raise PhotoError("The picture holds values that are not numbers, so it is not written.")
        out[top : top + 256] = np.rint(np.clip(band, 0.0, 1.0) * np.float32((1 << bit_depth) - 1))
    return out


def one_channel(pixels: FloatArray) -> FloatArray:
    """Height x width x 3 to height x width, by the mean of the channels; equal channels come out
    unchanged."""
    red = pixels[..., 0]
    if np.array_equal(red, pixels[..., 1]) and np.array_equal(red, pixels[..., 2]):
        return red
    mean: FloatArray = pixels.mean(axis=2, dtype=np.float32)
    return mean
