"""Photos from files and into files: the two functions that everything else uses.

In = out: what a file says about its photo is read, carried in `Photo`, and written again; the picture's
colours, depth, transparency and greyness stay as they are; its orientation is applied once. Nothing is
written over an original, and a file under its final name is always complete.
"""

from __future__ import annotations

import dataclasses
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from unires.errors import OptionError, PhotoError, UniresError, nearest, shown
from unires.photo import codecs, encode, jpeg, plugins, png
from unires.photo import exif as exif_block
from unires.photo.alpha import divided
from unires.photo.atomic import exists, refuse_existing, why, write_atomically
from unires.photo.model import (
    EXTENSIONS,
    IntArray,
    Photo,
    bands,
    fingerprint,
    from_integers,
    most,
    to_integers,
)

MAX_PIXELS = 178_956_970  # what Pillow refuses as well: above it, a small file can fill the memory
READS = "JPEG, PNG, WebP, TIFF, AVIF and, with extras, HEIC, JPEG XL and camera raw"
FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".png": "PNG", ".webp": "WEBP"}
FORMATS |= {".tif": "TIFF", ".tiff": "TIFF", ".avif": "AVIF", ".heic": "HEIC", ".heif": "HEIC", ".hif": "HEIC"}
_NAMES = {
    "jpeg": "JPEG",
    "jpg": "JPEG",
    "png": "PNG",
    "webp": "WEBP",
    "tiff": "TIFF",
    "tif": "TIFF",
    "avif": "AVIF",
    "heic": "HEIC",
    "heif": "HEIC",
}
_LARGEST_SIDE = {"JPEG": 65_500, "PNG": 2**31 - 1, "WEBP": 16_383, "TIFF": 2**31 - 1, "AVIF": 65_536, "HEIC": 65_536}
# What libraries raise where a format has no room for something: Pillow the first two too, imagecodecs and pillow-heif
# the third. What the disk refuses is a PhotoError by then.
_ENCODERS_RAISE = (OSError, SyntaxError, RuntimeError, ValueError)

_READERS: dict[str, Callable[[BinaryIO, codecs.CheckSize], codecs.Decoded]] = {
    "JPEG": codecs.read_jpeg,
    "PNG": codecs.read_png,
    "WEBP": codecs.read_webp,
    "TIFF": codecs.read_tiff,
    "AVIF": codecs.read_avif,
    "HEIC": plugins.read_heic,
    "JPEG XL": plugins.read_jxl,
    "camera raw": plugins.read_raw,
}


