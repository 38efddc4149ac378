"""What a photo is between its two files: pixels, transparency, and everything that has to come out as it went
in."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from unires.errors import PhotoError

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

BAND = 256  # rows
EXTENSIONS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "TIFF": ".tif", "AVIF": ".avif", "HEIC": ".heic"}


@dataclass(frozen=True)
class Encoding:
    """How a file was encoded, so that the output can be encoded alike. Only what its format knows is filled
    in."""

    tables: tuple[tuple[int, ...], ...] = ()  # JPEG: quantisation tables, 64 numbers each
    subsampling: str = ""  # JPEG, AVIF, HEIC: "4:4:4", "4:2:2", "4:2:0"; "" where unknown
    progressive: bool = False  # JPEG
    lossless: bool = False  # WebP: the lossless kind; always so for PNG and for TIFF without JPEG inside
    compression: str = ""  # TIFF: "none", "lzw" or "deflate"
    extra_sample: int = 2  # TIFF: 0 a mask without meaning, 1 colours multiplied by alpha, 2 plain alpha
    extras: tuple[tuple[str, bytes], ...] = ()  # JPEG segments and PNG chunks that are copied as they are
    source: bytes = field(default=b"", repr=False, compare=False)  # lossy files: the whole file,
    fingerprint: bytes = field(default=b"", compare=False)  # which is copied while the photo has this fingerprint


@dataclass(frozen=True)
class Photo:
    """A photo, upright, in its own colour space and its own depth.

    `samples` is uint8 or uint16, height x width x 3, or x 1 for a grey photo: values as in the file (not linear light,
    no colour conversion). `alpha` is height x width of the same kind, or None. `format` is that of the output: JPEG,
    PNG, WEBP, TIFF, AVIF or HEIC. `icc`, `exif` (starting at its byte-order mark, orientation already reset to 1),
    `xmp` and `iptc` (Photoshop image resources, which hold the IPTC record) are bytes as they lie in the file, `dpi`
    dots an inch (x, y), `comment` the file's comment as bytes.

    Treat it as immutable, its arrays too; `with_pixels` makes the output photo. Raises `PhotoError` when
    shapes do not agree.
    """

    samples: IntArray
    alpha: IntArray | None = None
    format: str = "PNG"
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    dpi: tuple[float, float] | None = None
    comment: bytes | None = None
    encoding: Encoding = field(default_factory=Encoding)

    def __post_init__(self) -> None:
        shape, kind = self.samples.shape, self.samples.dtype
        if len(shape) != 3 or shape[2] not in (1, 3) or 0 in shape:
            raise PhotoError(f"A photo needs samples of height x width x 1 or 3, not {shape}.")
        if kind not in (np.uint8, np.uint16):
            raise PhotoError(f"A photo needs samples of uint8 or uint16, not {kind}.")
        if self.alpha is not None and (self.alpha.shape != shape[:2] or self.alpha.dtype != kind):
            raise PhotoError("A photo's alpha must be of the kind and size of its samples.")
        if self.format not in EXTENSIONS:
            raise PhotoError(f"A photo is {', '.join(EXTENSIONS)}, not {self.format}.")

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.samples.shape[0])

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int(self.samples.shape[1])

    def enlarged(self, scale: float) -> tuple[int, int]:
        """Width and height of the photo so many times enlarged, rounded as the restorer does."""
        return math.floor(self.width * scale + 0.5), math.floor(self.height * scale + 0.5)

    @property
    def grey(self) -> bool:
        """Whether it has one channel besides alpha."""
        return bool(self.samples.shape[2] == 1)

    @property
    def bit_depth(self) -> int:
        """8 or 16 bits a channel."""
        return 8 * self.samples.dtype.itemsize

    @property
    def pixels(self) -> FloatArray:
        """The samples as float32, 0 to 1, height x width x 3 (grey: three equal channels). Made anew each time."""
        floats = from_integers(self.samples, float(most(self.bit_depth)))
        return np.repeat(floats, 3, axis=2) if self.grey else floats

    @property
    def extension(self) -> str:
        """The usual ending for the photo's format, dot included; what is in the file decides, not its
        name."""
        return EXTENSIONS[self.format]

    def replace(self, **changes: Any) -> Photo:
        """A copy with some fields changed, like `dataclasses.replace`."""
        return dataclasses.replace(self, **changes)

    def visible(self, bit_depth: int | None = None) -> IntArray:
        """The samples for a network, in at least `bit_depth` bits: where alpha is 0, colours from the nearest visible
        surroundings (see `alpha.py`)."""
        shown = self.samples
        if self.alpha is not None and self.encoding.extra_sample != 0:
            from unires.photo.alpha import fill_hidden

            shown = fill_hidden(shown, self.alpha)
        return in_depth(shown, max(bit_depth or 8, self.bit_depth))

    def with_pixels(self, pixels: npt.NDArray[Any]) -> Photo:
        """The photo with other `pixels` (height x width x 1 or 3; the size may differ) and all else kept. Floats are 0
        to 1 and become the photo's depth; uint8 and uint16 decide it.

        Same size: alpha stays as it is, and pixels under alpha 0 keep their original colours. Another size: alpha is
        resized (bicubic). Grey photos stay grey. Raises `PhotoError` when values are not finite.
        """
        new = np.asarray(pixels)
        new = in_depth(new, 8 * new.dtype.itemsize) if new.dtype.kind == "u" else to_integers(new, self.bit_depth)
        if new.ndim == 3 and new.shape[2] == 3 and self.grey:
            new = one_channel(new)
        alpha = self.alpha
        if alpha is not None and new.ndim == 3:
            from unires.photo.alpha import keep_hidden, resize_alpha

            if new.shape == self.samples.shape and self.encoding.extra_sample != 0:
                new = keep_hidden(new, in_depth(self.samples, 8 * new.dtype.itemsize), alpha)
            if new.shape[:2] != alpha.shape:
                alpha = resize_alpha(alpha, int(new.shape[0]), int(new.shape[1]))
            alpha = in_depth(alpha, 8 * new.dtype.itemsize)
        return dataclasses.replace(self, samples=new, alpha=alpha)


def fingerprint(photo: Photo, samples: IntArray) -> bytes:
    """A number for the photo's samples (as in its file, but upright) and all its metadata together."""
    state = hashlib.blake2b(np.ascontiguousarray(samples).data, digest_size=16)
    carried = (photo.format, photo.icc, photo.exif, photo.xmp, photo.iptc, photo.dpi, photo.comment)
    state.update(repr((samples.shape, carried)).encode())
    return state.digest()


