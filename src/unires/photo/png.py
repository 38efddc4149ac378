"""PNG in chunks: what is said about the picture is copied, 16-bit pixels are really 16-bit.

Pillow reads 16-bit colour PNG as 8-bit without a word, so those go through libpng (imagecodecs). Chunks are
handled here for both depths, which keeps them byte for byte. Source: PNG specification, third edition (W3C
2023).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from unires.photo import exif as exif_block
from unires.photo.model import IntArray, Photo
from unires.photo.resources import IPTC, resource_block

SIGNATURE = b"\x89PNG\r\n\x1a\n"
XMP_KEY = b"XML:com.adobe.xmp"
# Colour meaning and texts: true for the restored picture as well. tIME, sBIT, hIST and the rest are not.
_COPIED = (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI", b"tEXt", b"zTXt", b"iTXt")
_BEFORE_PIXELS = ("gAMA", "cHRM", "sRGB", "cICP", "mDCV", "cLLI")
LARGEST_TEXT = 64 << 20
_METRE = 0.0254


@dataclass(frozen=True)
class Header:
    """What stands before the pixels: size, bits a channel, and how many frames an animation has."""

    width: int
    height: int
    bits: int
    frames: int


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and content of each chunk, in order, as far as the file goes."""
    at = len(SIGNATURE)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            return
        yield kind, data[at + 8 : at + 8 + length]
        if kind == b"IEND":
            return
        at += 12 + length


def header(data: bytes) -> Header:
    """The header of a PNG. Raises `ValueError` where there is none."""
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise ValueError("no IHDR")
    width, height, bits = struct.unpack_from(">IIB", data, 16)
    frames = 1
    for kind, body in chunks(data):
        if kind == b"acTL" and len(body) >= 4:
            frames = int(struct.unpack_from(">I", body)[0])
        if kind == b"IDAT":
            break
    return Header(width, height, bits, frames)


def metadata(data: bytes) -> dict[str, Any]:
    """Fields of `Photo` (and `extras` for its `Encoding`) that the chunks hold. The profile comes from the
    decoder."""
    found: dict[str, Any] = {}
    extras: list[tuple[str, bytes]] = []
    for kind, body in chunks(data):
        if kind == b"eXIf":
            found["exif"] = exif_block.without_prefix(body)
        elif kind == b"pHYs" and len(body) == 9 and body[8] == 1:
            x, y = struct.unpack_from(">II", body)
            found["dpi"] = (x * _METRE, y * _METRE) if x and y else None
        elif kind == b"iTXt" and body.startswith(XMP_KEY + b"\0"):
            found["xmp"] = _international(body)
        elif kind == b"zTXt" and body.startswith(b"Raw profile type "):
            name, raw = _raw_profile(body)
            if name == b"exif" and "exif" not in found:
                found["exif"] = exif_block.without_prefix(raw)
            elif name in (b"iptc", b"8bim"):
                # some put the record there as it is, others the resources that hold it
                bare = raw is not None and raw.startswith(b"\x1c")
                found["iptc"] = resource_block(IPTC, raw) if raw and bare else raw
            elif name == b"xmp":
                found.setdefault("xmp", raw)
            elif name not in (b"exif", b"icc", b"icm", b"APP1"):
                extras.append((kind.decode("ascii"), body))
        elif kind in _COPIED:
            if kind == b"tEXt" and body.startswith(b"Comment\0") and "comment" not in found:
                found["comment"] = body[8:]
            else:
                extras.append((kind.decode("ascii"), body))
    found["extras"] = tuple(extras)
    return found


def decode16(data: bytes) -> IntArray:
    """Pixels of a 16-bit PNG, uint16, height x width x (nothing, 2, 3 or 4); a transparent colour becomes
    alpha."""
    import imagecodecs

    pixels = np.asarray(imagecodecs.png_decode(data))
    if pixels.dtype != np.uint16:
        raise ValueError(f"a 16-bit PNG was read as {pixels.dtype}")
    return pixels


def encode(values: IntArray) -> bytes:
    """A plain PNG of uint8 or uint16, height x width x (nothing, 2, 3 or 4), compressed without loss."""
    import imagecodecs

    # Room for data that cannot be compressed, its filter bytes and chunks; the library's own guess is too
    # small for narrow pictures.
    room = values.nbytes + values.nbytes // 64 + 2 * values.shape[0] + (1 << 16)
    return bytes(imagecodecs.png_encode(np.ascontiguousarray(values), level=6, out=room))


def with_metadata(plain: bytes, photo: Photo) -> bytes:
    """`plain` (a PNG of the pixels alone) with everything that `photo` carries."""
    before: list[tuple[bytes, bytes]] = []
    after: list[tuple[bytes, bytes]] = []
    extras = photo.encoding.extras if photo.format == "PNG" else ()
    for name, body in extras:
        (before if name in _BEFORE_PIXELS else after).append((name.encode("ascii"), body))
    if photo.icc:
        before.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(photo.icc)))
        # A profile and sRGB exclude each other, and the profile wins.
        before = [(kind, body) for kind, body in before if kind != b"sRGB"]
    if photo.dpi:
        x, y = (min(round(v / _METRE), 2**31 - 1) for v in photo.dpi)
        before.append((b"pHYs", struct.pack(">IIB", x, y, 1)))
    if photo.exif:
        before.append((b"eXIf", photo.exif))
    if photo.xmp:
        before.append((b"iTXt", XMP_KEY + b"\0\0\0\0\0" + photo.xmp))
    if photo.comment:
        after.append((b"tEXt", b"Comment\0" + photo.comment.replace(b"\0", b"")))
    if photo.iptc:
        lines = photo.iptc.hex()
        text = "\n".join(lines[i : i + 72] for i in range(0, len(lines), 72))
        body = f"\niptc\n{len(photo.iptc):8d}\n{text}\n".encode("ascii")
        after.append((b"zTXt", b"Raw profile type iptc\0\0" + zlib.compress(body)))
    out = [SIGNATURE]
    for kind, body in chunks(plain):
        if kind == b"IDAT" and before:
            out += [_chunk(*item) for item in before]
            before = []
        if kind == b"IEND":
            out += [_chunk(*item) for item in after]
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            out.append(_chunk(kind, body))
    return b"".join(out)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def _inflate(body: bytes) -> bytes:
    """A short text out of its compression, or nothing when it is damaged or suspiciously long."""
    machine = zlib.decompressobj()
    try:
        text = machine.decompress(body, LARGEST_TEXT)
    except zlib.error:
        return b""
    return b"" if machine.unconsumed_tail else text


def _international(body: bytes) -> bytes | None:
    """The text of an iTXt chunk."""
    rest = body.split(b"\0", 1)[1]
    if len(rest) < 2:
        return None
    packed, parts = rest[0] == 1, rest[2:].split(b"\0", 2)
    if len(parts) < 3:
        return None
    return (_inflate(parts[2]) if packed else parts[2]) or None


def _raw_profile(body: bytes) -> tuple[bytes, bytes | None]:
    """Name and content of an ImageMagick "Raw profile type" text: name, length and hexadecimal digits."""
    key, _, packed = body.partition(b"\0")
    parts = _inflate(packed[1:]).strip().split(b"\n", 2)
    if len(parts) < 3:
        return key[17:], None
    try:
        return key[17:], bytes.fromhex(parts[2].decode("ascii"))
    except ValueError:
        return key[17:], None
