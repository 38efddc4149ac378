"""TIFF: pixels by tifffile, metadata by tables of tags.

Pillow reads 16-bit colour TIFF as 8-bit, if at all, so plain pictures (grey, RGB, with or without alpha, 8 to
32 bits or float, uncompressed, LZW, deflate and so on) go through tifffile. Palette, CMYK, YCbCr,
JPEG-in-TIFF and fax pictures, 8-bit all of them, go through Pillow. Sources: TIFF 6.0, its supplements 1 and
2, BigTIFF.
"""

from __future__ import annotations

import os
import struct
from fractions import Fraction
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from unires.photo import exif as exif_block
from unires.photo.exif import Entry, Tables
from unires.photo.model import IntArray, Photo
from unires.photo.resources import IPTC, resource, resource_block

# Tags of the file's structure, and those that `Photo` carries elsewhere; all others are copied with the EXIF
# tables.
_DESCRIPTION, _XMP, _IPTC, _PHOTOSHOP, _ICC = 270, 700, 33723, 34377, 34675
_STRUCTURE = {
    *range(254, 267), 273, *range(277, 285), *range(288, 294), 296, 297, 301, *range(317, 326),
    *range(330, 348), *range(400, 405), *range(512, 522), *range(529, 533), 559, _XMP, _IPTC, _PHOTOSHOP,
    _ICC, 37724, *range(50706, 51200),
}  # fmt: skip
_COMPRESSION = {1: "none", 5: "lzw", 8: "deflate", 32946: "deflate"}
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _YCBCR, _CFA, _LINEAR_RAW = 0, 1, 2, 6, 32803, 34892
_MOST_PAGES = 10_000
_RAW_HEADS = {b"IIRO": "<", b"IIRS": "<", b"MMOR": ">", b"IIU\0": "<"}  # ORF and RW2 are TIFF but for this


class Directory:
    """The tables of an open TIFF file: its first page, how many pages there are, and whether they are a
    photo."""

    def __init__(self, file: BinaryIO) -> None:
        size = os.fstat(file.fileno()).st_size

        def cut(at: int, length: int) -> bytes:
            if not 0 <= at < size:
                return b""
            file.seek(at)
            return file.read(min(length, size - at))

        head = cut(0, 16)
        self.order = exif_block.byte_order(head) or _RAW_HEADS.get(head[:4], "")
        self.big = head[2:4] in (b"+\0", b"\0+")
        pointer = "Q" if self.big else "I"
        if not self.order or len(head) < (16 if self.big else 8):
            raise ValueError("no TIFF header")
        (at,) = struct.unpack_from(self.order + pointer, head, 8 if self.big else 4)
        self.main, following, _ = exif_block.read_table(cut, self.order, at, self.big)
        self.tables = exif_block.follow(cut, self.order, self.main, self.big)
        # Reduced pages and masks (bits 0 and 2 of NewSubfileType) are not further pictures.
        self.pages, seen = 1, {at}
        while following and following not in seen and len(seen) < _MOST_PAGES:
            seen.add(following)
            entries, following, _ = exif_block.read_table(cut, self.order, following, self.big)
            self.pages += bool(entries) and not self._number(entries, 254) & 5

    def _number(self, entries: list[Entry], tag: int, default: int = 0) -> int:
        return exif_block.number(entries, tag, self.order, default)

    def number(self, tag: int, default: int = 0) -> int:
        """The first number of a tag of the first page."""
        return self._number(self.main, tag, default)

    def numbers(self, tag: int) -> list[int]:
        """All numbers of a tag of the first page."""
        entry = exif_block.find(self.main, tag)
        return exif_block.numbers(entry, self.order) if entry else []

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.number(256), self.number(257)

    @property
    def samples(self) -> int:
        """Channels, those of alpha included."""
        return self.number(277, 1)

    @property
    def raw(self) -> bool:
        """Whether this is a camera raw file that only looks like a TIFF (DNG, NEF, CR2 and so on)."""
        reduced_first = bool(self.number(254) & 1) and exif_block.find(self.main, 330) is not None
        return reduced_first or self.number(262) in (_CFA, _LINEAR_RAW) or exif_block.find(self.main, 50706) is not None

    @property
    def plain(self) -> bool:
        """Whether tifffile reads it: grey or RGB, at least 8 bits, and no JPEG or fax inside."""
        bits = self.numbers(258) or [1]
        photometric, compression = self.number(262, _BLACK_IS_ZERO), self.number(259, 1)
        return (
            photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB)
            and min(bits) >= 8
            and compression in (1, 5, 8, 32946, 32773, 34925, 50000)
        )

    def metadata(self) -> dict[str, Any]:
        """Fields of `Photo` that the tags hold."""
        found: dict[str, Any] = {
            "xmp": self._bytes(_XMP),
            "icc": self._bytes(_ICC),
            "iptc": self._bytes(_PHOTOSHOP),
        }
        record = self._bytes(_IPTC)
        if record and resource(found["iptc"], IPTC) is None:
            found["iptc"] = (found["iptc"] or b"") + resource_block(IPTC, record)
        kept = [e for e in self.tables.main if e.tag >= 254 and e.tag not in _STRUCTURE]  # below: RW2's own
        tables = Tables(self.order, kept, self.tables.exif, self.tables.gps, self.tables.interop)
        found["exif"] = exif_block.build(tables) if kept or tables.exif or tables.gps else None
        x, y, unit = self.numbers(282), self.numbers(283), self.number(296, 2)
        if len(x) == len(y) == 2 and all((*x, *y)) and unit in (2, 3):
            inch = 1.0 if unit == 2 else 2.54
            found["dpi"] = (x[0] / x[1] * inch, y[0] / y[1] * inch)
        return found

    def _bytes(self, tag: int) -> bytes | None:
        entry = exif_block.find(self.main, tag)
        return entry.value if entry else None


