"""HEIC, JPEG XL and camera raw: with their extras, and without."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from unires.errors import PhotoError
from unires.jobs import folder
from unires.photo import Photo, check_output, read_photo, write_photo

_TAG = [(50706, 1, 4, (1, 4, 0, 0), True)]
_FILE = io.BytesIO()
tifffile.imwrite(_FILE, np.zeros((5, 5), np.uint16), photometric="cfa", extratags=_TAG)
DNG = _FILE.getvalue()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/">a remark</x:xmpmeta>'


def as_heic(samples: Any, **options: Any) -> bytes:
    heif = pytest.importorskip("pillow_heif")
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[samples.shape[2]] + (";16" if samples.dtype == np.uint16 else "")
    out = io.BytesIO()
    options = {"quality": 95, "chroma": 444} | options
    heif.encode(mode, samples.shape[1::-1], samples.tobytes(), out, **options)
    return out.getvalue()


def as_raw(path: Path, orientation: int = 1) -> None:
    """A DNG of 64 x 96 whose sensor saw grey light that gets brighter to the right."""
    pytest.importorskip("rawpy")
    light = np.broadcast_to(np.linspace(3000, 60000, 96), (64, 96)).astype(np.uint16)

    def ratios(values: list[int]) -> list[int]:
        return [n for v in values for n in (v, 1)]

    tags: list[Any] = [
        (50706, 1, 4, (1, 4, 0, 0), True), (33421, 3, 2, (2, 2), True), (33422, 1, 4, (0, 1, 1, 2), True),
        (50708, 2, 0, "Test Camera", True), (50714, 3, 1, 0, True), (50717, 3, 1, 65535, True),
        (50721, 10, 9, ratios([1, 0, 0, 0, 1, 0, 0, 0, 1]), True), (50728, 5, 3, ratios([1, 1, 1]), True),
        (50778, 3, 1, 21, True), (271, 2, 0, "Test", True), (274, 3, 1, orientation, True),
    ]  # fmt: skip
    tifffile.imwrite(path, light, photometric="cfa", extratags=tags, metadata=None)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_heic_in_and_out(
    tmp_path: Path, smooth: Callable[..., Any], make_exif: Callable[..., bytes], profile: bytes, channels: int
) -> None:
    samples = np.concatenate((smooth(48, 64), np.full((48, 64, 1), 128, np.uint8)), axis=2)[..., :channels]
    exif = b"Exif\0\0" + make_exif()
    icc = {} if channels == 1 else {"icc_profile": profile}
    (tmp_path / "photo.heic").write_bytes(as_heic(samples, exif=exif, xmp=XMP, **icc))
    photo = read_photo(tmp_path / "photo.heic")
    assert photo.format == "HEIC" and photo.bit_depth == 8 and photo.grey == (channels == 1)
    assert np.abs(photo.samples.astype(int) - samples[..., : photo.samples.shape[2]]).max() < 8
    assert photo.xmp == XMP and photo.exif == make_exif() and photo.icc == icc.get("icc_profile")
    write_photo(photo, tmp_path / "same.heic")
    assert (tmp_path / "same.heic").read_bytes() == (tmp_path / "photo.heic").read_bytes()
    darker = photo.with_pixels(photo.pixels * 0.5)
    write_photo(darker, tmp_path / "out.heic")
    again = read_photo(tmp_path / "out.heic")
    assert np.abs(again.samples.astype(int) - darker.samples).mean() < 2
    assert (again.xmp, again.icc, again.grey) == (photo.xmp, photo.icc, photo.grey) and again.exif
    assert (again.alpha is None) == (photo.alpha is None)
    write_photo(darker, tmp_path / "out.png")
    assert np.array_equal(read_photo(tmp_path / "out.png").samples, darker.samples)


def test_a_turned_heic_comes_upright(
    tmp_path: Path, smooth: Callable[..., Any], make_exif: Callable[..., bytes]
) -> None:
    samples = smooth(48, 64)
    data = as_heic(samples, exif=b"Exif\0\0" + make_exif(6))
    (tmp_path / "photo.heic").write_bytes(data)
    photo = read_photo(tmp_path / "photo.heic")
    assert (photo.height, photo.width) == (64, 48)
    assert np.abs(photo.samples.astype(int) - np.rot90(samples, -1)).max() < 8
    write_photo(photo.with_pixels(photo.pixels * 0.9), tmp_path / "out.jpg")
    with Image.open(tmp_path / "out.jpg") as image:
        assert image.size == (48, 64) and image.getexif().get(274, 1) == 1


def test_a_heic_of_several_pictures_is_refused(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    file = heif.from_pillow(Image.new("RGB", (16, 16), "red"))
    file.add_from_pillow(Image.new("RGB", (16, 16), "blue"))
    file.save(tmp_path / "photo.heic")
    with pytest.raises(PhotoError, match="2 pictures"):
        read_photo(tmp_path / "photo.heic")


def test_deep_heic_keeps_its_bits_and_says_when_it_cannot(tmp_path: Path) -> None:
    values = np.broadcast_to(np.linspace(0, 65535, 256 * 8), (16, 256 * 8)).astype(np.uint16)
    (tmp_path / "photo.heic").write_bytes(as_heic(np.stack([values] * 3, axis=-1)))
    photo = read_photo(tmp_path / "photo.heic")
    assert photo.bit_depth == 16 and len(np.unique(photo.samples)) > 256 and photo.samples.max() == 65535
    with pytest.raises(PhotoError, match="more than 8 bits"):
        write_photo(photo, tmp_path / "out.heic")
    write_photo(photo, tmp_path / "out.tif")
    assert np.array_equal(read_photo(tmp_path / "out.tif").samples, photo.samples)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_jpeg_xl_is_read(tmp_path: Path, kind: Any, channels: int) -> None:
    pytest.importorskip("pillow_jxl")
    samples = np.random.default_rng(0).integers(0, np.iinfo(kind).max, (40, 61, channels)).astype(kind)
    (tmp_path / "photo.jxl").write_bytes(imagecodecs.jpegxl_encode(samples.squeeze(), lossless=True))
    photo = read_photo(tmp_path / "photo.jxl")
    assert photo.bit_depth == 8 * kind().itemsize and photo.format == "PNG" and photo.grey == (channels == 1)
    assert np.array_equal(photo.samples, samples[..., : photo.samples.shape[2]])
    assert channels < 4 or np.array_equal(photo.alpha, samples[..., 3])
    with pytest.raises(PhotoError, match=r"only read; a name ending in \.png will do"):
        check_output(photo, tmp_path / "out.jxl")


def test_what_a_jpeg_xl_carries(tmp_path: Path, smooth: Callable[..., Any], make_exif: Callable[..., bytes]) -> None:
    pytest.importorskip("pillow_jxl")
    path = tmp_path / "photo.jxl"
    Image.fromarray(smooth(48, 64)).save(path, exif=make_exif(6), xmp=XMP, use_container=True, quality=95)
    photo = read_photo(path)
    assert photo.xmp == XMP and photo.exif == make_exif(1) and photo.icc
    assert (photo.height, photo.width) == (48, 64)  # a JPEG XL says in its own header how it is turned
    assert np.abs(photo.samples.astype(int) - smooth(48, 64)).mean() < 4


def test_a_jpeg_within_a_jpeg_xl(tmp_path: Path, saved: Callable[..., Path], smooth: Callable[..., Any]) -> None:
    pytest.importorskip("pillow_jxl")
    source = saved("photo.jpg", smooth(48, 64), quality=80)
    with Image.open(source) as image:
        image.save(tmp_path / "photo.jxl", lossless_jpeg=True)
    assert np.array_equal(read_photo(tmp_path / "photo.jxl").samples, read_photo(source).samples)


def test_headers_are_judged_before_anything_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    libjxl = pytest.importorskip("pillow_jxl")
    sizes = [(8, 8), (40, 64), (64, 40), (512, 512), (33, 1), (1, 3000), (1080, 1920), (100, 120)]
    for height, width in sizes:
        data = imagecodecs.jpegxl_encode(np.zeros((height, width, 3), np.uint8), lossless=True)
        (tmp_path / "photo.jxl").write_bytes(data)
        with monkeypatch.context() as patch:
            patch.setattr(libjxl, "Decoder", lambda **_: pytest.fail("decoded"))
            with pytest.raises(PhotoError, match=f"{width} x {height} pixels"):
                read_photo(tmp_path / "photo.jxl", max_pixels=32)
        assert read_photo(tmp_path / "photo.jxl").samples.shape == (height, width, 3)
    frames = np.zeros((3, 16, 16, 3), np.uint8)
    (tmp_path / "photo.jxl").write_bytes(imagecodecs.jpegxl_encode(frames, lossless=True))
    with pytest.raises(PhotoError, match="animation"):
        read_photo(tmp_path / "photo.jxl")


@pytest.mark.parametrize("orientation", [1, 6])
def test_camera_raw_is_developed(tmp_path: Path, orientation: int) -> None:
    as_raw(tmp_path / "photo.dng", orientation)
    photo = read_photo(tmp_path / "photo.dng")
    assert photo.bit_depth == 16 and photo.format == "TIFF"
    assert (photo.height, photo.width) == ((64, 96) if orientation == 1 else (96, 64))
    across = photo.samples.astype(float).mean(axis=(0 if orientation == 1 else 1, 2))
    assert across[-20:].mean() > 2 * across[:20].mean() and (photo.samples % 257).any()
    assert photo.exif and b"Test" in photo.exif
    write_photo(photo, tmp_path / "out.tif")
    assert tifffile.imread(tmp_path / "out.tif").dtype == np.uint16
    with pytest.raises(PhotoError, match=r"only read; a name ending in \.tif will do"):
        write_photo(photo, tmp_path / "out.dng")
    with pytest.raises(PhotoError, match="96 x 64 pixels" if orientation == 1 else "pixels"):
        read_photo(tmp_path / "photo.dng", max_pixels=100)


def test_results_of_what_is_only_read_have_another_name(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.NEF", "b.jxl", "c.heic", "d.jpg"):
        (tmp_path / "in" / name).touch()
    items = folder.find(tmp_path / "in", tmp_path / "out", recursive=False)
    assert [i.target.name for i in items] == ["a.tif", "b.png", "c.heic", "d.jpg"]


@pytest.mark.parametrize(
    ("content", "module", "extra"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "pillow_heif", "heic"),
        (b"\xff\x0a\0", "pillow_jxl", "jxl"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "pillow_jxl", "jxl"),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(50), "rawpy", "raw"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "rawpy", "raw"),
        (b"FUJIFILMCCD-RAW ", "rawpy", "raw"),
        (DNG, "rawpy", "raw"),
    ],
    ids=["HEIC", "JPEG XL", "JPEG XL in boxes", "CR2", "CR3", "RAF", "DNG"],
)
def test_without_its_extra_a_file_is_refused_by_naming_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "photo.jpg").write_bytes(content)
    with pytest.raises(PhotoError) as refused:
        read_photo(tmp_path / "photo.jpg")
    assert str(refused.value).endswith(f"an extra is needed: pip install 'unires[{extra}]'.")
    if extra == "heic":
        with pytest.raises(PhotoError, match=r"unires\[heic\]"):
            write_photo(Photo(np.zeros((8, 8, 3), np.uint8)), tmp_path / "out.heic")


@pytest.mark.parametrize("module", ["pillow_heif", "pillow_jxl", "rawpy"])
def test_damage_ends_in_one_sentence(tmp_path: Path, module: str, smooth: Callable[..., Any]) -> None:
    pytest.importorskip(module)
    path = tmp_path / "photo"
    if module == "pillow_heif":
        path.write_bytes(as_heic(smooth(48, 64)))
    elif module == "pillow_jxl":
        path.write_bytes(imagecodecs.jpegxl_encode(smooth(48, 64), lossless=True))
    else:
        as_raw(path)
    whole = path.read_bytes()
    dice = np.random.default_rng(0)
    for i in range(60):
        data = bytearray(whole[: dice.integers(len(whole))] if i % 2 else whole)
        for at in dice.integers(0, max(len(data), 1), 4):
            data[at % max(len(data), 1) : at + 1] = bytes([dice.integers(256)])
        path.write_bytes(data)
        try:
            read_photo(path, max_pixels=1_000_000)
        except PhotoError as error:
            assert str(error).endswith(".") and "\n" not in str(error)