def read_photo(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> Photo:
    """The photo in a file, upright, in its own colours, with everything the file says about it.

    The content decides the format, not the name: JPEG, PNG, WebP, TIFF or AVIF; with their extras HEIC, JPEG XL (the
    result will be PNG) and camera raw (TIFF). Palettes become RGB, 1, 2 and 4 bits
    become 8, 10 to 32 bits and floats of 0 to 1 become 16. CMYK becomes sRGB through its profile, and without one by
    plainly inverting the inks. Of a JPEG with several pictures (phones) the main one is read.

    Raises `PhotoError`, with one sentence, for a file that is missing, empty, damaged, cut short, no picture,
    an animation or of several pages, in another format, larger than `max_pixels`, or that holds values that
    are no numbers.
    """
    path = Path(path)
    name = shown(path)
    try:
        with _opened(path) as file:
            format = _sniffed(file)
            file.seek(0)
            decoded = _READERS[format](file, _size_check(max_pixels))
            photo, turned = _photo(decoded, decoded.format or format)
            if photo.format in ("PNG", "TIFF") or photo.encoding.lossless or turned:
                return photo
            # An unchanged photo would lose by being encoded once more, so its file is kept.
            file.seek(0)
            number = fingerprint(photo, decoded.samples)
            kept = dataclasses.replace(photo.encoding, source=file.read(), fingerprint=number)
            return photo.replace(encoding=kept)
    except codecs.Refusal as refusal:
        raise PhotoError(f"{name} {refusal}.") from None
    except PhotoError:
        raise
    except MemoryError as error:
        raise PhotoError(f"There is not enough memory to read {name}.") from error
    except Exception as error:
        # Decoders raise nearly anything on damaged files; whatever it is, to the user it is the same.
        raise PhotoError(f"{name} is damaged or cut short, so it cannot be read.") from error


def write_photo(
    photo: Photo,
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    quality: int | None = None,
    bit_depth: int | None = None,
    overwrite: bool = False,
    before: Callable[[Path], object] | None = None,
) -> None:
    """Writes `photo`, encoded as it came unless asked otherwise, with all it carries. All or nothing,
    verified.

    `format` ("jpeg", "png", "webp", "tiff", "avif", "heic") is by default what the name's ending says, and without a
    known ending the photo's own. `quality` (1 to 100) is for JPEG, WebP, AVIF and HEIC; formats without loss ignore
    it. `bit_depth` (8 or 16) is by default the photo's; 16 is for PNG and TIFF. Values are rounded to the
    nearest. Without a `quality`, JPEG keeps the photo's tables where they are finer than quality 92, and WebP
    stays without loss when the source was. An embedded thumbnail is made anew in its old place. EXIF, XMP and
    profile go into every format, IPTC into JPEG, TIFF and PNG, resolution and comment into JPEG, PNG and
    TIFF; a grey profile is left out where the format has no grey (WebP).

    A photo from a lossy file (JPEG, lossy WebP, AVIF) that is written as it was read is copied byte for byte, since
    encoding it once more would change it; one that was turned upright is encoded.

    `before` is called with the path of the verified file just before it gets its name, and may object by raising.

    Raises `PhotoError` (see `check_output`, and for a full disk, a folder that may not be written to, and so
    on), and leaves nothing behind then.
    """
    path = Path(path)
    target, depth = _checked(photo, path, format, quality, bit_depth, (photo.width, photo.height))
    if not overwrite and exists(path):
        raise refuse_existing(path)
    how: dict[str, Any] = {"before": before, "overwrite": overwrite}
    try:
        values = encode.samples(photo, target, depth)
        same = photo.encoding.source if target == photo.format and quality is None else b""
        if same and fingerprint(photo, values) == photo.encoding.fingerprint:
            write_atomically(path, lambda file: file.write(same), verify=_verify_copy(same, path), **how)
            return
        carried = encode.fitted(photo, target, values)
        fill = encode.filler(carried, target, values, quality)
        write_atomically(path, fill, verify=lambda p: _verify(p, path, target, depth, values), **how)
    except UniresError:
        raise
    except MemoryError as error:
        raise PhotoError(f"There is not enough memory to write {shown(path)}.") from error
    except (struct.error, ArithmeticError) as error:
        reason = "the photo carries a number, such as a resolution, that the format has no room for"
        raise PhotoError(f"{shown(path)} cannot be written: {reason}.") from error
    except _ENCODERS_RAISE as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise PhotoError(f"{shown(path)} cannot be written: {reason}.") from error


def check_output(
    photo: Photo,
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    quality: int | None = None,
    bit_depth: int | None = None,
    overwrite: bool = False,
    size: tuple[int, int] | None = None,
) -> None:
    """Everything about a `write_photo` that can be refused before the work is done; `size` is (width,
    height).

    Raises `OptionError` for an unknown format or value, `PhotoError` for a name that is taken, a folder that
    is not there or may not be written to, transparency or 16 bits that the format cannot hold, or a picture
    too large for it.
    """
    path = Path(path)
    _checked(photo, path, format, quality, bit_depth, size or (photo.width, photo.height))
    if not overwrite and exists(path):
        raise refuse_existing(path)
    if path.is_dir():
        raise PhotoError(f"{shown(path)} cannot be written: there is a folder of that name.")
    folder = path.parent
    if not folder.exists():
        raise PhotoError(f"{shown(path)} cannot be written: there is no such folder.")
    if not folder.is_dir():
        raise PhotoError(f"{shown(path)} cannot be written: its folder is a file.")
    if not os.access(folder, os.W_OK):
        raise PhotoError(f"{shown(path)} cannot be written: the folder may not be written to.")


def extension_of(format: str) -> str:
    """The usual ending of a format's files, dot included. Raises `OptionError` for an unknown one."""
    return EXTENSIONS[_format_named(format)]


def _format_named(name: str) -> str:
    plain = name.lower().lstrip(".")
    if plain not in _NAMES:
        raise OptionError(nearest(name, ["jpeg", "png", "webp", "tiff", "avif", "heic"], kind="format"))
    return _NAMES[plain]


def _opened(path: Path) -> BinaryIO:
    # Without O_NONBLOCK, opening a named pipe would wait for ever.
    extra = getattr(os, "O_NONBLOCK", 0)
    try:
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | extra))  # noqa: SIM115
    except FileNotFoundError as error:
        raise PhotoError(f"There is no file {shown(path)}.") from error
    except IsADirectoryError as error:
        raise PhotoError(f"{shown(path)} is a folder, not a photo.") from error
    except PermissionError as error:
        raise PhotoError(f"{shown(path)} may not be read.") from error
    except OSError as error:
        raise PhotoError(f"{shown(path)} cannot be read: {why(error)}.") from error
    except ValueError as error:
        raise PhotoError(f"{shown(path)} is no possible file name.") from error
    status = os.fstat(file.fileno())
    if stat.S_ISREG(status.st_mode) and status.st_size > 0:
        return file
    file.close()
    raise PhotoError(f"{shown(path)} is {'empty' if stat.S_ISREG(status.st_mode) else 'not a regular file'}.")


