"""What a file says about its photo is said again by the output."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, IptcImagePlugin

from unires.errors import PhotoError
from unires.photo import exif as exif_block
from unires.photo import read_photo, tiff, write_photo
from unires.photo.resources import IPTC, resource

XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"
 xmlns:dc="d" dc:title="Pier \xc3\xa9"/>
</rdf:RDF></x:xmpmeta>"""
ALL = ["jpg", "png", "webp", "tif", "avif"]
MAKER_NOTE = 0x927C


def iptc_record() -> bytes:
    """An IPTC record: city and keyword."""
    return b"".join(
        b"\x1c" + struct.pack(">BBH", 2, kind, len(text)) + text for kind, text in ((90, b"Hove"), (25, b"pier"))
    )


def resources() -> bytes:
    record = iptc_record()
    path = b"8BIM\x07\xd0\x05Path1" + struct.pack(">I", 3) + b"abc\0"  # odd lengths, to be padded
    return path + b"8BIM\x04\x04\0\0" + struct.pack(">I", len(record)) + record + bytes(len(record) % 2)


def block(path: Path) -> bytes:
    """The EXIF block as Pillow finds it."""
    with Image.open(path) as image:
        raw = image.info.get("exif", b"")
    return raw[6:] if raw.startswith(b"Exif\0\0") else raw


def tags(path: Path) -> dict[str, Any]:
    """All EXIF values by Pillow's own parser, from any format."""
    with Image.open(path) as image:
        exif = image.getexif()
        sub, gps = dict(exif.get_ifd(0x8769)), dict(exif.get_ifd(0x8825))
        main = {k: v for k, v in exif.items() if k not in tiff._STRUCTURE | {0x8769, 0x8825, 274}}
    return {"main": main, "exif": sub, "gps": gps}


@pytest.fixture
def source(
    saved: Callable[..., Path], smooth: Callable[..., Any], make_exif: Callable[..., bytes], profile: bytes
) -> Callable[..., Path]:
    """A photo with everything: turned, GPS, maker note, profile, XMP, resolution, comment, IPTC."""

    def make(name: str, turn: int = 6) -> Path:
        exif = b"Exif\0\0" + make_exif(turn)
        options: dict[str, Any] = {"exif": exif, "icc_profile": profile, "xmp": XMP, "dpi": (300, 200)}
        if name == "jpg":
            app13 = b"Photoshop 3.0\0" + resources()
            options |= {
                "comment": b"hand-held",
                "extra": b"\xff\xed" + struct.pack(">H", len(app13) + 2) + app13,
            }
        if name == "png":
            from PIL.PngImagePlugin import PngInfo

            info = PngInfo()
            info.add_itxt("XML:com.adobe.xmp", XMP.decode(), zip=True)
            info.add_text("Comment", "hand-held")
            info.add_text("Author", "A. P.", zip=True)
            info.add(b"gAMA", struct.pack(">I", 45455))
            options |= {"pnginfo": info}
            del options["xmp"]
        if name == "tif":
            image = Image.fromarray(smooth(37, 53))
            out = io.BytesIO()
            ifd = {700: XMP, 33723: iptc_record()}
            image.save(
                out,
                format="TIFF",
                exif=exif,
                icc_profile=profile,
                dpi=(300, 200),
                tiffinfo=_merged(exif, ifd),
            )
            path = saved("scratch.png", image).with_name("photo.tif")
            path.write_bytes(out.getvalue())
            return path
        return saved(f"photo.{name}", Image.fromarray(smooth(37, 53)), **options)

    return make


def _merged(exif: bytes, ifd: dict[int, bytes]) -> Any:
    from PIL import TiffImagePlugin

    loaded = Image.Exif()
    loaded.load(exif)
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in loaded.items():
        if tag not in (0x8769, 0x8825):
            info[tag] = value
    for pointer in (0x8769, 0x8825):
        info[pointer] = loaded.get_ifd(pointer)
    for tag, value in ifd.items():
        info[tag] = value
        info.tagtype[tag] = 7
    return info


