"""Bytes to samples and back, one function a format. What can go wrong is judged in `files.py`.

Pillow reads and writes JPEG, WebP, AVIF and 8-bit PNG; see `png.py` and `tiff.py` for the rest. Pillow's
plugins are opened by name, so that what a file claims to be never selects another decoder. (Opened like that
they don't print warnings about large pictures either; the limit is checked here, before anything is decoded.)
"""

from __future__ import annotations

import io
import struct
import threading
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt

from unires.photo import exif as exif_block
from unires.photo import icc, jpeg, png, tiff
from unires.photo.model import Encoding, bands

if TYPE_CHECKING:
    from PIL import Image, ImageFile

    Plugin = TypeVar("Plugin", bound=ImageFile.ImageFile)

CheckSize = Callable[[int, int], None]
_LOCK = threading.RLock()


class Refusal(Exception):
    """Why a file is not read: the rest of a sentence that starts with its name."""


class Decoded:
    """What a decoder found: whole-number or float samples, height x width x channels, and fields of
    `Photo`. `format`: of the output, where the file's own is only read."""

    def __init__(self, samples: npt.NDArray[Any], maximum: float, format: str = "", **fields: Any) -> None:
        self.samples = samples if samples.ndim == 3 else samples[..., None]
        self.maximum = maximum
        self.format = format
        self.fields = fields


def read_jpeg(file: BinaryIO, check: CheckSize) -> Decoded:
    """JPEG. Of a file with several pictures (phones, stereo cameras) the first: it is the photo, the rest
    derives."""
    from PIL import JpegImagePlugin

    with opened(JpegImagePlugin.JpegImageFile, file) as image:
        check(*image.size)
        fields, encoding = jpeg.metadata(image)
        samples, icc = _samples(image)
        return Decoded(samples, 255, **{**fields, "icc": icc, "encoding": encoding})


def read_png(file: BinaryIO, check: CheckSize) -> Decoded:
    """PNG of any depth; palettes and 1, 2 and 4 bits become 8-bit."""
    from PIL import PngImagePlugin

    data = file.read()
    # of a profile or a text, once inflated; Pillow's own limit is less than some printers' profiles have
    PngImagePlugin.MAX_TEXT_CHUNK = max(PngImagePlugin.MAX_TEXT_CHUNK, png.LARGEST_TEXT)
    PngImagePlugin.MAX_TEXT_MEMORY = max(PngImagePlugin.MAX_TEXT_MEMORY, 2 * png.LARGEST_TEXT)
    header = png.header(data)
    check(header.width, header.height)
    one_page(header.frames)
    fields = png.metadata(data)
    encoding = Encoding(lossless=True, extras=fields.pop("extras"))
    with opened(PngImagePlugin.PngImageFile, io.BytesIO(data)) as image:
        # Pillow checks every chunk's sum and inflates the profile within bounds.
        fields["icc"] = image.info.get("icc_profile")
        if header.bits == 16:
            samples: npt.NDArray[Any] = png.decode16(data)
            return Decoded(samples, 65535, encoding=encoding, **fields)
        if header.bits in (2, 4) and image.mode == "L" and "transparency" in image.info:
            image.info["transparency"] *= 255 // ((1 << header.bits) - 1)  # Pillow spreads the pixels, but not this
        samples, fields["icc"] = _samples(image)
    return Decoded(samples, 255, encoding=encoding, **fields)


def read_webp(file: BinaryIO, check: CheckSize) -> Decoded:
    """WebP, both kinds."""
    from PIL import WebPImagePlugin

    data = file.read()
    if data[12:16] == b"VP8X":
        # The decoder makes room for this size as soon as it is opened.
        check(int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1)
    with opened(WebPImagePlugin.WebPImageFile, io.BytesIO(data)) as image:
        check(*image.size)
        one_page(image.n_frames)
        info = image.info
        samples, icc = _samples(image)
        exif = exif_block.without_prefix(info.get("exif"))
        encoding = Encoding(lossless=_riff_has(data, b"VP8L"))
        return Decoded(samples, 255, icc=icc, exif=exif, xmp=info.get("xmp"), encoding=encoding)


