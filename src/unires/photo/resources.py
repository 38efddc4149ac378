"""Photoshop's image resources, in which JPEG, TIFF and PNG keep the IPTC record. Source: Adobe, "Photoshop File Formats
Specification", image resources section."""

from __future__ import annotations

import struct

IPTC = 0x0404  # the resource that holds the record


def resource(blocks: bytes | None, wanted: int) -> bytes | None:
    """The content of one resource out of their blocks, by its number; None where there is none."""
    at, blocks = 0, blocks or b""
    while blocks[at : at + 4] == b"8BIM" and at + 12 <= len(blocks):
        code, name = struct.unpack_from(">HB", blocks, at + 4)
        at += 6 + (name + 2) // 2 * 2
        (size,) = struct.unpack(">I", blocks[at : at + 4].rjust(4, b"\0"))
        if code == wanted:
            return blocks[at + 4 : at + 4 + size]
        at += 4 + (size + 1) // 2 * 2
    return None


def resource_block(code: int, content: bytes) -> bytes:
    """One resource as a block, without a name."""
    return b"8BIM" + struct.pack(">HHI", code, 0, len(content)) + content + bytes(len(content) % 2)
