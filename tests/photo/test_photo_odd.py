"""Files that cameras, phones, scanners and old programs write, and that are no less photos for being unusual."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from unires.errors import PhotoError
from unires.photo import check_output, codecs, icc, plugins, read_photo, write_photo
from unires.photo import exif as exif_block
from unires.photo.model import Photo
from unires.photo.resources import IPTC, resource

MAKE, MODEL, ORIENTATION = 271, 272, 274


# -- TIFF ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("mode", ["CMYK", "P", "1", "jpeg"])
def test_a_tiff_that_pillow_reads_is_turned_once(
    tmp_path: Path, smooth: Callable[..., Any], saved: Callable[..., Path], mode: str, turn: int
) -> None:
    image = Image.fromarray(smooth(40, 60))
    image = image.convert("P", palette=Image.Palette.ADAPTIVE) if mode == "P" else image
    image = image.convert(mode) if mode in ("CMYK", "1") else image
    options = {"compression": "jpeg"} if mode == "jpeg" else {}
    tags = {ORIENTATION: turn, 282: 300, 283: 200, 296: 2}
    photos = [read_photo(saved(f"{n}.tif", image, tiffinfo=tags | {ORIENTATION: n}, **options)) for n in (1, turn)]
    upright, photo = photos
    back = {1: lambda x: x, 2: lambda x: x[:, ::-1], 3: lambda x: x[::-1, ::-1], 4: lambda x: x[::-1],
            5: lambda x: x.swapaxes(0, 1), 6: lambda x: x.swapaxes(0, 1)[:, ::-1],
            7: lambda x: x.swapaxes(0, 1)[::-1, ::-1], 8: lambda x: x.swapaxes(0, 1)[::-1]}[turn]  # fmt: skip
    np.testing.assert_array_equal(photo.samples, back(upright.samples))
    assert exif_block.orientation(photo.exif) == 1
    assert photo.dpi == pytest.approx((200, 300) if turn >= 5 else (300, 200))


def test_deep_inks_are_not_made_shallow_in_silence(tmp_path: Path, noise: Callable[..., Any]) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(8, 9, 4, 16), photometric="separated")
    with pytest.raises(PhotoError, match="more than 8 bits a channel"):
        read_photo(tmp_path / "a.tif")


# -- colours by numbers -------------------------------------------------------------------------------------------


def labelled(saved: Callable[..., Path], samples: Any, name: str, numbers: tuple[int, int]) -> Path:
    """An AVIF or HEIC file without a profile that states its colours by numbers."""
    if name == "a.heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    path = saved(name, samples, format="HEIF" if name == "a.heic" else "AVIF")
    data = path.read_bytes()
    at = data.index(b"colrnclx") + 8
    path.write_bytes(data[:at] + struct.pack(">HH", *numbers) + data[at + 4 :])
    return path


@pytest.mark.parametrize(("numbers", "said"), [((9, 16), "HDR"), ((9, 18), "HDR"), ((12, 11), "unusual")])
@pytest.mark.parametrize("name", ["a.avif", "a.heic"])
def test_colours_that_no_profile_says_are_refused(
    saved: Callable[..., Path], smooth: Callable[..., Any], numbers: tuple[int, int], said: str, name: str
) -> None:
    with pytest.raises(PhotoError, match=said):
        read_photo(labelled(saved, smooth(32, 40), name, numbers))


@pytest.mark.parametrize("name", ["a.avif", "a.heic"])
def test_colours_by_numbers_get_a_profile(
    tmp_path: Path, saved: Callable[..., Path], smooth: Callable[..., Any], name: str
) -> None:
    assert read_photo(labelled(saved, smooth(32, 40), name, (1, 13))).icc is None
    photo = read_photo(labelled(saved, smooth(32, 40), name, (12, 13)))
    assert photo.icc is not None
    for end in ("png", "jpg", "tif", "avif"):
        write_photo(photo.with_pixels(255 - photo.samples), tmp_path / f"out.{end}")
        assert read_photo(tmp_path / f"out.{end}").icc == photo.icc


def converted(made: bytes, colour: tuple[int, int, int]) -> Any:
    """A colour of that profile in sRGB, by LittleCMS."""
    image = Image.new("RGB", (1, 1), colour)
    profiles = [ImageCms.ImageCmsProfile(io.BytesIO(made)), ImageCms.createProfile("sRGB")]
    out = ImageCms.profileToProfile(image, *profiles, renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC)
    assert out is not None
    return np.asarray(out)[0, 0]


def test_profiles_made_of_numbers_say_what_they_say() -> None:
    srgb, p3, wide, linear = (icc.from_numbers(*n) for n in ((1, 13), (12, 13), (9, 1), (1, 8)))
    assert srgb and p3 and wide and linear and icc.from_numbers(9, 16) is None and icc.from_numbers(22, 13) is None
    for colour in ((0, 0, 0), (255, 255, 255), (200, 30, 90), (17, 128, 240)):
        np.testing.assert_allclose(converted(srgb, colour), colour, atol=1)
    # sRGB's (200, 100, 50) in Display P3, by the matrices of CSS Color 4
    np.testing.assert_allclose(converted(p3, (187, 105, 62)), (200, 100, 50), atol=1)
    for made in (p3, wide):
        grey = converted(made, (128, 128, 128))
        assert max(grey) - min(grey) <= 1  # the white is the same
    np.testing.assert_allclose(converted(linear, (55, 55, 55)), (128, 128, 128), atol=2)


# -- PNG ----------------------------------------------------------------------------------------------------------


def test_a_large_profile_comes_out_as_it_went_in(tmp_path: Path, smooth: Callable[..., Any], profile: bytes) -> None:
    """Printers' profiles have more than the mebibyte that Pillow allows."""
    large = profile + np.random.default_rng(0).bytes(1_300_000)
    write_photo(Photo(smooth(20, 30), icc=large), tmp_path / "a.png")
    assert read_photo(tmp_path / "a.png").icc == large


