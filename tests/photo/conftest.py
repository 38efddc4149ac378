"""Makes files on the spot: small, exact, and (for PNG and EXIF) by other code than that under test."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

GPS = {1: "N", 2: (51.0, 28.0, 40.12), 3: "W", 4: (0.0, 0.0, 5.31), 29: "2024:05:17"}
MAKER_NOTE = b"Nikon\0\x02\x10" + bytes(range(256)) * 2 + struct.pack("<I", 0x12345678)


def _noise(height: int, width: int, channels: int, depth: int = 8, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    shape = (height, width, channels) if channels > 1 else (height, width)
    return rng.integers(0, 1 << depth, shape).astype(np.uint8 if depth == 8 else np.uint16)


def _smooth(height: int, width: int) -> Any:
    """A picture that JPEG keeps well."""
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([x * 200 / width + 20, y * 200 / height + 20, (x + y) * 200 / (width + height) + 20], axis=-1)
    return rgb.astype(np.uint8)


def _png(values: Any, colour: int, depth: int = 16, extra: bytes = b"", interlaced: bool = False) -> bytes:
    """A PNG by hand, without filters: the format's definition, no library."""

    def rows(part: Any) -> bytes:
        big = part.astype(">u2" if depth == 16 else "u1")
        return b"".join(b"\0" + big[y].tobytes() for y in range(big.shape[0])) if 0 not in big.shape[:2] else b""

    height, width = values.shape[:2]
    passes = [values]
    if interlaced:
        grid = [
            (0, 0, 8, 8),
            (0, 4, 8, 8),
            (4, 0, 8, 4),
            (0, 2, 4, 4),
            (2, 0, 4, 2),
            (0, 1, 2, 2),
            (1, 0, 2, 1),
        ]
        passes = [values[y::dy, x::dx] for y, x, dy, dx in grid]
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    body = zlib.compress(b"".join(rows(p) for p in passes))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _exif(orientation: int = 1, width: int = 53, height: int = 37, thumbnail: bytes = b"") -> bytes:
    """An EXIF block by Pillow, with GPS, a maker note, size tags and perhaps a thumbnail."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F], exif[0x0110], exif[0x013B], exif[0x8298] = "Nikon", "Z 7", "A. Photographer", "(c) A. P."
    sub = exif.get_ifd(0x8769)
    sub[0x9003], sub[0x829A], sub[0x927C] = "2024:05:17 10:11:12", (1, 250), MAKER_NOTE
    sub[0xA002], sub[0xA003], sub[0x9286] = width, height, b"ASCII\0\0\0a remark"
    exif.get_ifd(0x8825).update(GPS)
    raw = exif.tobytes()
    raw = raw[6:] if raw.startswith(b"Exif\0\0") else raw
    if thumbnail:
        order = "<" if raw[:2] == b"II" else ">"
        (at,) = struct.unpack_from(order + "I", raw, 4)
        (count,) = struct.unpack_from(order + "H", raw, at)
        table = len(raw) + len(raw) % 2
        link = at + 2 + 12 * count
        raw = raw[:link] + struct.pack(order + "I", table) + raw[link + 4 :] + bytes(len(raw) % 2)
        data = table + 2 + 4 * 12 + 4
        raw += struct.pack(order + "H", 4)
        raw += struct.pack(order + "HHIHH", 0x0103, 3, 1, 6, 0) + struct.pack(order + "HHIHH", 0x0112, 3, 1, 6, 0)
        raw += struct.pack(order + "HHII", 0x0201, 4, 1, data) + struct.pack(
            order + "HHII", 0x0202, 4, 1, len(thumbnail)
        )
        raw += bytes(4) + thumbnail
    return raw


@pytest.fixture
def noise() -> Callable[..., Any]:
    return _noise


@pytest.fixture
def smooth() -> Callable[..., Any]:
    return _smooth


@pytest.fixture
def make_png() -> Callable[..., bytes]:
    return _png


@pytest.fixture
def make_exif() -> Callable[..., bytes]:
    return _exif


@pytest.fixture(scope="session")
def profile() -> bytes:
    """A real colour profile (sRGB, renamed, so that nobody takes it for the default)."""
    raw = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    raw[84:100] = bytes(range(16))  # profile id: a number that only this test uses
    return bytes(raw)


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """Saves samples by Pillow: `saved("name.png", samples, **options)`."""

    def save(name: str, samples: Any, **options: Any) -> Path:
        path = tmp_path / name
        image = samples if isinstance(samples, Image.Image) else Image.fromarray(samples)
        out = io.BytesIO()
        image.save(out, format=options.pop("format", None) or Image.registered_extensions()[path.suffix], **options)
        path.write_bytes(out.getvalue())
        return path

    return save


@pytest.fixture(autouse=True)
def nothing_left_behind(tmp_path: Path) -> Any:
    """No test may leave a temporary file in its folder, whatever happened in it."""
    yield
    assert not [p for p in tmp_path.rglob("*") if p.name.startswith(".unires-")]
