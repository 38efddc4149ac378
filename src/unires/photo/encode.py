"""From a photo to a file's bytes: samples, metadata that fit the output, the encoder of each format."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from typing import BinaryIO

import numpy as np

from unires.photo import codecs, jpeg, plugins, png, tiff
from unires.photo import exif as exif_block
from unires.photo.alpha import multiplied
from unires.photo.model import IntArray, Photo, in_depth

_QUALITY = {"WEBP": 95, "AVIF": 92}


def samples(photo: Photo, target: str, depth: int) -> IntArray:
    """The samples to be written, height x width x channels; those of the photo itself where nothing changes."""
    colours = photo.samples
    if photo.alpha is None or target == "JPEG":
        return in_depth(colours, depth)
    if target == photo.format == "TIFF" and photo.encoding.extra_sample == 1:
        colours = multiplied(colours, photo.alpha)
    return in_depth(np.concatenate([colours, photo.alpha[..., None]], axis=2), depth)


def fitted(photo: Photo, target: str, values: IntArray) -> Photo:
    """`photo` with metadata that fit the output: size and thumbnail in EXIF, no grey profile on RGB."""
    changes: dict[str, bytes | None] = {}
    if photo.exif:
        block = exif_block.with_size(photo.exif, photo.width, photo.height)
        if target != "TIFF":
            block = exif_block.with_thumbnail(block, lambda limit: _thumbnail(values, limit))
        changes["exif"] = block
    if photo.xmp:
        changes["xmp"] = exif_block.xmp_alone(photo.xmp)
    rgb = target == "WEBP" or (target in ("AVIF", "HEIC") and values.shape[2] == 2)
    if photo.icc and photo.icc[16:20] == b"GRAY" and (rgb or not photo.grey):
        changes["icc"] = None
    return dataclasses.replace(photo, **changes) if changes else photo  # type: ignore[arg-type]


def _thumbnail(values: IntArray, limit: int) -> bytes | None:
    """A small JPEG of at most `limit` bytes, 160 pixels long as EXIF has it, or None if there is no room."""
    step = max(1, max(values.shape[:2]) // 640)
    small = values[::step, ::step, : 3 if values.shape[2] >= 3 else 1]
    image = codecs.image_from((small >> 8).astype(np.uint8) if small.dtype == np.uint16 else small)
    image.thumbnail((160, 160))
    for quality in (85, 70, 50, 30):
        out = io.BytesIO()
        image.save(out, format="JPEG", quality=quality, optimize=True)
        if out.tell() <= limit:
            return out.getvalue()
    return None


def filler(photo: Photo, target: str, values: IntArray, quality: int | None) -> Callable[[BinaryIO], object]:
    """How to fill the file. All but TIFF are encoded in memory: then a full disk shows as what it is."""
    if target == "TIFF":
        return lambda file: tiff.encode(file, values, photo)
    if target == "PNG":
        data = png.with_metadata(png.encode(values[..., 0] if values.shape[2] == 1 else values), photo)
    elif target == "JPEG":
        data = jpeg.encode(codecs.image_from(values), photo, quality)
    elif target == "HEIC":
        data = plugins.encode_heic(values, photo, quality)
    else:
        data = _webp_or_avif(photo, target, values, quality)
    return lambda file: file.write(data)


def _webp_or_avif(photo: Photo, target: str, values: IntArray, quality: int | None) -> bytes:
    image = codecs.image_from(values)
    if image.mode == "LA":
        image = image.convert("RGBA")
    options: dict[str, object] = {"quality": _QUALITY[target] if quality is None else quality}
    if target == "WEBP":
        if image.mode == "L":
            image = image.convert("RGB")
        # `exact` keeps the colours of fully transparent pixels.
        options |= {"lossless": quality is None and photo.encoding.lossless, "exact": True, "method": 4}
        options["quality"] = 80 if options["lossless"] else options["quality"]
    else:
        own = photo.encoding.subsampling if photo.format == "AVIF" and not photo.grey else ""
        options |= {"subsampling": "4:0:0" if image.mode == "L" else own or "4:4:4", "speed": 6}
        if own == "4:0:0":
            options["subsampling"] = "4:4:4"
    exif = photo.exif or b""
    if target == "AVIF":  # Pillow would take the orientation out itself, and write the whole block anew
        exif = exif_block.without_orientation(exif)
    metadata = {"exif": exif, "icc_profile": photo.icc or b"", "xmp": photo.xmp or b""}
    out = io.BytesIO()
    image.save(out, format=target, **options, **metadata)
    return out.getvalue()
