"""Bad files end in one clear sentence."""

from __future__ import annotations

import io
import os
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from unires.errors import PhotoError
from unires.photo import read_photo, tiff

ALL = ["jpg", "png", "webp", "tif", "avif"]


def refused(path: Path, *words: str) -> None:
    """Reading ends in one sentence that holds these words."""
    with pytest.raises(PhotoError) as caught:
        read_photo(path)
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text and len(text) < 500
    for word in words:
        assert word in text, text


def test_no_photo_at_all(tmp_path: Path) -> None:
    refused(tmp_path / "none.jpg", "no file")
    refused(tmp_path, "folder")
    for content, word in (
        (b"", "empty"),
        (b"\0", "not a picture"),
        (b"hello " * 50, "not a picture"),
        (b"\xff\xd8\xff", "damaged"),
        (b"\x89PNG\r\n\x1a\n", "damaged"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "damaged"),
        (b"II*\0\x08\0\0\0", "damaged"),
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", "damaged"),
        (b"GIF89a" + bytes(50), "GIF"),
        (b"BM" + bytes(50), "BMP"),
        (b"%PDF-1.4", "PDF"),
        (b"8BPS\0\1", "Photoshop"),
        (b"<svg xmlns=", "SVG"),
    ):
        path = tmp_path / "photo.jpg"
        path.write_bytes(content)
        refused(path, word)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipes_and_devices_do_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    refused(tmp_path / "pipe.jpg", "not a regular file")
    refused(Path("/dev/zero"), "not a regular file")


@pytest.mark.parametrize("real", ALL)
@pytest.mark.parametrize("claimed", ["jpg", "tif", "txt"])
def test_the_content_decides_not_the_name(
    tmp_path: Path, saved: Callable[..., Path], smooth: Callable[..., Any], real: str, claimed: str
) -> None:
    path = saved(f"photo.{real}", smooth(16, 16)).rename(tmp_path / f"wrong.{claimed}")
    photo = read_photo(path)
    assert photo.format == {"jpg": "JPEG", "tif": "TIFF"}.get(real, real.upper())
    assert photo.extension == f".{real}"


@pytest.mark.parametrize("name", ALL)
def test_cut_short_anywhere(
    tmp_path: Path,
    saved: Callable[..., Path],
    noise: Callable[..., Any],
    make_exif: Callable[..., bytes],
    name: str,
) -> None:
    whole = saved(f"photo.{name}", noise(40, 40, 3), exif=b"Exif\0\0" + make_exif(3)).read_bytes()
    intact = read_photo(tmp_path / f"photo.{name}")
    cuts = sorted({0, 1, 2, 3, 8, 12, 30, *random.Random(0).sample(range(len(whole)), 60), len(whole) - 1})
    path = tmp_path / f"cut.{name}"
    for cut in cuts:
        path.write_bytes(whole[:cut])
        try:
            photo = read_photo(path)
        except PhotoError as error:
            assert str(error).endswith(".")
        else:
            # Only what follows the picture may be missing; a half-grey picture never passes.
            assert np.array_equal(photo.pixels, intact.pixels), cut


@pytest.mark.parametrize("compression", ["none", "lzw", "zlib"])
def test_a_16_bit_tiff_or_png_cut_short(
    tmp_path: Path, noise: Callable[..., Any], make_png: Callable[..., bytes], compression: str
) -> None:
    samples = noise(64, 64, 3, 16)
    tifffile.imwrite(tmp_path / "photo.tif", samples, photometric="rgb", compression=compression, rowsperstrip=8)
    files = {"cut.tif": (tmp_path / "photo.tif").read_bytes(), "cut.png": make_png(samples, 2)}
    for name, whole in files.items():
        for cut in random.Random(1).sample(range(len(whole) - 12), 25):
            (tmp_path / name).write_bytes(whole[:cut])
            refused(tmp_path / name)


def test_lying_headers_and_bombs(tmp_path: Path, make_png: Callable[..., bytes]) -> None:
    small = make_png(np.zeros((4, 4, 3), dtype=np.uint16), 2)

    def claiming(width: int, height: int) -> bytes:
        head = b"IHDR" + struct.pack(">II", width, height) + small[24:29]
        return small[:12] + head + struct.pack(">I", zlib.crc32(head)) + small[33:]

    path = tmp_path / "photo.png"
    path.write_bytes(claiming(100_000, 100_000))
    refused(path, "10,000 million")
    path.write_bytes(claiming(2**31 - 1, 2**31 - 1))
    refused(path, "million")
    path.write_bytes(claiming(0, 4))
    refused(path, "damaged")
    path.write_bytes(claiming(4, 5000))
    refused(path, "damaged")
    black = io.BytesIO()
    bomb = Image.new("1", (14_000, 13_000))  # a true one: 182 million pixels in a small file
    bomb.save(black, format="PNG", compress_level=1)
    path.write_bytes(black.getvalue())
    refused(path, "182 million")
    bomb.save(tmp_path / "photo.tif", compression="group4")
    refused(tmp_path / "photo.tif", "182 million")
    # WebP makes room as soon as it is opened.
    body = (
        b"VP8X" + struct.pack("<I", 10) + bytes(4) + (16_777_214).to_bytes(3, "little") + (9000).to_bytes(3, "little")
    )
    (tmp_path / "photo.webp").write_bytes(b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body)
    refused(tmp_path / "photo.webp", "million")


