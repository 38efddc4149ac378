"""Whether a file has lost something, by its format's own marks alone: no decoder is asked, as what one can't read may
be whole all the same."""

from __future__ import annotations

from pathlib import Path

from unires.photo import png, tiff
from unires.photo.exif import byte_order

BOXES = (b"ftyp", b"meta", b"moov", b"mdat", b"free", b"skip", b"uuid")


def damaged(path: Path) -> bool:
    """Whether a file is empty, full of zeros (as a power cut leaves it), or begins like a picture and lacks its end. Of
    what is no known picture nothing is said: False. Raises OSError."""
    content = path.read_bytes()
    if not content.strip(b"\0"):
        return True
    if content.startswith(png.SIGNATURE):
        return all(kind != b"IEND" for kind, _ in png.chunks(content))
    if content.startswith(b"\xff\xd8\xff"):
        return content.find(b"\xff\xd9", _scan(content)) < 0
    if content.startswith(b"RIFF"):
        return int.from_bytes(content[4:8], "little") + 8 > len(content)
    if content[4:8] == b"ftyp":
        return _boxes_are_cut(content)
    return bool(byte_order(content)) and _tiff(path)


def _scan(content: bytes) -> int:
    """Where a JPEG's first scan begins, behind all segments (thumbnails among them): from there on, the mark of its end
    is nothing else. The file's length where there is none."""
    at = 2
    while at + 4 <= len(content) and content[at] == 0xFF:
        if content[at + 1] == 0xDA:
            return at
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return len(content)


def _boxes_are_cut(content: bytes) -> bool:
    """Whether AVIF or HEIC ends within one of its boxes, or before what says what is in it (ISO 14496-12, section
    4.2). Anything else may follow them."""
    at, seen = 0, set[bytes]()
    while at + 8 <= len(content):
        kind, length = content[at + 4 : at + 8], int.from_bytes(content[at : at + 4], "big")
        length = int.from_bytes(content[at + 8 : at + 16], "big") if length == 1 else length
        if at + length > len(content):
            return kind in BOXES
        seen.add(kind)
        if length < 8:  # 0: to the end of the file
            break
        at += length
    return not seen & {b"meta", b"moov"}


def _tiff(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            directory = tiff.Directory(file)
        except ValueError:
            return True
        return not directory.main or not (directory.raw or tiff.complete(file, directory))
