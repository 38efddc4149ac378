"""EXIF as bytes: read and changed in place, so that everything else (maker notes above all) stays where it
was.

An EXIF block is a small TIFF file: a byte-order mark, then tables ("IFDs") of entries with a tag, a type, a
count and a value or its address. Maker notes often hold addresses counted from the start of the block;
writing the block anew would break them. So a block from a JPEG, PNG, WebP or AVIF is only patched:
orientation, the size of the picture, the thumbnail. Only for TIFF, whose tables are the file itself, a block
is built (`build`) and taken apart again (`parse`).

Sources: Exif 2.32 (CIPA DC-008), TIFF 6.0, BigTIFF (Adobe/AWare Systems).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
ORIENTATION = 0x0112
EXIF_IFD, GPS_IFD, INTEROP_IFD = 0x8769, 0x8825, 0xA005
_WIDTH, _HEIGHT = 0xA002, 0xA003
_THUMBNAIL_AT, _THUMBNAIL_LENGTH = 0x0201, 0x0202
_MOST_ENTRIES = 4096
_LARGEST_TABLE = 64 << 20  # bytes of all values of one table; entries that share bytes could ask for far more

Cut = Callable[[int, int], bytes]


class Entry(NamedTuple):
    """One entry of a table: `value` is raw bytes in the block's byte order, `at` where they lie."""

    tag: int
    type: int
    length: int
    value: bytes
    at: int = 0


@dataclass
class Tables:
    """The tables of one EXIF block, in one byte order (`<` or `>`); pointers between them are left out."""

    order: str = "<"
    main: list[Entry] = field(default_factory=list)
    exif: list[Entry] = field(default_factory=list)
    gps: list[Entry] = field(default_factory=list)
    interop: list[Entry] = field(default_factory=list)


def without_prefix(raw: bytes | None) -> bytes | None:
    """A block starts at its byte-order mark; JPEG and some others put "Exif\\0\\0" before it. None if it is
    no block."""
    if raw is None:
        return None
    if raw.startswith(b"Exif\0\0"):
        raw = raw[6:]
    return raw if byte_order(raw) else None


def byte_order(raw: bytes) -> str:
    """`<` or `>`, or an empty string when `raw` does not start like a TIFF file."""
    return {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}.get(raw[:4], "")