def read_avif(file: BinaryIO, check: CheckSize) -> Decoded:
    """AVIF; more than 8 bits become 16, where the optional decoder for that is there."""
    from PIL import AvifImagePlugin

    if not AvifImagePlugin.SUPPORTED:
        raise Refusal("is AVIF, which this installation of Pillow does not read")
    data = file.read()
    depth, subsampling = _av1_configuration(data)
    with opened(AvifImagePlugin.AvifImageFile, io.BytesIO(data)) as image:
        check(*image.size)
        one_page(image.n_frames)
        info = image.info
        exif = exif_block.without_prefix(info.get("exif"))
        encoding = Encoding(subsampling=subsampling)
        profile = colours(data, info.get("icc_profile"))
        fields: dict[str, Any] = {"exif": exif, "xmp": info.get("xmp"), "icc": profile, "encoding": encoding}
        if depth > 8:
            import imagecodecs

            deep = np.asarray(imagecodecs.avif_decode(data))
            if deep.dtype == np.uint16 and deep.shape[:2] == (image.height, image.width):
                return Decoded(deep, (1 << depth) - 1, **fields)
        samples, _ = _samples(image)
        return Decoded(samples, 255, **fields)


def read_tiff(file: BinaryIO, check: CheckSize) -> Decoded:
    """TIFF with one page. Float samples must lie within 0 and 1."""
    directory = tiff.Directory(file)
    if directory.raw:
        from unires.photo.plugins import read_raw

        return read_raw(file, check)
    check(*directory.size)
    one_page(directory.pages)
    fields = directory.metadata()
    encoding = Encoding(
        lossless=True, compression=tiff.compression(directory), extra_sample=tiff.extra_sample(directory)
    )
    if not tiff.complete(file, directory):
        raise ValueError("strips are missing")
    if not directory.plain:
        from PIL import TiffImagePlugin

        file.seek(0)
        if max(directory.numbers(258) or [1]) > 8:
            raise Refusal("has more than 8 bits a channel, which UniRes reads from grey and RGB only")
        with opened(TiffImagePlugin.TiffImageFile, file) as image:
            check(*image.size)
            samples, fields["icc"] = _samples(image)
        say_upright(fields)  # Pillow turns these itself
        return Decoded(samples, 255, encoding=encoding, **fields)
    if directory.samples > 4:
        raise Refusal(f"has {directory.samples} channels; photos have at most four")
    samples = tiff.decode(file, directory)
    bits = max(directory.numbers(258))
    if samples.dtype.kind == "f":
        if not np.isfinite(samples).all():
            raise Refusal("holds values that are not numbers (NaN or infinity)")
        low, high = float(samples.min()), float(samples.max())
        if low < 0 or high > 1:
            raise Refusal(f"holds float values from {low:.4g} to {high:.4g}; only values from 0 to 1 are a photo")
        maximum = 1.0
    elif samples.dtype.kind == "u" and directory.number(339, 1) == 1:
        maximum = float((1 << bits) - 1)
    else:
        raise Refusal("holds signed or complex numbers, which are no photo")
    if directory.number(262, 1) == 0:
        # White is zero.
        samples = maximum - samples if samples.dtype.kind == "f" else samples.dtype.type(maximum) - samples
    return Decoded(samples, maximum, encoding=encoding, **fields)


def image_from(values: npt.NDArray[Any]) -> Image.Image:
    """uint8 samples, height x width x (1, 2, 3 or 4), as a Pillow image."""
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(values[..., 0] if values.shape[2] == 1 else values))


def opened(plugin: Callable[[BinaryIO], Plugin], file: BinaryIO) -> Plugin:
    """Reads the header. Pillow's warnings about odd metadata would appear between UniRes's own lines."""
    # Catching warnings concerns all threads, so one after the other.
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return plugin(file)


def say_upright(fields: dict[str, Any]) -> int:
    """Let the fields of a `Photo` say that it is upright; returns the orientation that EXIF stated before, 1 to 8."""
    turn = exif_block.orientation(fields.get("exif"))
    if turn != 1:
        fields["exif"] = exif_block.upright(fields["exif"])
        if fields.get("xmp"):
            fields["xmp"] = exif_block.xmp_upright(fields["xmp"])
        if turn >= 5 and fields.get("dpi"):
            fields["dpi"] = fields["dpi"][::-1]
    return turn