@pytest.mark.parametrize("name", ALL)
def test_a_turned_photo_comes_out_upright_with_the_same_tags(
    tmp_path: Path, source: Callable[..., Path], name: str, profile: bytes
) -> None:
    path, out = source(name), tmp_path / f"out.{name}"
    before = path.read_bytes()
    photo = read_photo(path)
    assert (photo.width, photo.height) == (37, 53)
    assert photo.icc == profile
    write_photo(photo, out)
    assert path.read_bytes() == before
    was, now = tags(path), tags(out)
    # Width and height change places with the turn; nothing else may differ.
    assert now["exif"].pop(0xA002, 37) == 37 and now["exif"].pop(0xA003, 53) == 53
    was["exif"].pop(0xA002, None), was["exif"].pop(0xA003, None)
    assert now == was
    assert was["exif"][MAKER_NOTE].startswith(b"Nikon") and was["gps"][1] == "N" and len(was["gps"]) >= 5
    with Image.open(out) as image:
        assert image.info.get("icc_profile") == profile
        assert image.getexif()[274] == 1 if name != "avif" else image.getexif().get(274, 1) == 1
        if name != "avif" and name != "webp":
            assert tuple(round(float(v)) for v in image.info["dpi"]) == (200, 300)
    again = read_photo(out)
    assert again.xmp == XMP.replace(b'Orientation="6"', b'Orientation="1"')
    assert again.icc == profile
    if name in ("jpg", "png"):
        assert again.comment == b"hand-held"
    if name in ("jpg", "tif"):
        assert resource(again.iptc, IPTC) == iptc_record()
        with Image.open(out) as image:
            record = IptcImagePlugin.getiptcinfo(image)
        assert record is not None and record[(2, 90)] == b"Hove" and record[(2, 25)] == b"pier"


@pytest.mark.parametrize("start", ALL)
@pytest.mark.parametrize("end", ALL)
def test_metadata_survive_a_change_of_format(
    tmp_path: Path, source: Callable[..., Path], start: str, end: str, profile: bytes
) -> None:
    photo = read_photo(source(start))
    out = tmp_path / f"out.{end}"
    write_photo(photo, out)
    was, now = tags(source(start)), tags(out)
    for pixels in (0xA002, 0xA003):
        was["exif"].pop(pixels, None), now["exif"].pop(pixels, None)
    comment = now["main"].pop(270, None)  # a JPEG's comment becomes a TIFF's description
    assert now == was
    again = read_photo(out)
    assert (
        again.icc == profile
        and again.xmp == photo.xmp
        and again.format == {"jpg": "JPEG", "tif": "TIFF"}.get(end, end.upper())
    )
    if photo.comment and end == "tif":
        assert comment == "hand-held"
    if photo.iptc and end in ("jpg", "tif", "png"):
        assert resource(again.iptc, IPTC) == iptc_record()
    if photo.dpi and end in ("jpg", "tif", "png"):
        assert again.dpi is not None and again.dpi == pytest.approx((200, 300), abs=0.01)


@pytest.mark.parametrize("name", ["jpg", "png", "webp"])
@pytest.mark.parametrize("turn", [1, 6])
def test_no_other_exif_byte_changes(tmp_path: Path, source: Callable[..., Path], name: str, turn: int) -> None:
    path, out = source(name, turn), tmp_path / f"out.{name}"
    photo = read_photo(path)
    write_photo(photo.with_pixels(1 - photo.pixels), out)
    a, b = block(path), block(out)
    assert len(a) == len(b)
    different = [i for i in range(len(a)) if a[i] != b[i]]
    # Orientation, width and height: one byte each, as the numbers are small.
    assert len(different) == (3 if turn == 6 else 0)