def test_the_limit_of_pixels_can_be_set(saved: Callable[..., Path], noise: Callable[..., Any]) -> None:
    for name in ALL:
        path = saved(f"photo.{name}", noise(20, 20, 3))
        with pytest.raises(PhotoError, match="20 x 20"):
            read_photo(path, max_pixels=399)
        assert read_photo(path, max_pixels=400).width == 20


def test_a_huge_tile_in_a_small_tiff(
    tmp_path: Path, noise: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Any] = []
    monkeypatch.setattr(tiff, "decode", lambda *arguments: decoded.append(arguments))
    tifffile.imwrite(tmp_path / "photo.tif", noise(32, 32, 3), photometric="rgb", tile=(16, 16))
    raw = bytearray((tmp_path / "photo.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "photo.tif") as file:
        for tag in ("TileWidth", "TileLength"):
            place = file.pages.first.tags[tag]
            raw[place.offset + 2 : place.offset + 12] = struct.pack("<HII", 4, 1, 1_000_000_000)
    (tmp_path / "photo.tif").write_bytes(raw)
    refused(tmp_path / "photo.tif", "damaged")
    assert not decoded  # room for the tile would have been made


@pytest.mark.parametrize("name", ["png", "webp", "avif", "tif"])
def test_animations_and_pages_are_refused(saved: Callable[..., Path], smooth: Callable[..., Any], name: str) -> None:
    first, second = Image.fromarray(smooth(16, 16)), Image.fromarray(255 - smooth(16, 16))
    refused(saved(f"photo.{name}", first, save_all=True, append_images=[second]), "2 pictures")


def test_a_reduced_page_is_no_second_picture(tmp_path: Path, noise: Callable[..., Any]) -> None:
    with tifffile.TiffWriter(tmp_path / "photo.tif") as file:
        file.write(noise(32, 32, 3), photometric="rgb", metadata=None)
        file.write(noise(8, 8, 3), photometric="rgb", metadata=None, subfiletype=1)
    assert read_photo(tmp_path / "photo.tif").pixels.shape == (32, 32, 3)


@pytest.mark.parametrize("mode, tag", [("RGB", "ImageLength"), ("P", "ImageLength"), ("CMYK", "ImageLength")])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_a_tiff_that_claims_more_rows_than_it_has(
    saved: Callable[..., Path], smooth: Callable[..., Any], mode: str, tag: str, compression: str | None
) -> None:
    path = saved("photo.tif", Image.fromarray(smooth(32, 32)).convert(mode), compression=compression)
    with tifffile.TiffFile(path) as file:
        place = file.pages.first.tags[tag].offset
    raw = bytearray(path.read_bytes())
    raw[place + 2 : place + 12] = struct.pack("<HII", 4, 1, 320)
    path.write_bytes(raw)
    refused(path, "damaged")


def test_a_loop_of_pages_ends(tmp_path: Path, noise: Callable[..., Any]) -> None:
    tifffile.imwrite(tmp_path / "photo.tif", noise(8, 8, 3), photometric="rgb")
    raw = bytearray((tmp_path / "photo.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "photo.tif") as file:
        at, count = file.pages.first.offset, len(file.pages.first.tags)
    raw[at + 2 + 12 * count : at + 6 + 12 * count] = struct.pack("<I", at)
    (tmp_path / "photo.tif").write_bytes(raw)
    assert read_photo(tmp_path / "photo.tif").width == 8


@pytest.mark.parametrize("value, word", [(np.nan, "NaN"), (np.inf, "infinity"), (-0.1, "from -0.1"), (2.5, "to 2.5")])
def test_float_tiffs_that_are_no_photo(tmp_path: Path, value: float, word: str) -> None:
    values = np.full((6, 7, 3), 0.5, dtype=np.float32)
    values[3, 4, 1] = value
    tifffile.imwrite(tmp_path / "photo.tif", values, photometric="rgb")
    refused(tmp_path / "photo.tif", word)


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.complex64])
def test_signed_and_complex_tiffs(tmp_path: Path, kind: Any) -> None:
    tifffile.imwrite(tmp_path / "photo.tif", np.ones((5, 5), dtype=kind), photometric="minisblack")
    refused(tmp_path / "photo.tif", "signed or complex")


def test_too_many_channels(tmp_path: Path, noise: Callable[..., Any]) -> None:
    path = tmp_path / "photo.tif"
    tifffile.imwrite(path, noise(5, 5, 7), photometric="minisblack", planarconfig="contig")
    refused(path, "7 channels")


@pytest.mark.parametrize("name", ALL)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_damage_ends_in_a_photo_or_a_sentence(tmp_path: Path, name: str, seed: int) -> None:
    path = tmp_path / f"good.{name}"
    if not path.exists():
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 31, 3), dtype=np.uint8))
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(path, exif=exif, **({"compression": "tiff_lzw"} if name == "tif" else {}))
    raw = bytearray(path.read_bytes())
    source = random.Random(seed)
    for _ in range(source.randint(1, 8)):
        # Half of the damage in the first bytes, where the headers are.
        raw[source.randrange(min(len(raw), 200) if source.random() < 0.5 else len(raw))] = source.randrange(256)
    bad = tmp_path / f"bad.{name}"
    bad.write_bytes(raw)
    try:
        photo = read_photo(bad, max_pixels=1_000_000)
    except PhotoError as error:
        assert str(error).endswith(".")
    else:
        assert np.isfinite(photo.pixels).all() and photo.pixels.min() >= 0 and photo.pixels.max() <= 1