def decode(file: BinaryIO, directory: Directory) -> npt.NDArray[Any]:
    """Samples of the first page, height x width x channels, as they are in the file. Raises on damage."""
    import tifffile

    _quiet()
    file.seek(0)
    with tifffile.TiffFile(file) as tif:
        page = tif.pages.first
        if page.imagedepth != 1 or page.dtype is None:
            raise ValueError("not a flat picture")
        width, height = directory.size
        data = np.asarray(page.asarray())
        if page.planarconfig == 2 and directory.samples > 1:
            data = np.moveaxis(data, 0, -1)
        return data.reshape(height, width, directory.samples)


def complete(file: BinaryIO, directory: Directory) -> bool:
    """Whether the file holds every strip or tile that the picture needs, each of them within the file."""
    width, height = directory.size
    across, down = directory.number(322), directory.number(323)
    if across * down > 4 * (width * height + (1 << 20)):
        return False  # a tile far larger than the picture would be made room for before it is read
    tiled = across > 0 and down > 0
    needed = -(-width // across) * -(-height // down) if tiled else -(-height // max(1, directory.number(278, height)))
    if directory.number(284, 1) == 2:
        needed *= directory.samples
    offsets, counts = directory.numbers(324 if tiled else 273), directory.numbers(325 if tiled else 279)
    size = os.fstat(file.fileno()).st_size
    if len(offsets) != len(counts) or len(offsets) < needed:
        return False
    if directory.number(259, 1) == 1:
        bits = directory.numbers(258) or [1]
        row = (sum(bits) if len(bits) == directory.samples else bits[0] * directory.samples) * width
        if sum(counts) < (row + 7) // 8 * height and directory.number(262, 1) != _YCBCR:
            return False
    return all(at > 0 and count > 0 and at + count <= size for at, count in zip(offsets, counts, strict=True))


def compression(directory: Directory) -> str:
    """How the output is to be compressed: as the file is, or by deflate where that would lose something."""
    return _COMPRESSION.get(directory.number(259, 1), "deflate")


def extra_sample(directory: Directory) -> int:
    """What the channel after the colours is: 0 unknown, 1 alpha that colours are multiplied by, 2 plain
    alpha."""
    kinds = directory.numbers(338)
    return kinds[0] if kinds and kinds[0] in (0, 1, 2) else 2


def encode(file: BinaryIO, values: IntArray, photo: Photo) -> None:
    """Writes `values` (height x width x channels; 1 or 3 colours, perhaps one more) with all that `photo`
    carries."""
    import tifffile

    _quiet()
    channels = values.shape[2]
    colours = 3 if channels >= 3 else 1
    own = photo.format == "TIFF"
    tables = exif_block.parse(photo.exif) if photo.exif else Tables()
    packing = {"": "zlib", "deflate": "zlib", "none": None, "lzw": "lzw"}[photo.encoding.compression if own else ""]
    options: dict[str, Any] = {
        "photometric": "rgb" if colours == 3 else "minisblack",
        "compression": packing,
        "predictor": packing is not None,
        "metadata": None,
        "software": False,
        "contiguous": False,
        "rowsperstrip": max(1, (256 << 10) // max(1, values[0].nbytes)),
    }
    if channels > colours:
        options["extrasamples"] = [photo.encoding.extra_sample if own else 2]
    if channels > 1:
        options["planarconfig"] = "contig"
    if photo.icc:
        options["iccprofile"] = photo.icc
    if photo.dpi:
        x, y = (Fraction(v).limit_denominator(10_000) for v in photo.dpi)
        options["resolution"] = ((x.numerator, x.denominator), (y.numerator, y.denominator))
        options["resolutionunit"] = "INCH"
    samples = values if channels > 1 else values[..., 0]
    with tifffile.TiffWriter(file, byteorder=_byteorder(tables.order)) as tif:
        tif.write(samples, **options)
    _add_tables(file, photo, tables)


def _byteorder(order: str) -> Any:
    return ">" if order == ">" else "<"


def _own_entries(photo: Photo, tables: Tables) -> list[Entry]:
    """Entries of the main table besides the picture itself."""
    entries = [entry for entry in tables.main if entry.tag not in _STRUCTURE]
    if photo.comment and not exif_block.find(tables.main, _DESCRIPTION):
        text = photo.comment.replace(b"\0", b"") + b"\0"
        entries.append(Entry(_DESCRIPTION, 2, len(text), text))
    record = resource(photo.iptc, IPTC)
    for tag, kind, value in ((_XMP, 1, photo.xmp), (_PHOTOSHOP, 7, photo.iptc), (_IPTC, 7, record)):
        if value:
            entries.append(Entry(tag, kind, len(value), value))
    return entries


def _add_tables(file: BinaryIO, photo: Photo, tables: Tables) -> None:
    """Adds what `photo` carries: a new main table with all entries, at the end of the file, in place of the
    old one.

    tifffile writes no tables below the main one, so it writes the picture and this the rest.
    """
    added = _own_entries(photo, tables)
    if not (added or tables.exif or tables.gps or tables.interop):
        return
    file.seek(0)
    directory = Directory(file)
    tags = {entry.tag for entry in added}
    main = [entry for entry in directory.main if entry.tag not in tags] + added
    at = file.seek(0, os.SEEK_END)
    at += file.write(bytes(at % 2))
    file.write(exif_block.serialise(tables, main, at))
    file.seek(4)
    file.write(struct.pack(tables.order + "I", at))


def _quiet() -> None:
    """tifffile reports damage to its log; without a listener Python would print that between UniRes's own
    lines."""
    import logging

    log = logging.getLogger("tifffile")
    if not log.handlers:
        log.addHandler(logging.NullHandler())