def test_thumbnails_show_the_new_photo(
    tmp_path: Path, saved: Callable[..., Path], smooth: Callable[..., Any], make_exif: Callable[..., bytes]
) -> None:
    old = io.BytesIO()
    Image.new("RGB", (160, 112), (255, 0, 0)).save(old, format="JPEG", quality=95)
    thumbnail = old.getvalue() + bytes(3000)
    exif = make_exif(6, thumbnail=thumbnail)
    path = saved("photo.jpg", smooth(370, 530), exif=b"Exif\0\0" + exif)
    photo = read_photo(path)
    write_photo(photo.with_pixels(np.full_like(photo.pixels, 0.25)), tmp_path / "out.jpg")
    new = block(tmp_path / "out.jpg")
    assert len(new) == len(exif)
    at = exif.index(thumbnail)
    shown = Image.open(io.BytesIO(new[at : at + len(thumbnail)]))
    assert shown.size[0] < shown.size[1] and max(shown.size) <= 160  # upright like the photo
    assert np.abs(np.asarray(shown).astype(int) - 64).max() < 4
    order, _, following, _ = exif_block._main(new)
    entries, _, _ = exif_block.read_table(lambda at, n: new[at : at + n], order, following)
    assert exif_block.number(entries, 0x0112, order) == 1
    # Where no thumbnail fits, its table is unlinked: better none than a wrong one.
    tiny = make_exif(1, thumbnail=old.getvalue()[:40])
    photo = read_photo(saved("tiny.jpg", smooth(37, 53), exif=b"Exif\0\0" + tiny))
    write_photo(photo.with_pixels(1 - photo.pixels), tmp_path / "out2.jpg")
    order, _, following, _ = exif_block._main(block(tmp_path / "out2.jpg"))
    assert order and following == 0


def test_sizes_in_exif_follow_the_picture(tmp_path: Path, source: Callable[..., Path]) -> None:
    photo = read_photo(source("jpg", 1))
    write_photo(photo.with_pixels(np.zeros((74, 106, 3))), tmp_path / "out.jpg")
    exif = tags(tmp_path / "out.jpg")["exif"]
    assert (exif[0xA002], exif[0xA003]) == (106, 74)


def _tables(path: Path) -> list[list[int]]:
    with Image.open(path) as image:
        return [list(t) for t in image.quantization.values()]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["jpg", "webp", "avif"])
def test_an_unchanged_lossy_photo_is_copied_byte_for_byte(
    tmp_path: Path, source: Callable[..., Path], name: str
) -> None:
    path = source(name, 1)
    photo = read_photo(path)
    write_photo(photo.with_pixels(photo.pixels.copy()), tmp_path / f"same.{name}")
    assert (tmp_path / f"same.{name}").read_bytes() == path.read_bytes()
    pixels = photo.pixels.copy()
    pixels[3, 4, 1] += 1 / 255 if pixels[3, 4, 1] < 0.5 else -1 / 255
    for i, (changed, options) in enumerate(
        (
            (photo.with_pixels(pixels), {}),
            (photo.with_pixels(photo.pixels[:-1]), {}),
            (photo.replace(xmp=b"<other/>"), {}),
            (photo, {"quality": 99}),
            (read_photo(source(name, 6)), {}),
        )
    ):
        out = tmp_path / f"{i}.{name}"
        write_photo(changed, out, **options)  # type: ignore[arg-type]
        assert out.read_bytes() != path.read_bytes()
        assert read_photo(out).width == changed.width
    other = "webp" if name != "webp" else "avif"
    write_photo(photo.replace(format=other.upper()), tmp_path / f"other.{other}")
    assert read_photo(tmp_path / f"other.{other}").format == other.upper()


@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("quality", [15, 75, 92, 97])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_is_encoded_as_it_was_or_better(
    tmp_path: Path,
    saved: Callable[..., Path],
    smooth: Callable[..., Any],
    sampling: str,
    quality: int,
    progressive: bool,
) -> None:
    path = saved("photo.jpg", smooth(64, 48), quality=quality, subsampling=sampling, progressive=progressive)
    floor = saved("floor.jpg", smooth(64, 48), quality=92)
    photo = read_photo(path)
    photo = photo.with_pixels(1 - photo.pixels)
    write_photo(photo, tmp_path / "out.jpg")
    assert read_photo(tmp_path / "out.jpg").encoding.subsampling == sampling
    with Image.open(tmp_path / "out.jpg") as image:
        assert bool(image.info.get("progressive")) == progressive
    was, now, least = _tables(path), _tables(tmp_path / "out.jpg"), _tables(floor)
    assert len(now) == len(was)
    assert all(n <= min(w, f) for a, b, c in zip(now, was, least, strict=True) for n, w, f in zip(a, b, c, strict=True))
    if quality >= 92:
        assert now == was
    write_photo(photo, tmp_path / "small.jpg", quality=30)
    assert _tables(tmp_path / "small.jpg") == _tables(saved("thirty.jpg", smooth(64, 48), quality=30))