def raw_profile(name: str, content: bytes) -> tuple[bytes, bytes]:
    """As ImageMagick writes it."""
    text = f"\n{name}\n{len(content):8d}\n{content.hex()}\n".encode()
    return b"zTXt", f"Raw profile type {name}".encode() + b"\0\0" + zlib.compress(text)


def test_profiles_as_text(tmp_path: Path, make_png: Callable[..., bytes], noise: Callable[..., Any]) -> None:
    from tests.photo.conftest import chunk

    record = b"\x1c\x02\x5a\x00\x04Hove"
    extra = b"".join(chunk(*raw_profile(*said)) for said in (("iptc", record), ("xmp", b"<x:xmpmeta/>")))
    (tmp_path / "a.png").write_bytes(make_png(noise(8, 9, 3), 2, 8, extra))
    photo = read_photo(tmp_path / "a.png")
    assert photo.xmp == b"<x:xmpmeta/>" and resource(photo.iptc, IPTC) == record
    write_photo(photo, tmp_path / "a.jpg")
    assert resource(read_photo(tmp_path / "a.jpg").iptc, IPTC) == record


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_transparent_grey(tmp_path: Path, bits: int) -> None:
    from tests.photo.conftest import chunk

    most = (1 << bits) - 1
    values = np.arange(16).reshape(2, 8) % (most + 1)
    packed = b"".join(
        b"\0" + np.packbits(np.unpackbits(row.astype(np.uint8)[:, None], axis=1)[:, -bits:]).tobytes() for row in values
    )
    head, key = struct.pack(">IIBBBBB", 8, 2, bits, 0, 0, 0, 0), struct.pack(">H", 1)
    parts = (b"IHDR", head), (b"tRNS", key), (b"IDAT", zlib.compress(packed)), (b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    photo = read_photo(tmp_path / "a.png")
    assert photo.alpha is not None
    np.testing.assert_array_equal(photo.alpha == 0, values == 1)
    np.testing.assert_array_equal(photo.samples[..., 0], values * (255 // most))


# -- JPEG ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"), [({"xmp": b"x" * 65_505}, "XMP"), ({"comment": b"x" * 65_534}, "comment")]
)
def test_what_does_not_fit_is_said_before_the_work(
    tmp_path: Path, smooth: Callable[..., Any], changes: dict[str, Any], said: str
) -> None:
    photo = Photo(smooth(20, 30), **changes)
    with pytest.raises(PhotoError, match=f"{said}.* too long for JPEG"):
        check_output(photo, tmp_path / "a.jpg")
    shorter = photo.replace(**{k: v[:-1] for k, v in changes.items()})
    write_photo(shorter, tmp_path / "a.jpg")
    check_output(photo, tmp_path / "a.png")


FOLLOWED = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description GCamera:MotionPhoto="1" dc:title="Pier"
 GCamera:MotionPhotoVersion='1' GCamera:SpecialTypeID="x" hdrgm:Version="1.0"><GCamera:MicroVideoOffset>99</GCamera:MicroVideoOffset>
<Container:Directory><rdf:Seq><rdf:li Item:Length="7"/></rdf:Seq></Container:Directory><dc:creator>A. P.</dc:creator>
</rdf:Description></x:xmpmeta>"""  # noqa: E501


def test_a_motion_photo_made_anew_is_none(
    tmp_path: Path, saved: Callable[..., Path], smooth: Callable[..., Any]
) -> None:
    photo = read_photo(saved("a.jpg", smooth(24, 32), xmp=FOLLOWED))
    write_photo(photo, tmp_path / "same.jpg")  # copied as it is
    assert read_photo(tmp_path / "same.jpg").xmp == FOLLOWED
    write_photo(photo.with_pixels(255 - photo.samples), tmp_path / "new.jpg")
    xmp = read_photo(tmp_path / "new.jpg").xmp or b""
    for gone in (b"MotionPhoto", b"MicroVideo", b"hdrgm", b"Container", b"Item:"):
        assert gone not in xmp, gone
    for kept in (b'dc:title="Pier"', b'GCamera:SpecialTypeID="x"', b"<dc:creator>A. P.</dc:creator>"):
        assert kept in xmp, kept


def test_an_orientation_that_cannot_be_reset_is_not_applied(
    tmp_path: Path, saved: Callable[..., Path], smooth: Callable[..., Any]
) -> None:
    """Else viewers would turn the result once more."""
    exif = struct.pack("<2sHIHHHIiI", b"II", 42, 8, 1, ORIENTATION, 9, 1, 6, 0)  # signed, as no standard has it
    photo = read_photo(saved("a.jpg", smooth(24, 32), exif=b"Exif\0\0" + exif))
    assert photo.samples.shape[:2] == (24, 32)


# -- AVIF, camera raw ---------------------------------------------------------------------------------------------


def test_no_byte_of_exif_moves_in_avif(
    tmp_path: Path, saved: Callable[..., Path], smooth: Callable[..., Any], make_exif: Callable[..., bytes]
) -> None:
    """But the entry of the orientation, which Pillow would take for a wish."""
    thumbnail = io.BytesIO()
    Image.fromarray(smooth(20, 30)).save(thumbnail, "JPEG")
    photo = read_photo(saved("a.jpg", smooth(24, 32), exif=b"Exif\0\0" + make_exif(1, 32, 24, thumbnail.getvalue())))
    assert photo.exif is not None
    write_photo(photo.with_pixels(photo.samples[::-1]), tmp_path / "a.avif")
    out = read_photo(tmp_path / "a.avif").exif
    assert out is not None and len(out) == len(photo.exif)
    old, new = exif_block.parse(photo.exif), exif_block.parse(out)
    assert [e for e in old.main if e.tag != ORIENTATION] == new.main and (old.exif, old.gps) == (new.exif, new.gps)
    assert photo.exif.index(b"\xff\xd8\xff") == out.index(b"\xff\xd8\xff")  # the new thumbnail, in the old one's place


def test_without_orientation_nothing_else_changes(make_exif: Callable[..., bytes]) -> None:
    exif = make_exif(6)
    out = exif_block.without_orientation(exif)
    assert exif_block.orientation(out) == 1 and exif_block.without_orientation(out) == out and len(out) == len(exif)
    assert exif_block.without_orientation(b"") == b"" and exif_block.without_orientation(b"II*\0") == b"II*\0"


def test_what_raw_files_of_any_maker_say(
    tmp_path: Path, saved: Callable[..., Path], smooth: Callable[..., Any], make_exif: Callable[..., bytes]
) -> None:
    exif = make_exif(1)
    wanted = exif_block.parse(exif)
    assert wanted.exif and wanted.gps and exif_block.find(wanted.main, MAKE)
    order = wanted.order

    def told(name: str, data: bytes) -> exif_block.Tables:
        (tmp_path / name).write_bytes(data)
        with (tmp_path / name).open("rb") as file:
            return exif_block.parse(plugins.said_by_raw(file)["exif"])

    def box(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content) + 8) + name + content

    jpeg = saved("a.jpg", smooth(24, 32), exif=b"Exif\0\0" + exif).read_bytes()
    raf = b"FUJIFILMCCD-RAW ".ljust(84, b"\0") + struct.pack(">II", 200, len(jpeg))
    tables = [exif_block.build(exif_block.Tables(order, part)) for part in (wanted.main, wanted.exif, wanted.gps)]
    boxes = b"".join(box(name, part) for name, part in zip((b"CMT1", b"CMT2", b"CMT4"), tables, strict=True))
    cr3 = box(b"ftyp", b"crx \0\0\0\1crx isom") + box(b"moov", box(b"uuid", bytes(16) + boxes))
    orf = (b"IIRO" if order == "<" else b"MMOR") + exif[4:]
    for name, data in (("a.raf", raf.ljust(200, b"\0") + jpeg), ("a.cr3", cr3), ("a.orf", orf)):
        found = told(name, data)
        assert [e[:4] for e in found.exif] == [e[:4] for e in wanted.exif], name
        assert [e[:4] for e in found.gps] == [e[:4] for e in wanted.gps], name
        for tag in (MAKE, MODEL):
            entry, expected = exif_block.find(found.main, tag), exif_block.find(wanted.main, tag)
            assert entry is not None and expected is not None and entry.value == expected.value, name


def test_a_raw_file_that_says_nothing_is_still_developed(tmp_path: Path) -> None:
    for data in (b"FUJIFILMCCD-RAW ".ljust(300, b"\0"), b"\0\0\0\x18ftypcrx ".ljust(300, b"\0"), b"II*\0"):
        (tmp_path / "a.raw").write_bytes(data)
        with (tmp_path / "a.raw").open("rb") as file:
            assert not plugins.said_by_raw(file).get("exif")


def test_a_profile_says_more_than_numbers(profile: bytes) -> None:
    numbers = b"ftypavif colrnclx" + struct.pack(">HH", 9, 16) + bytes(4)
    assert codecs.colours(numbers, profile) == profile
    assert codecs.colours(numbers[:-5], None) is None  # cut short: the decoder will say so
    with pytest.raises(codecs.Refusal):
        codecs.colours(numbers, None)