def read_table(cut: Cut, order: str, at: int, big: bool = False) -> tuple[list[Entry], int, int]:
    """Entries of the table at address `at`, the address of the next table (0: none), and where that address
    lies.

    `cut(address, length)` returns bytes, fewer at the end of the file. Entries that point outside are left
    out; a table that lies outside is empty. Never raises on damaged input.
    """
    head, width, pointer = (8, 20, "Q") if big else (2, 12, "I")
    raw = cut(at, head) if at > 0 else b""
    if len(raw) < head:
        return [], 0, 0
    (count,) = struct.unpack(order + ("Q" if big else "H"), raw)
    if count > _MOST_ENTRIES:
        return [], 0, 0
    body = cut(at + head, count * width)
    entries, room = [], _LARGEST_TABLE
    for i in range(len(body) // width):
        tag, kind, number = struct.unpack_from(order + "HH" + pointer, body, i * width)
        size = SIZES.get(kind, 0) * number
        inline = 8 if big else 4
        place = at + head + (i + 1) * width - inline
        room -= size
        if not size or room < 0:
            continue
        if size > inline:
            (place,) = struct.unpack_from(order + pointer, body, (i + 1) * width - inline)
        value = cut(place, size)
        if len(value) == size:
            entries.append(Entry(tag, kind, number, value, place))
    end = at + head + count * width
    tail = cut(end, inline_size(big))
    following = struct.unpack(order + pointer, tail)[0] if len(tail) == inline_size(big) else 0
    return entries, following, end


def inline_size(big: bool) -> int:
    """Bytes of an address."""
    return 8 if big else 4


def numbers(entry: Entry, order: str) -> list[int]:
    """The whole numbers of an entry (rationals as numerator, denominator in turn); empty for other types."""
    letter = {
        1: "B",
        3: "H",
        4: "I",
        5: "I",
        6: "b",
        8: "h",
        9: "i",
        10: "i",
        13: "I",
        16: "Q",
        17: "q",
        18: "Q",
    }
    if entry.type not in letter:
        return []
    code = letter[entry.type]
    return list(struct.unpack(f"{order}{len(entry.value) // struct.calcsize(code)}{code}", entry.value))


def find(entries: list[Entry], tag: int) -> Entry | None:
    """The first entry with this tag."""
    return next((entry for entry in entries if entry.tag == tag), None)


def number(entries: list[Entry], tag: int, order: str, default: int = 0) -> int:
    """The first whole number of a tag, or `default`."""
    entry = find(entries, tag)
    return (numbers(entry, order) or [default])[0] if entry else default


def orientation(raw: bytes | None) -> int:
    """1 to 8 as EXIF defines it; 1 when there is none or it makes no sense."""
    if raw is None:
        return 1
    order, main, _, _ = _main(raw)
    entry = find(main, ORIENTATION)
    if entry is None or not _settable(entry):
        return 1  # what `upright` could not set right would turn the result once more
    (value,) = numbers(entry, order)
    return value if 1 <= value <= 8 else 1


def upright(raw: bytes) -> bytes:
    """The block with its orientation (and that of its thumbnail) set to 1, no other byte changed."""
    block = bytearray(raw)
    order, main, following, _ = _main(raw)
    thumbnail = read_table(_cutter(raw), order, following)[0] if following else []
    for entries in (main, thumbnail):
        _set_number(block, order, find(entries, ORIENTATION), 1)
    return bytes(block)


def without_orientation(raw: bytes) -> bytes:
    """The block without its orientation. The rest of the main table moves up, into the room; nothing else moves."""
    order, main, _, link = _main(raw)
    if not link or find(main, ORIENTATION) is None:
        return raw
    block = bytearray(raw)
    (at,) = struct.unpack_from(order + "I", raw, 4)
    (count,) = struct.unpack_from(order + "H", raw, at)
    for entry in range(at + 2, link, 12):
        if struct.unpack_from(order + "H", raw, entry)[0] == ORIENTATION:
            block[entry : link + 4] = raw[entry + 12 : link + 4] + bytes(12)
            struct.pack_into(order + "H", block, at, count - 1)
            break
    return bytes(block)


def with_size(raw: bytes, width: int, height: int) -> bytes:
    """The block with the picture's width and height, where it states them; no other byte changed."""
    block = bytearray(raw)
    order, main, _, _ = _main(raw)
    sub = read_table(_cutter(raw), order, number(main, EXIF_IFD, order))[0]
    for entries, tag, value in (
        (sub, _WIDTH, width),
        (sub, _HEIGHT, height),
        (main, 256, width),
        (main, 257, height),
    ):
        _set_number(block, order, find(entries, tag), value)
    return bytes(block)


def with_thumbnail(raw: bytes, make: Callable[[int], bytes | None]) -> bytes:
    """The block with a new thumbnail where it had one, since the old one shows the old picture.

    `make(limit)` returns a JPEG of at most `limit` bytes (those of the old one, whose place it takes), or
    None: then the table of the thumbnail is unlinked. Nothing moves.
    """
    order, _, following, link = _main(raw)
    if not following:
        return raw
    block = bytearray(raw)
    entries = read_table(_cutter(raw), order, following)[0]
    at, length = number(entries, _THUMBNAIL_AT, order), number(entries, _THUMBNAIL_LENGTH, order)
    new = make(length) if length > 0 and raw[at : at + 3] == b"\xff\xd8\xff" and at + length <= len(raw) else None
    if new is None or len(new) > length:
        block[link : link + 4] = bytes(4)
    else:
        block[at : at + length] = new + bytes(length - len(new))
        _set_number(block, order, find(entries, _THUMBNAIL_LENGTH), len(new))
    return bytes(block)


def parse(raw: bytes) -> Tables:
    """The tables of a block, for a TIFF file. The thumbnail is left out."""
    order, main, _, _ = _main(raw)
    return follow(_cutter(raw), order, main)


def follow(cut: Cut, order: str, main: list[Entry], big: bool = False) -> Tables:
    """The tables that the main table `main` points to (EXIF, GPS, interoperability)."""
    sub = read_table(cut, order, number(main, EXIF_IFD, order), big)[0]
    gps = read_table(cut, order, number(main, GPS_IFD, order), big)[0]
    interop = read_table(cut, order, number(sub, INTEROP_IFD, order), big)[0]
    pointers = {EXIF_IFD, GPS_IFD, INTEROP_IFD}
    # Types above 13 exist in BigTIFF only.
    kept = ([e for e in entries if e.tag not in pointers and e.type <= 13] for entries in (main, sub, gps, interop))
    return Tables(order, *kept)


def build(tables: Tables) -> bytes:
    """A block with these tables, anew. `parse(build(tables))` gives them back."""
    start = b"II*\0" if tables.order == "<" else b"MM\0*"
    return start + struct.pack(tables.order + "I", 8) + serialise(tables, tables.main, 8)


def sub_tables(tables: Tables, at: int) -> tuple[bytes, int, int]:
    """The EXIF and GPS tables as bytes for address `at` of a file; the addresses of both (0: there is
    none)."""
    out, places = b"", []
    for entries, nested in ((tables.exif, True), (tables.gps, False)):
        wanted = bool(entries) or (nested and bool(tables.interop))
        places.append(at + len(out) if wanted else 0)
        if wanted:
            out += _table(tables, list(entries), at + len(out), nested)
    return out, places[0], places[1]


def serialise(tables: Tables, main: list[Entry], at: int) -> bytes:
    """The table `main` as bytes for address `at` of a file, with the other `tables`, to which it points,
    behind it."""
    # Pointers have a fixed size, so the length of the main table is known before they are.
    length = len(_layout(tables.order, [*main, *_pointers(tables, 1, 1)], at))
    subs, exif_at, gps_at = sub_tables(tables, at + length)
    return _layout(tables.order, [*main, *_pointers(tables, exif_at, gps_at)], at) + subs


def xmp_upright(xmp: bytes) -> bytes:
    """XMP can state the orientation once more: set to 1."""
    xmp = re.sub(rb"(tiff:Orientation\s*=\s*[\"'])\d+", rb"\g<1>1", xmp)
    return re.sub(rb"(<tiff:Orientation>\s*)\d+", rb"\g<1>1", xmp)


_FOLLOWS = rb"(?:(?:GCamera|Camera):(?:MotionPhoto|MicroVideo)|hdrgm:)\w*"


def xmp_alone(xmp: bytes) -> bytes:
    """XMP can state what follows the picture in its file (the video of a motion photo, a gain map): without that, as
    nothing follows a new one."""
    xmp = re.sub(rb"\s" + _FOLLOWS + rb"\s*=\s*(?:\"[^\"]*\"|'[^']*')", b"", xmp)
    xmp = re.sub(rb"<(" + _FOLLOWS + rb")\b[^<]*</\1>", b"", xmp)
    return re.sub(rb"<Container:Directory\b.*?</Container:Directory>", b"", xmp, flags=re.DOTALL)


def _cutter(raw: bytes) -> Cut:
    return lambda at, length: raw[at : at + length] if at >= 0 else b""


def _main(raw: bytes) -> tuple[str, list[Entry], int, int]:
    order = byte_order(raw) or "<"
    at = struct.unpack_from(order + "I", raw, 4)[0] if len(raw) >= 8 else 0
    entries, following, link = read_table(_cutter(raw), order, at)
    return order, entries, following, link


def _settable(entry: Entry) -> bool:
    return entry.length == 1 and entry.type in (1, 3, 4)


def _set_number(block: bytearray, order: str, entry: Entry | None, value: int) -> None:
    """Writes `value` over a single number, as wide as it is; one that does not fit stays as it was."""
    if entry is None or not _settable(entry):
        return
    code = {1: "B", 3: "H", 4: "I"}[entry.type]
    if value < 256 ** struct.calcsize(code):
        struct.pack_into(order + code, block, entry.at, value)


def _pointers(tables: Tables, exif_at: int, gps_at: int) -> list[Entry]:
    wanted = ((EXIF_IFD, exif_at, tables.exif or tables.interop), (GPS_IFD, gps_at, tables.gps))
    return [Entry(tag, 4, 1, struct.pack(tables.order + "I", at)) for tag, at, there in wanted if there]


def _table(tables: Tables, entries: list[Entry], at: int, nested: bool) -> bytes:
    if not (nested and tables.interop):
        return _layout(tables.order, entries, at)
    pointer = Entry(INTEROP_IFD, 4, 1, bytes(4))
    length = len(_layout(tables.order, [*entries, pointer], at))
    pointer = pointer._replace(value=struct.pack(tables.order + "I", at + length))
    return _layout(tables.order, [*entries, pointer], at) + _layout(tables.order, tables.interop, at + length)


def _layout(order: str, entries: list[Entry], at: int) -> bytes:
    """One table: number of entries, entries by tag, no next table, long values behind; padded to an even
    length."""
    table = struct.pack(order + "H", len(entries))
    values = b""
    behind = at + 2 + 12 * len(entries) + 4
    for entry in sorted(entries, key=lambda e: e.tag):
        table += struct.pack(order + "HHI", entry.tag, entry.type, entry.length)
        if len(entry.value) <= 4:
            table += entry.value.ljust(4, b"\0")
        else:
            table += struct.pack(order + "I", behind + len(values))
            values += entry.value + bytes(len(entry.value) % 2)
    return table + bytes(4) + values