def test_a_photo_that_was_no_jpeg_gets_a_good_one(
    tmp_path: Path, saved: Callable[..., Path], smooth: Callable[..., Any]
) -> None:
    write_photo(read_photo(saved("photo.png", smooth(64, 48))), tmp_path / "out.jpg")
    assert read_photo(tmp_path / "out.jpg").encoding.subsampling == "4:4:4"
    assert _tables(tmp_path / "out.jpg") == _tables(saved("other.jpg", smooth(64, 48), quality=95))


@pytest.mark.parametrize("progressive", [False, True])
def test_very_noisy_jpegs_fit_too(
    tmp_path: Path, saved: Callable[..., Path], noise: Callable[..., Any], progressive: bool
) -> None:
    # Pillow alone fails here: the file is larger than it expects an optimised JPEG to be.
    path = saved("photo.png", noise(300, 300, 3))
    photo = read_photo(path)
    photo = photo.replace(format="JPEG", encoding=photo.encoding.__class__(progressive=progressive))
    write_photo(photo, tmp_path / "out.jpg", quality=100)
    assert (tmp_path / "out.jpg").stat().st_size > 2 * 300 * 300


@pytest.mark.parametrize("lossless", [False, True])
def test_webp_stays_of_its_kind(
    tmp_path: Path, saved: Callable[..., Path], noise: Callable[..., Any], lossless: bool
) -> None:
    path = saved("photo.webp", noise(32, 32, 3), lossless=lossless)
    photo = read_photo(path)
    photo = photo.with_pixels(1 - photo.pixels)
    write_photo(photo, tmp_path / "out.webp")
    again = read_photo(tmp_path / "out.webp")
    assert again.encoding.lossless == lossless
    assert np.array_equal(np.rint(photo.pixels * 255), np.rint(again.pixels * 255)) == lossless
    write_photo(read_photo(path), tmp_path / "small.webp", quality=10)
    assert (tmp_path / "small.webp").stat().st_size < (tmp_path / "out.webp").stat().st_size


@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_avif_keeps_its_subsampling(
    tmp_path: Path, saved: Callable[..., Path], smooth: Callable[..., Any], sampling: str
) -> None:
    photo = read_photo(saved("photo.avif", smooth(32, 32), subsampling=sampling))
    write_photo(photo.with_pixels(1 - photo.pixels), tmp_path / "out.avif")
    assert read_photo(tmp_path / "out.avif").encoding.subsampling == sampling


def test_png_keeps_its_texts_and_colour_chunks(tmp_path: Path, source: Callable[..., Path]) -> None:
    path, out = source("png"), tmp_path / "out.png"
    write_photo(read_photo(path), out)
    with Image.open(path) as before, Image.open(out) as after:
        before.load(), after.load()
        assert after.info["Author"] == "A. P." and after.info["Comment"] == "hand-held"
        assert after.info["gamma"] == pytest.approx(0.45455)
        assert set(before.info) - {"interlace"} <= set(after.info)
    # Chunks that describe the colours must stand before the pixels.
    raw = out.read_bytes()
    assert max(raw.index(k) for k in (b"gAMA", b"iCCP", b"pHYs", b"eXIf")) < raw.index(b"IDAT")