def _sniffed(file: BinaryIO) -> str:
    """The format, from the first bytes. Refuses others, by name where they are well known."""
    head = file.read(64)
    brands = head[8:40] if head[4:8] == b"ftyp" else b""
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(png.SIGNATURE):
        return "PNG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if exif_block.byte_order(head) and head[8:10] != b"CR":
        return "TIFF"
    if b"avif" in brands or b"avis" in brands:
        return "AVIF"
    known = {
        b"GIF8": "a GIF picture",
        b"BM": "a BMP picture",
        b"%PDF": "a PDF document",
        b"8BPS": "a Photoshop document",
        b"\0\0\0\x0cjP  ": "a JPEG 2000 picture",
        b"<svg": "an SVG drawing",
        b"#?RADIANCE": "an HDR picture",
        b"v/1\x01": "an OpenEXR picture",
    }
    if brands[:4] in (b"heic", b"heix", b"heif", b"mif1", b"hevc"):
        return "HEIC"
    if head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return "JPEG XL"
    if brands[:4] == b"crx " or head.startswith((b"FUJIFILM", b"IIRO", b"MMOR", b"IIU\0", b"II*\0")):
        return "camera raw"
    for start, what in known.items():
        if head.startswith(start):
            raise codecs.Refusal(f"is {what}, which UniRes does not read (it reads {READS})")
    raise codecs.Refusal(f"is not a picture that UniRes can read (it reads {READS})")


def _size_check(most: int) -> codecs.CheckSize:
    def check(width: int, height: int) -> None:
        if width < 1 or height < 1:
            raise ValueError("no pixels")
        if width * height > most:
            million = width * height / 1e6
            raise codecs.Refusal(
                f"claims to have {width} x {height} pixels ({million:,.0f} million), "
                f"more than the {most / 1e6:,.0f} million that are read"
            )

    return check


def _photo(decoded: codecs.Decoded, format: str) -> tuple[Photo, bool]:
    """Turned upright (and whether that changed anything), colours and alpha apart."""
    fields = decoded.fields
    turn = codecs.say_upright(fields)
    if turn != 1:
        decoded.samples = np.ascontiguousarray(_turned(decoded.samples, turn))
    samples = _whole_numbers(decoded)
    channels = samples.shape[2]
    colours = samples[..., : 1 if channels < 3 else 3]
    alpha = samples[..., -1] if channels in (2, 4) else None
    encoding = fields.get("encoding")
    if alpha is not None and encoding is not None and encoding.extra_sample == 1:
        # Colours multiplied by alpha are divided for the work, and multiplied again on the way out.
        colours = divided(colours, alpha)
    return Photo(colours, alpha, format=format, **fields), turn != 1


def _whole_numbers(decoded: codecs.Decoded) -> IntArray:
    """8 bits stay 8, all else becomes 16."""
    samples = decoded.samples
    kind = samples.dtype
    if (kind == np.uint8 and decoded.maximum == 255) or (kind == np.uint16 and decoded.maximum == 65535):
        return samples
    out = np.empty(samples.shape, np.uint16)
    for rows in bands(len(samples)):
        out[rows] = to_integers(from_integers(samples[rows], decoded.maximum), 16)
    return out