def most(bit_depth: int) -> int:
    """The number that stands for 1."""
    return (1 << bit_depth) - 1


def bands(height: int) -> Iterator[slice]:
    """Rows in parts, for work that would otherwise need a second picture's memory."""
    return (slice(top, top + BAND) for top in range(0, height, BAND))


def from_integers(values: npt.NDArray[Any], maximum: float) -> FloatArray:
    """Numbers 0..maximum as float32 0..1. `to_integers` gives exactly the same whole numbers back (up to 16 bits)."""
    if values.dtype.itemsize > 2 and values.dtype != np.float32:
        # 32-bit numbers and doubles don't fit into float32, so they are divided before they are rounded to it.
        values, maximum = values / maximum, 1.0
    result: FloatArray = np.divide(values, np.float32(maximum), dtype=np.float32, casting="unsafe")
    return result


def to_integers(values: npt.NDArray[Any], bit_depth: int) -> IntArray:
    """0..1 as whole numbers of 8 or 16 bits: clipped and rounded to the nearest, never cut off. Raises `PhotoError` on
    NaN and infinity."""
    out = _empty(values.shape, bit_depth)
    for rows in bands(len(values)):
        band = values[rows].astype(np.float32, copy=False)
        if not np.isfinite(band).all():
            raise PhotoError("The picture holds values that are not numbers, so it is not written.")
        out[rows] = np.rint(np.clip(band, 0.0, 1.0) * np.float32(most(bit_depth)))
    return out


def in_depth(values: npt.NDArray[Any], bit_depth: int) -> IntArray:
    """uint8 or uint16 as 8 or 16 bits; to 8 rounded to the nearest. Without a change they are the same array."""
    if values.dtype not in (np.uint8, np.uint16):
        raise PhotoError(f"A photo needs samples of uint8 or uint16, not {values.dtype}.")
    if values.dtype.itemsize * 8 == bit_depth:
        same: IntArray = values
        return same
    out = _empty(values.shape, bit_depth)
    for rows in bands(len(values)):
        # 65535 = 255 * 257
        out[rows] = values[rows].astype(np.uint16) * 257 if bit_depth == 16 else np.rint(values[rows] / 257)
    return out


def one_channel(samples: IntArray) -> IntArray:
    """Height x width x 3 to x 1, by the mean of the channels."""
    out = np.empty((*samples.shape[:2], 1), samples.dtype)
    for rows in bands(len(samples)):
        out[rows] = np.rint(samples[rows].mean(axis=2, keepdims=True, dtype=np.float32))
    return out


def _empty(shape: tuple[int, ...], bit_depth: int) -> IntArray:
    kind: Any = np.uint8 if bit_depth == 8 else np.uint16
    out: IntArray = np.empty(shape, kind)
    return out
