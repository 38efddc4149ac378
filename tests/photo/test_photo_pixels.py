"""Pixels, depth, greyness and transparency come out as they went in; each is checked by another reader."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageCms, ImageOps

from unires.errors import PhotoError
from unires.photo import Photo, read_photo, write_photo
from unires.photo.alpha import divided, multiplied
from unires.photo.model import in_depth, to_integers

quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def independent(path: Path) -> Any:
    """Samples as another library reads them, in the depth of the file."""
    data = path.read_bytes()
    if data.startswith(b"\x89PNG"):
        return np.asarray(imagecodecs.png_decode(data))
    if data[:4] in (b"II*\0", b"MM\0*"):
        return tifffile.imread(path)
    return np.asarray(Image.open(io.BytesIO(data)))


@st.composite
def pictures(draw: st.DrawFn) -> tuple[Any, int, str, bool]:
    depth = draw(st.sampled_from([8, 16]))
    channels = draw(st.sampled_from([1, 2, 3, 4]))
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    kind = np.uint8 if depth == 8 else np.uint16
    samples = draw(hnp.arrays(kind, (*shape, channels), elements=st.integers(0, (1 << depth) - 1)))
    name = draw(st.sampled_from(["PNG", "TIFF"] + (["WEBP"] if depth == 8 and channels > 2 else [])))
    return samples, depth, name, draw(st.booleans())


@given(pictures())
@quick
def test_whole_numbers_survive_floats_and_files(tmp_path: Path, case: tuple[Any, int, str, bool]) -> None:
    samples, depth, name, _ = case
    grey = samples.shape[2] < 3
    alpha = samples[..., -1] if samples.shape[2] in (2, 4) else None
    plain = Photo(samples[..., : 1 if grey else 3], alpha)
    photo = plain.with_pixels(plain.pixels)
    assert photo.bit_depth == depth and photo.grey == grey and np.array_equal(photo.samples, plain.samples)
    photo = photo.replace(encoding=photo.encoding.__class__(lossless=True))
    path = tmp_path / ("photo" + {"PNG": ".png", "TIFF": ".tif", "WEBP": ".webp"}[name])
    write_photo(photo, path, overwrite=True)
    other = independent(path)
    if name == "WEBP" and other.shape[-1] != samples.shape[2]:
        samples = samples[..., :3]  # an alpha of 255 everywhere may be left out
    assert other.dtype == samples.dtype
    assert np.array_equal(other.reshape(samples.shape), samples)
    again = read_photo(path)
    assert again.bit_depth == depth and again.format == name and again.grey == grey
    assert np.array_equal(again.samples, photo.samples)
    if alpha is not None and again.alpha is not None:
        assert np.array_equal(again.alpha, alpha)


@given(st.integers(1, 65535), st.sampled_from([8, 16]))
@quick
def test_rounding_is_to_the_nearest(value: int, depth: int) -> None:
    maximum = (1 << depth) - 1
    value = value % (maximum + 1)
    step = np.float32(0.49 / maximum)
    near = np.array([[value / maximum + step, value / maximum - step]], dtype=np.float32)
    assert (to_integers(near, depth) == value).all()
    far = np.array([[value / maximum + 0.51 / maximum]], dtype=np.float32)
    assert (to_integers(far, depth) == min(value + 1, maximum)).all()


def test_values_outside_are_clipped_and_not_wrapped() -> None:
    values = np.array([[-0.2, -1e-9, 1.0, 1.001, 7.0]], dtype=np.float32)
    assert to_integers(values, 8).tolist() == [[0, 0, 255, 255, 255]]
    assert to_integers(values, 16).tolist() == [[0, 0, 65535, 65535, 65535]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_become_no_photo(bad: float) -> None:
    pixels = np.full((300, 4, 3), 0.5, dtype=np.float32)
    pixels[290, 2, 1] = bad
    with pytest.raises(PhotoError, match="not numbers"):
        Photo(np.zeros((300, 4, 3), np.uint8)).with_pixels(pixels)


@pytest.mark.parametrize("colour, channels", [(0, 1), (2, 3), (4, 2), (6, 4)])
@pytest.mark.parametrize("interlaced", [False, True])
def test_16_bit_png_is_read_with_all_its_bits(
    tmp_path: Path,
    make_png: Callable[..., bytes],
    noise: Callable[..., Any],
    colour: int,
    channels: int,
    interlaced: bool,
) -> None:
    samples = noise(33, 41, channels, 16).reshape(33, 41, channels)
    source = tmp_path / "photo.png"
    source.write_bytes(make_png(samples, colour, interlaced=interlaced))
    photo = read_photo(source)
    assert photo.bit_depth == 16 and photo.grey == (channels < 3)
    for i in range(3):
        assert np.array_equal(np.rint(photo.pixels[..., i] * 65535), samples[..., 0 if photo.grey else i])
    assert np.array_equal(photo.samples, samples[..., : photo.samples.shape[2]])
    write_photo(photo, tmp_path / "out.png")
    assert np.array_equal(independent(tmp_path / "out.png").reshape(samples.shape), samples)
    assert len(np.unique(independent(tmp_path / "out.png"))) > 256


TIFFS: list[tuple[str, dict[str, Any], int, int]] = [
    ("plain", {}, 3, 16),
    ("lzw", {"compression": "lzw", "predictor": True}, 3, 16),
    ("deflate", {"compression": "zlib"}, 3, 16),
    ("deflate, 8 bits", {"compression": "zlib", "predictor": True}, 3, 8),
    ("lzw, 8 bits", {"compression": "lzw"}, 4, 8),
    ("packbits", {"compression": "packbits"}, 3, 8),
    ("big-endian", {"byteorder": ">", "compression": "lzw", "predictor": True}, 3, 16),
    ("tiled", {"tile": (16, 16)}, 3, 16),
    ("planes", {"planarconfig": "separate"}, 3, 16),
    ("BigTIFF", {"bigtiff": True}, 3, 16),
    ("alpha", {"extrasamples": ["unassalpha"]}, 4, 16),
    ("grey", {}, 1, 16),
    ("grey and alpha", {"extrasamples": ["unassalpha"]}, 2, 16),
]


@pytest.mark.parametrize("options, channels, depth", [t[1:] for t in TIFFS], ids=[t[0] for t in TIFFS])
def test_tiff_of_every_kind(
    tmp_path: Path, noise: Callable[..., Any], options: dict[str, Any], channels: int, depth: int
) -> None:
    samples = noise(33, 41, channels, depth)
    source, out = tmp_path / "photo.tif", tmp_path / "out.tif"
    stored = np.moveaxis(samples, -1, 0) if options.get("planarconfig") == "separate" else samples
    photometric = "rgb" if channels > 2 else "minisblack"
    tifffile.imwrite(source, stored, photometric=photometric, metadata=None, **options)
    photo = read_photo(source)
    assert photo.bit_depth == depth and photo.grey == (channels < 3)
    write_photo(photo, out)
    assert np.array_equal(tifffile.imread(out), samples)
    with tifffile.TiffFile(source) as before, tifffile.TiffFile(out) as after:
        kept = {"lzw", "zlib", None}
        if options.get("compression") in kept:
            assert after.pages.first.compression == before.pages.first.compression
        assert after.byteorder in "<>"


def test_tiff_white_is_zero(tmp_path: Path, noise: Callable[..., Any]) -> None:
    samples = noise(9, 8, 1, 16)
    tifffile.imwrite(tmp_path / "photo.tif", samples, photometric="miniswhite")
    photo = read_photo(tmp_path / "photo.tif")
    assert np.array_equal(np.rint(photo.pixels[..., 0] * 65535), 65535 - samples)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_float_tiff(tmp_path: Path, kind: Any) -> None:
    values = np.linspace(0, 1, 5 * 7 * 3).reshape(5, 7, 3).astype(kind)
    tifffile.imwrite(tmp_path / "photo.tif", values, photometric="rgb")
    photo = read_photo(tmp_path / "photo.tif")
    assert photo.bit_depth == 16
    assert np.abs(photo.pixels - values.astype(np.float64)).max() < 0.51 / 65535


def test_more_than_16_bits_become_16(tmp_path: Path) -> None:
    values = (np.arange(35, dtype=np.uint64) * 122_713_351).astype(np.uint32).reshape(5, 7)
    tifffile.imwrite(tmp_path / "photo.tif", values, photometric="minisblack")
    photo = read_photo(tmp_path / "photo.tif")
    assert photo.bit_depth == 16 and photo.grey
    assert np.abs(photo.pixels[..., 0] - values / 4294967295).max() < 0.51 / 65535


def test_12_bits_fill_the_range(tmp_path: Path) -> None:
    values = np.array([[0, 1, 2048, 4095]], dtype=np.uint16)
    tifffile.imwrite(tmp_path / "photo.tif", values, bitspersample=12, photometric="minisblack")
    photo = read_photo(tmp_path / "photo.tif")
    assert np.allclose(photo.pixels[0, :, 0], values[0] / 4095, atol=0.51 / 65535)


def test_multiplied_alpha_stays_multiplied(tmp_path: Path, noise: Callable[..., Any]) -> None:
    alpha = noise(20, 20, 1, 16).astype(np.uint32)
    alpha[:4] = 0
    colours = noise(20, 20, 3, 16, seed=1).astype(np.uint32) * alpha[..., None] // 65535
    samples = np.concatenate([colours, alpha[..., None]], axis=2).astype(np.uint16)
    tifffile.imwrite(tmp_path / "photo.tif", samples, photometric="rgb", extrasamples=["assocalpha"])
    photo = read_photo(tmp_path / "photo.tif")
    visible = alpha > 100
    true = colours[visible] / alpha[visible][:, None]
    assert np.abs(photo.pixels[visible] - true).max() < 1e-5
    write_photo(photo, tmp_path / "out.tif")
    assert np.array_equal(tifffile.imread(tmp_path / "out.tif"), samples)
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert file.pages.first.extrasamples == (1,)


@pytest.mark.parametrize("name", ["jpg", "png", "webp", "tif", "avif"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_orientation_is_applied_once(
    tmp_path: Path,
    saved: Callable[..., Path],
    smooth: Callable[..., Any],
    make_exif: Callable[..., bytes],
    name: str,
    turn: int,
) -> None:
    image = Image.fromarray(smooth(37, 53))
    source = saved(f"photo.{name}", image, exif=b"Exif\0\0" + make_exif(turn))
    with Image.open(source) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    photo = read_photo(source)
    assert np.array_equal(to_integers(photo.pixels, 8), expected)
    write_photo(photo, tmp_path / f"out.{name}")
    with Image.open(tmp_path / f"out.{name}") as opened:
        assert opened.getexif().get(0x0112, 1) == 1
        assert opened.size == expected.shape[1::-1]
        again = ImageOps.exif_transpose(opened).convert("RGB")
    assert np.abs(np.asarray(again).astype(int) - expected).mean() < 3


def test_turned_16_bit_tiff_is_exact(tmp_path: Path, noise: Callable[..., Any]) -> None:
    samples = noise(20, 30, 3, 16)
    tifffile.imwrite(tmp_path / "photo.tif", samples, photometric="rgb", extratags=[(274, 3, 1, 6, True)])
    photo = read_photo(tmp_path / "photo.tif")
    assert np.array_equal(to_integers(photo.pixels, 16), np.rot90(samples, -1))


@pytest.mark.parametrize("name", ["jpg", "png", "tif", "avif"])
def test_grey_stays_grey(tmp_path: Path, saved: Callable[..., Path], smooth: Callable[..., Any], name: str) -> None:
    source = saved(f"photo.{name}", smooth(16, 24)[..., 0])
    photo = read_photo(source)
    assert photo.grey and np.array_equal(photo.pixels[..., 0], photo.pixels[..., 2])
    write_photo(photo.with_pixels(photo.pixels * 0.9), tmp_path / f"out.{name}")
    with Image.open(tmp_path / f"out.{name}") as out:
        assert out.mode == "L"
    assert read_photo(tmp_path / f"out.{name}").grey


def test_palettes_and_few_bits(tmp_path: Path, saved: Callable[..., Path], smooth: Callable[..., Any]) -> None:
    image = Image.fromarray(smooth(16, 24))
    palette = image.quantize(16)
    photo = read_photo(saved("palette.png", palette))
    assert not photo.grey and photo.alpha is None
    assert np.array_equal(to_integers(photo.pixels, 8), np.asarray(palette.convert("RGB")))
    photo = read_photo(saved("palette.tif", palette))
    assert np.array_equal(to_integers(photo.pixels, 8), np.asarray(palette.convert("RGB")))
    two = image.convert("1")
    for name in ("bits.png", "bits.tif"):
        photo = read_photo(saved(name, two))
        assert photo.grey and photo.bit_depth == 8
        assert np.array_equal(to_integers(photo.pixels[..., 0], 8), np.asarray(two.convert("L")))


def test_a_transparent_palette_entry_and_colour_become_alpha(
    tmp_path: Path, saved: Callable[..., Path], make_png: Callable[..., bytes]
) -> None:
    image = Image.new("P", (4, 2), 1)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((0, 0), 0)
    photo = read_photo(saved("palette.png", image, transparency=0))
    assert photo.alpha is not None and photo.alpha.tolist() == [[0, 255, 255, 255], [255] * 4]
    photo = read_photo(saved("grey.png", Image.new("L", (3, 2), 7), transparency=7))
    assert photo.grey and photo.alpha is not None and photo.alpha.sum() == 0
    key = np.array([[[1, 2, 3], [65535, 2, 3]]], dtype=np.uint16)
    body = b"\0\0\0\x06tRNS\0\x01\0\x02\0\x03"
    import zlib

    (tmp_path / "deep.png").write_bytes(make_png(key, 2, extra=body + zlib.crc32(body[4:]).to_bytes(4, "big")))
    photo = read_photo(tmp_path / "deep.png")
    assert photo.alpha is not None and photo.alpha.tolist() == [[0, 65535]] and photo.bit_depth == 16


@pytest.mark.parametrize("name", ["jpg", "tif"])
def test_cmyk_without_profile_is_inverted_plainly(
    saved: Callable[..., Path], smooth: Callable[..., Any], name: str
) -> None:
    inks = Image.fromarray(smooth(16, 24)).convert("CMYK")
    source = saved(f"photo.{name}", inks, **({"quality": 100} if name == "jpg" else {}))
    photo = read_photo(source)
    with Image.open(source) as image:
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(to_integers(photo.pixels, 8), expected)
    assert photo.icc is None and not photo.grey


def test_cmyk_with_a_broken_profile_is_still_read(saved: Callable[..., Path], smooth: Callable[..., Any]) -> None:
    source = saved("photo.jpg", Image.fromarray(smooth(16, 24)).convert("CMYK"), icc_profile=b"no profile" * 30)
    photo = read_photo(source)
    assert photo.icc is None and photo.pixels.shape == (16, 24, 3)


def test_cmyk_goes_through_its_profile(
    monkeypatch: pytest.MonkeyPatch, saved: Callable[..., Path], smooth: Callable[..., Any]
) -> None:
    # No CMYK profile is free to make on the spot, so the call is watched instead of its colours.
    calls: list[tuple[str, str]] = []

    def convert(image: Image.Image, source: Any, target: Any, outputMode: str, **_: Any) -> Image.Image:
        calls.append((image.mode, outputMode))
        return Image.new("RGB", image.size, (1, 2, 3))

    monkeypatch.setattr(ImageCms, "ImageCmsProfile", lambda source: _Profile())
    monkeypatch.setattr(ImageCms, "profileToProfile", convert)
    source = saved("photo.tif", Image.fromarray(smooth(16, 24)).convert("CMYK"), icc_profile=b"a profile")
    photo = read_photo(source)
    assert calls == [("CMYK", "RGB")] and photo.icc == b"srgb"
    assert to_integers(photo.pixels, 8)[3, 3].tolist() == [1, 2, 3]


class _Profile:
    def tobytes(self) -> bytes:
        return b"srgb"


def test_jpeg_inside_tiff(saved: Callable[..., Path], smooth: Callable[..., Any]) -> None:
    source = saved("photo.tif", smooth(32, 48), compression="jpeg")
    photo = read_photo(source)
    assert np.abs(to_integers(photo.pixels, 8).astype(int) - smooth(32, 48)).mean() < 4


def test_deep_avif_keeps_its_bits_and_says_when_it_cannot(tmp_path: Path) -> None:
    values = (np.arange(64 * 64 * 3) % 1024).reshape(64, 64, 3).astype(np.uint16)
    values.sort(axis=0)
    (tmp_path / "photo.avif").write_bytes(imagecodecs.avif_encode(values, level=100, bitspersample=10))
    photo = read_photo(tmp_path / "photo.avif")
    assert photo.bit_depth == 16 and photo.format == "AVIF"
    assert np.abs(photo.pixels - values / 1023).max() < 0.02
    with pytest.raises(PhotoError, match="more than 8 bits"):
        write_photo(photo, tmp_path / "out.avif")
    write_photo(photo, tmp_path / "out.png")
    assert len(np.unique(imagecodecs.png_decode((tmp_path / "out.png").read_bytes()))) > 256
    write_photo(photo, tmp_path / "out.avif", bit_depth=8)


@pytest.mark.parametrize("name", ["png", "webp", "tif"])
def test_alpha_is_exact_and_hidden_colours_stay(
    tmp_path: Path, saved: Callable[..., Path], noise: Callable[..., Any], name: str
) -> None:
    samples = noise(24, 24, 4)
    samples[:, :12, 3] = 0
    source = saved(f"photo.{name}", samples, **({"lossless": True, "exact": True} if name == "webp" else {}))
    photo = read_photo(source)
    worked = photo.with_pixels(np.full_like(photo.pixels, 0.5))
    write_photo(worked, tmp_path / f"out.{name}")
    out = independent(tmp_path / f"out.{name}")
    assert np.array_equal(out[..., 3], samples[..., 3])
    assert np.array_equal(out[:, :12, :3], samples[:, :12, :3])
    assert (out[:, 12:][samples[:, 12:, 3] > 0][:, :3] == 128).all()


def test_hidden_colours_do_not_bleed() -> None:
    samples, alpha = np.zeros((31, 45, 3), np.uint8), np.zeros((31, 45), np.uint8)
    samples[8:20, 10:30], alpha[8:20, 10:30] = (200, 130, 50), 255
    assert (Photo(samples, alpha).visible() == (200, 130, 50)).all()
    assert (Photo(samples, alpha).visible(16) == np.array((200, 130, 50)) * 257).all()
    assert Photo(samples, np.zeros_like(alpha)).visible() is samples
    assert Photo(samples, np.full_like(alpha, 1)).visible() is samples


def test_filled_colours_come_from_near() -> None:
    rng = np.random.default_rng(3)
    samples = rng.integers(0, 65536, (600, 40, 3)).astype(np.uint16)  # more than one band of rows
    samples[:, :20] //= 10
    alpha = (rng.random((600, 40)) < 0.3).astype(np.uint16)
    shown = Photo(samples, alpha).visible()
    assert shown[:, :16].max() <= 6554 and shown[:, 24:].mean() > 0.3 * 65535
    assert np.array_equal(shown[alpha > 0], samples[alpha > 0])


def test_holes_are_filled_from_next_to_them() -> None:
    x = np.rint(np.linspace(0, 255, 64))
    samples = np.broadcast_to(x[None, :, None], (64, 64, 3)).astype(np.uint8)
    alpha = np.full((64, 64), 255, np.uint8)
    alpha[5:59, 5:59] = 0
    shown = Photo(np.where(alpha[..., None] > 0, samples, 0).astype(np.uint8), alpha).visible().astype(float)
    assert np.abs(shown - samples)[5:59, [5, 58]].max() < 0.04 * 255
    assert np.abs(shown - samples).max() < 0.35 * 255


@pytest.mark.parametrize("shape", ["box", "disc", "rows"])
@pytest.mark.parametrize("depth", [8, 16])
def test_large_holes_are_as_noisy_as_what_is_seen(shape: str, depth: int) -> None:
    """A router reads them, too: with means in them a cut-out noisy photo looked half as noisy, and lost 2 to 5 dB."""
    y, x = np.mgrid[:300, :400]
    seen = {"box": (abs(y - 150) < 70) & (abs(x - 200) < 100), "disc": (y - 150) ** 2 + (x - 200) ** 2 < 110**2,
            "rows": y % 100 < 40}[shape]  # fmt: skip
    dice = np.random.default_rng(1)
    top = (1 << depth) - 1
    noise = dice.normal(0, 0.06, (300, 400, 3))
    samples = np.rint(np.clip(0.3 + 0.4 * x[..., None] / 400 + noise, 0, 1) * top).astype(f"u{depth // 8}")
    cut = Photo(samples * seen[..., None].astype(samples.dtype), (seen * top).astype(samples.dtype))
    shown = cut.visible()
    assert np.array_equal(shown[seen], samples[seen])

    def rough(values: Any, where: Any) -> float:
        steps = np.diff(values.astype(float) / top, axis=1)[:, :, 0]
        return float(steps[where[:, 1:] & where[:, :-1]].std())

    assert rough(shown, ~seen) == pytest.approx(rough(samples, seen), rel=0.2)
    colour = [float((shown[..., 0].astype(float) / top)[part].mean()) for part in (~seen, seen)]
    assert abs(colour[0] - colour[1]) < 0.1


@given(hnp.arrays(np.uint8, (300, 2, 4)), st.sampled_from([8, 16]))
@quick
def test_multiplying_undoes_dividing(values: Any, depth: int) -> None:
    values = in_depth(values, depth)
    alpha = values[..., 3]
    colours = np.minimum(values[..., :3], alpha[..., None])
    assert np.array_equal(multiplied(divided(colours, alpha), alpha), colours)


def test_depths() -> None:
    deep = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    flat = in_depth(deep, 8)
    assert np.array_equal(flat, np.rint(deep / 65535 * 255)) and in_depth(deep, 16) is deep
    assert np.array_equal(in_depth(in_depth(flat, 16), 8), flat) and in_depth(flat, 16).max() == 65535


def test_alpha_follows_a_change_of_size_and_of_depth() -> None:
    alpha = np.zeros((10, 20), np.uint8)
    alpha[:, 10:] = 255
    photo = Photo(np.zeros((10, 20, 3), np.uint8), alpha).with_pixels(np.ones((25, 50, 3)))
    assert photo.alpha is not None and photo.alpha.shape == (25, 50)
    assert photo.alpha.min() == 0 and photo.alpha.max() == 255
    assert (photo.alpha[:, :20] == 0).all() and (photo.alpha[:, 30:] == 255).all()
    deep = photo.with_pixels(np.full((25, 50, 3), 777, np.uint16))
    assert deep.bit_depth == 16 and deep.alpha is not None and deep.alpha.max() == 65535
    assert (deep.samples[:, :15] == 65535).all() and (deep.samples[:, 30:] == 777).all()  # what is hidden stays


@pytest.mark.parametrize(
    "samples, alpha, message",
    [
        (np.zeros((3, 4), np.uint8), None, "height x width x 1 or 3"),
        (np.zeros((0, 4, 3), np.uint8), None, "height x width x 1 or 3"),
        (np.zeros((3, 4, 2), np.uint8), None, "height x width x 1 or 3"),
        (np.zeros((3, 4, 3)), None, "uint8 or uint16"),
        (np.zeros((3, 4, 3), np.uint8), np.zeros((4, 3), np.uint8), "alpha"),
        (np.zeros((3, 4, 3), np.uint8), np.zeros((3, 4), np.uint16), "alpha"),
    ],
)
def test_photos_that_make_no_sense(samples: Any, alpha: Any, message: str) -> None:
    with pytest.raises(PhotoError, match=message):
        Photo(samples, alpha)


def test_extreme_shapes(tmp_path: Path, noise: Callable[..., Any]) -> None:
    for height, width in ((1, 1), (1, 10_000), (10_000, 1)):
        photo = Photo(noise(height, width, 3).reshape(height, width, 3))
        for name in ("jpg", "png", "webp", "tif", "avif"):
            path = tmp_path / f"{height}-{width}.{name}"
            write_photo(photo, path)
            assert read_photo(path).pixels.shape == (height, width, 3)
            if name in ("png", "tif"):
                assert np.array_equal(read_photo(path).pixels, photo.pixels)