def _turned(samples: npt.NDArray[Any], turn: int) -> npt.NDArray[Any]:
    """Upright from EXIF orientation `turn` (2 to 8)."""
    if turn in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    if turn in (3, 4, 7, 8):
        samples = samples[::-1]
    if turn in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return samples


def check_encoding(quality: int | None, bit_depth: int | None) -> None:
    """Raises OptionError for what no format has."""
    if quality is not None and not 1 <= quality <= 100:
        raise OptionError(f"The quality must be from 1 to 100, not {quality}.")
    if bit_depth not in (None, 8, 16):
        raise OptionError(f"The bit depth must be 8 or 16, not {bit_depth}.")


def _checked(
    photo: Photo,
    path: Path,
    format: str | None,
    quality: int | None,
    bit_depth: int | None,
    size: tuple[int, int],
) -> tuple[str, int]:
    """Format and depth of the output, or an error."""
    other = plugins.WRITTEN_AS.get(path.suffix.lower())
    if other and format is None:
        raise PhotoError(f"{shown(path)} cannot be written: its format is only read; a name ending in {other} will do.")
    target = FORMATS.get(path.suffix.lower(), photo.format) if format is None else _format_named(format)
    plugins.check_writable(target)
    check_encoding(quality, bit_depth)
    deep = target in ("PNG", "TIFF")
    if bit_depth == 16 and not deep:
        raise PhotoError(f"{_shown_format(target)} cannot hold 16 bits a channel; PNG and TIFF can.")
    if bit_depth is None and photo.bit_depth == 16 and target == photo.format and not deep:
        raise PhotoError(
            "The photo has more than 8 bits a channel, which UniRes cannot write "
            f"as {_shown_format(target)}; choose PNG or TIFF, or 8 bits."
        )
    if target == "JPEG" and photo.alpha is not None and (photo.alpha != most(photo.bit_depth)).any():
        raise PhotoError("The photo is partly transparent, which JPEG cannot hold; PNG, WebP, TIFF, AVIF and HEIC can.")
    if target == "JPEG":
        jpeg.check_room(photo)
    if max(size) > _LARGEST_SIDE[target]:
        raise PhotoError(
            f"{_shown_format(target)} holds at most {_LARGEST_SIDE[target]:,} pixels a side, "
            f"the picture has {size[0]} x {size[1]}."
        )
    depth = (bit_depth or photo.bit_depth) if deep else 8
    return target, depth


def _damaged_output(path: Path) -> PhotoError:
    return PhotoError(f"{shown(path)} was not written correctly (the disk may be faulty), so nothing was kept.")


def _verify_copy(content: bytes, path: Path) -> Callable[[Path], None]:
    def verify(temporary: Path) -> None:
        if temporary.read_bytes() != content:
            raise _damaged_output(path)

    return verify


def _verify(temporary: Path, path: Path, target: str, depth: int, values: IntArray) -> None:
    """Reads the new file from the disk again: whole, of the right size, channels and depth; without loss,
    equal."""
    failed = PhotoError(f"{shown(path)} was not written correctly (the disk may be faulty), so nothing was kept.")
    try:
        with _opened(temporary) as file:
            if _sniffed(file) != target:
                raise failed
            file.seek(0)
            decoded = _READERS[target](file, _size_check(2**62))
    except PhotoError:
        raise failed from None
    except Exception as error:
        raise failed from error
    channels = values.shape[2]
    if target == "WEBP" or (target in ("AVIF", "HEIC") and channels == 2):
        channels += 2 if channels < 3 else 0
    same = decoded.samples.shape[:2] == values.shape[:2] and decoded.samples.dtype == values.dtype
    opaque = target in ("WEBP", "AVIF", "HEIC") and bool((values[..., -1] == 255).all())  # may be left out
    same &= opaque or decoded.samples.shape[2] == channels
    if same and target in ("PNG", "TIFF"):
        same = bool(np.array_equal(decoded.samples, values))
    if not same:
        raise failed


def _shown_format(target: str) -> str:
    return "WebP" if target == "WEBP" else target


__all__ = ["EXTENSIONS", "FORMATS", "MAX_PIXELS", "check_output", "read_photo", "write_photo"]