def test_16_bit_files_carry_everything_too(
    tmp_path: Path, source: Callable[..., Path], noise: Callable[..., Any], profile: bytes
) -> None:
    photo = read_photo(source("jpg"))
    photo = photo.with_pixels(photo.visible(16))
    for name in ("png", "tif"):
        write_photo(photo, tmp_path / f"deep.{name}")
        deep = read_photo(tmp_path / f"deep.{name}")
        assert deep.bit_depth == 16 and deep.icc == profile and deep.xmp == photo.xmp
        assert resource(deep.iptc, IPTC) == iptc_record() and deep.exif
        assert tags(tmp_path / f"deep.{name}")["gps"][1] == "N"
        assert tags(tmp_path / f"deep.{name}")["exif"][MAKER_NOTE].startswith(b"Nikon")
    with tifffile.TiffFile(tmp_path / "deep.tif") as file:
        assert file.pages.first.tags["XResolution"].value[0] / file.pages.first.tags["XResolution"].value[1] == 200


def test_a_grey_profile_is_not_put_on_colours(
    tmp_path: Path, saved: Callable[..., Path], noise: Callable[..., Any]
) -> None:
    grey = bytearray(200)
    grey[16:20] = b"GRAY"
    path = saved("photo.png", noise(8, 8, 1), icc_profile=bytes(grey))
    photo = read_photo(path)
    assert photo.icc == bytes(grey)
    write_photo(photo, tmp_path / "out.png")
    assert read_photo(tmp_path / "out.png").icc == bytes(grey)
    write_photo(photo, tmp_path / "out.webp")
    assert read_photo(tmp_path / "out.webp").icc is None


def test_metadata_too_large_for_jpeg_are_refused_in_a_sentence(
    tmp_path: Path, saved: Callable[..., Path], noise: Callable[..., Any]
) -> None:
    photo = read_photo(saved("photo.png", noise(8, 8, 3))).replace(xmp=b"x" * 70_000)
    with pytest.raises(PhotoError, match="XMP data is too long"):
        write_photo(photo, tmp_path / "out.jpg")
    assert not (tmp_path / "out.jpg").exists()
    write_photo(photo, tmp_path / "out.tif")


def test_long_iptc_and_profiles_span_segments(
    tmp_path: Path, saved: Callable[..., Path], noise: Callable[..., Any]
) -> None:
    long = b"8BIM\x07\xd0\0\0" + struct.pack(">I", 150_000) + bytes(150_000) + resources()
    icc = bytes(16) + b"RGB " + np.random.default_rng(0).bytes(140_000)
    photo = read_photo(saved("photo.png", noise(8, 8, 3))).replace(iptc=long, icc=icc)
    write_photo(photo, tmp_path / "out.jpg")
    again = read_photo(tmp_path / "out.jpg")
    assert again.iptc == long and again.icc == icc
    assert resource(again.iptc, IPTC) == iptc_record()


@given(st.binary(max_size=400), st.sampled_from([b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"]))
@settings(max_examples=200, deadline=None)
def test_no_exif_block_breaks_the_reader(body: bytes, start: bytes) -> None:
    raw = start + body
    assert 1 <= exif_block.orientation(raw) <= 8
    assert len(exif_block.upright(raw)) == len(raw)
    assert len(exif_block.with_size(raw, 70_000, 3)) == len(raw)
    assert len(exif_block.with_thumbnail(raw, lambda n: None)) == len(raw)
    exif_block.build(exif_block.parse(raw))


ENTRY = st.builds(
    lambda tag, value: exif_block.Entry(tag, 7, len(value), value),
    st.integers(1, 2000),
    st.binary(min_size=1, max_size=20),
)
TABLE = st.lists(ENTRY, max_size=5, unique_by=lambda e: e.tag)


@given(st.sampled_from("<>"), TABLE, TABLE, TABLE, TABLE)
@settings(max_examples=80, deadline=None)
def test_tables_are_built_and_taken_apart_again(order: str, main: Any, sub: Any, gps: Any, interop: Any) -> None:
    back = exif_block.parse(exif_block.build(exif_block.Tables(order, main, sub, gps, interop)))
    assert back.order == order
    # Values of more than four bytes lie at even addresses, as TIFF wants.
    assert all(e.at % 2 == 0 for t in (back.main, back.exif, back.gps, back.interop) for e in t if e.length > 4)
    for mine, theirs in ((main, back.main), (sub, back.exif), (gps, back.gps), (interop, back.interop)):
        assert [(e.tag, e.value) for e in theirs] == sorted((e.tag, e.value) for e in mine)