def colours(data: bytes, profile: bytes | None) -> bytes | None:
    """The profile of an AVIF or HEIC file: its own, or one that says the same as the numbers that it has in its place
    (ITU-T H.273; a `colr` box of the kind `nclx`, ISO 14496-12, section 12.1.5), which other formats could not carry.
    None for sRGB. Raises Refusal for high dynamic range, which no profile says."""
    at = data.find(b"colrnclx", 0, 1 << 16)
    if profile or at < 0 or at + 12 > len(data):
        return profile
    primaries, transfer = struct.unpack_from(">HH", data, at + 8)
    if primaries in (1, 2, 5, 6) and transfer in (1, 2, 6, 13):  # 5 and 6: television's, hardly another red
        return None
    made = icc.from_numbers(primaries, transfer)
    if made is None:
        what = "high dynamic range (HDR)" if transfer in (16, 18) else "colours of an unusual kind"
        raise Refusal(f"has {what}, which UniRes cannot write again; save it as sRGB, or with a profile")
    return made


def _samples(image: Image.Image) -> tuple[npt.NDArray[Any], bytes | None]:
    """8-bit samples of any Pillow image, and the profile that belongs to them."""
    icc = image.info.get("icc_profile")
    mode = image.mode
    if mode == "CMYK":
        image, icc = _from_cmyk(image, icc)
    elif image.has_transparency_data and mode not in ("LA", "RGBA"):
        image = image.convert("LA" if mode in ("1", "L") else "RGBA")
    elif mode == "1":
        image = image.convert("L")
    elif mode in ("P", "YCbCr", "RGBX", "HSV"):
        image = image.convert("RGB")
    elif mode not in ("L", "LA", "RGB", "RGBA"):
        raise Refusal(f"has a kind of colour that UniRes does not read ({mode})")
    return samples_of(image), icc


def samples_of(image: Image.Image) -> npt.NDArray[Any]:
    """The samples of a Pillow image. Taken at once, they would for a while take up three times the memory."""
    out: npt.NDArray[Any] | None = None
    for rows in bands(image.height):
        band = np.asarray(image.crop((0, rows.start, image.width, min(rows.stop, image.height))))
        if out is None:
            out = np.empty((image.height, *band.shape[1:]), band.dtype)
        out[rows] = band
    assert out is not None
    return out


def _from_cmyk(image: Image.Image, icc: bytes | None) -> tuple[Image.Image, bytes | None]:
    """CMYK to RGB: to sRGB through its profile; without one (or with a damaged one) plainly, as inverted
    inks."""
    from PIL import ImageCms

    if icc:
        try:
            target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
            source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            converted = ImageCms.profileToProfile(
                image,
                source,
                target,
                renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
                outputMode="RGB",
                flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
            )
            if converted is not None:
                return converted, target.tobytes()
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass
    return image.convert("RGB"), None


def one_page(count: int) -> None:
    """Refuses animations and files of several pages: all of it, not silently the first picture."""
    if count > 1:
        raise Refusal(f"holds {count} pictures (an animation or several pages); save the one you want on its own")


def _riff_has(data: bytes, wanted: bytes) -> bool:
    """Whether a WebP file has a chunk of this name at its top level."""
    at = 12
    while at + 8 <= len(data):
        if data[at : at + 4] == wanted:
            return True
        at += 8 + int.from_bytes(data[at + 4 : at + 8], "little")
        at += at % 2
    return False


def _av1_configuration(data: bytes) -> tuple[int, str]:
    """Bits a channel and chroma subsampling, from the first `av1C` box (AV1 in ISOBMFF, section 2.3.3)."""
    at = data.find(b"av1C", 0, 1 << 16)
    if at < 0 or at + 8 > len(data):
        return 8, ""
    third = data[at + 6]
    depth = (12 if third & 0x20 else 10) if third & 0x40 else 8
    if third & 0x10:
        return depth, "4:0:0"
    return depth, {(0, 0): "4:4:4", (1, 0): "4:2:2", (1, 1): "4:2:0"}.get((third >> 3 & 1, third >> 2 & 1), "")
