"""The rows of docs/conformance.md that take seconds; see test_soak.py for the long ones."""

from __future__ import annotations

import io
import json
import re
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps

from unires.doors.cli import main

ROOT = Path(__file__).parents[2]
MIX = "keep=0.9,denoise=0.1"  # most of the photo, so that it can be recognised, and something computed


@pytest.fixture
def restore(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """`unires restore` with a small network."""

    def run(source: Path, target: Path, *words: str, status: int = 0) -> str:
        arguments = ["restore", str(source), "-o", str(target), "--model", str(tiny_folder), "--device", "cpu", *words]
        assert main(arguments) == status, capsys.readouterr().err
        return capsys.readouterr().err

    return run


def ramp(height: int, width: int, channels: int, depth: int = 8) -> Any:
    """Another brightness at every corner."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [(x * (3 - c) / width + y * (1 + c) / height) / 4 * 0.8 + 0.1 for c in range(channels)]
    return np.rint(np.stack(planes, axis=-1) * ((1 << depth) - 1)).astype(np.uint8 if depth == 8 else np.uint16)


def display_p3() -> bytes:
    """sRGB's profile with the primaries of Display P3 (SMPTE EG 432-1, adapted to D50)."""
    raw = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    primaries = {b"rXYZ": (0.51512, 0.2412, -0.00105), b"gXYZ": (0.29198, 0.69225, 0.04189),
                 b"bXYZ": (0.1571, 0.06657, 0.78407)}
    for i in range(struct.unpack_from(">I", raw, 128)[0]):
        kind, at, _ = struct.unpack_from(">4sII", raw, 132 + 12 * i)
        if kind in primaries:
            struct.pack_into(">3i", raw, at + 8, *(round(v * 65536) for v in primaries[kind]))
    return bytes(raw)


def tags(path: Path) -> dict[str, Any]:
    """What exiftool reads, but for what belongs to the file, or must change: sizes, orientation, thumbnail."""
    run = subprocess.run(["exiftool", "-json", "-G1", "-a", "-n", "-u", str(path)], capture_output=True, check=True)
    found = json.loads(run.stdout)[0]
    changing = ("System:", "File:", "ExifTool:", "Composite:", "SourceFile", "IFD1:")
    return {k: v for k, v in found.items() if not k.startswith(changing)}


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
def test_a_rotated_display_p3_jpeg_with_gps(
    tmp_path: Path, restore: Callable[..., Any], figure: Callable[[str], None]
) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x0110], exif[0x8298] = 6, "Maker", "Model 1", "(c) A. Photographer"
    exif.get_ifd(0x8769).update({0x9003: "2024:05:17 10:11:12", 0x829A: 0.004, 0x927C: b"maker's own \0\1\2" * 20})
    exif.get_ifd(0x8825).update({1: "N", 2: (51.0, 28.0, 40.12), 3: "W", 4: (0.0, 0.0, 5.31), 29: "2024:05:17"})
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    xmp += b'<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/" dc:source="film"/></rdf:RDF></x:xmpmeta>'
    source, target = tmp_path / "photo.jpg", tmp_path / "out.jpg"
    options: dict[str, Any] = {"quality": 95, "dpi": (300, 300), "comment": b"a remark"}
    Image.fromarray(ramp(90, 120, 3)).save(source, exif=exif, icc_profile=display_p3(), xmp=xmp, **options)
    restore(source, target, "--weights", MIX)
    before, after = tags(source), tags(target)
    turned = {k: (before.pop(k), after.pop(k)) for k in list(before) if k.endswith(":Orientation")}
    assert set(turned.values()) == {(6, 1)}
    assert after == before and any(k.startswith("GPS:") for k in before)
    with Image.open(source) as one, Image.open(target) as two:
        upright = ImageOps.exif_transpose(one)
        assert two.size == upright.size == (90, 120) and two.info["icc_profile"] == one.info["icc_profile"]
        assert np.abs(np.asarray(upright).astype(int) - np.asarray(two)).mean() < 12
    figure(f"{len(before)} of {len(before)} tags the same by exiftool; upright; the profile byte for byte")


def test_sixteen_bits_stay_sixteen(tmp_path: Path, restore: Callable[..., Any], figure: Callable[[str], None]) -> None:
    samples = ramp(96, 700, 3, 16)
    tifffile.imwrite(tmp_path / "photo.tif", samples, photometric="rgb")
    (tmp_path / "photo.png").write_bytes(imagecodecs.png_encode(samples))
    levels = []
    for name, read in (("tif", tifffile.imread), ("png", lambda p: imagecodecs.png_decode(p.read_bytes()))):
        restore(tmp_path / f"photo.{name}", tmp_path / f"out.{name}", "--weights", MIX)
        out = read(tmp_path / f"out.{name}")
        assert out.dtype == np.uint16 and out.shape == samples.shape
        levels += [len(np.unique(out[..., c])) for c in range(3)]
    assert min(levels) > 256
    figure(f"at least {min(levels):,} levels a channel")


@pytest.mark.parametrize("name", ["png", "webp", "tif"])
def test_transparency_keeps_its_mask(
    tmp_path: Path, restore: Callable[..., Any], figure: Callable[[str], None], name: str
) -> None:
    samples = ramp(60, 80, 4)
    samples[:20, :, 3] = 0
    options = {"lossless": True, "exact": True} if name == "webp" else {}
    Image.fromarray(samples).save(tmp_path / f"photo.{name}", **options)
    restore(tmp_path / f"photo.{name}", tmp_path / f"out.{name}", "--weights", MIX)
    with Image.open(tmp_path / f"out.{name}") as image:
        out = np.asarray(image)
    assert out.shape == samples.shape and np.array_equal(out[..., 3], samples[..., 3])
    assert np.array_equal(out[:20], samples[:20])  # colours that nobody sees stay, too
    figure("PNG, WebP, TIFF: every value of the mask the same")


@pytest.mark.parametrize("name", ["jpg", "png", "tif"])
def test_grey_stays_grey(
    tmp_path: Path, restore: Callable[..., Any], figure: Callable[[str], None], name: str
) -> None:
    Image.fromarray(ramp(60, 80, 1)[..., 0]).save(tmp_path / f"photo.{name}")
    restore(tmp_path / f"photo.{name}", tmp_path / f"out.{name}", "--weights", MIX)
    with Image.open(tmp_path / f"out.{name}") as image:
        assert image.mode == "L"
    figure("JPEG, PNG, TIFF: one channel")


def test_a_flat_gradient_stays_free_of_seams(figure: Callable[[str], None]) -> None:
    """In tiles and in one piece, by the shipped network."""
    import torch

    from unires.denoise.checkpoint import load_denoiser
    from unires.restore.restorer import Restorer

    restorer = Restorer(load_denoiser(None, "cpu", torch.float32))
    y, x = torch.linspace(0, 1, 260)[:, None], torch.linspace(0, 1, 450)[None, :]
    picture = (0.4 + (x + y) / 255).expand(1, 3, 260, 450)
    whole, tiled = (restorer.pixels(picture, weights="blind", tile=tile) for tile in (2000, 384))
    assert restorer.report is not None and restorer.report.tiles > 1
    off = (whole - tiled).abs() * 255
    assert off.mean() < 1 and off.max() < 4
    figure(f"the shipped network: {off.mean():.3f} of 255 on average, {off.max():.2f} at most")


def test_results_do_not_depend_on_tiles_or_threads(
    tiny_net: Callable[..., Any], astronaut: Any, figure: Callable[[str], None]
) -> None:
    import torch

    from unires.denoise.compact import CompactConfig
    from unires.denoise.compact_denoiser import CompactDenoiser
    from unires.restore.restorer import Restorer

    shape = CompactConfig()
    net = tiny_net(down=shape.down, up=shape.up, widths=(8,) * len(shape.widths))
    restorer = Restorer(CompactDenoiser(net, "cpu", torch.float32))
    photo = np.concatenate((astronaut, astronaut[:, ::-1]), axis=1)[:500, :900]
    threads = torch.get_num_threads()
    options: dict[str, Any] = {"weights": "denoise; blind@relay", "steps": 2, "seed": 3}
    whole = restorer(photo, tile=2000, **options).astype(int)
    most, mean = 0.0, 0.0
    try:
        for tile, count in ((2000, 2), (384, 1), (480, 2), (700, 1)):
            torch.set_num_threads(count)
            off = np.abs(restorer(photo, tile=tile, **options).astype(int) - whole)
            most, mean = max(most, off.max()), max(mean, off.mean())
    finally:
        torch.set_num_threads(threads)
    assert mean < 1 and most < 4 and np.abs(whole - photo).mean() > 1
    figure(f"{mean:.4f} of 255 on average, {most:.0f} at most (two steps, four tile sizes, one and two threads)")


def bad_files(folder: Path, good: bytes) -> dict[str, str]:
    """Name and a word of the reason, of twelve kinds of files that are no photo (or not one to be read)."""
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "blue")]
    animation, pages = io.BytesIO(), io.BytesIO()
    frames[0].save(animation, "PNG", save_all=True, append_images=frames[1:])
    frames[0].save(pages, "TIFF", save_all=True, append_images=frames[1:])
    nan = io.BytesIO()
    tifffile.imwrite(nan, np.full((4, 4, 3), np.nan, np.float32), photometric="rgb")
    bomb = bytearray(good)
    at = good.index(b"\xff\xc0") + 5
    bomb[at : at + 4] = b"\xff\xff\xff\xff"
    made = {
        "empty.jpg": (b"", "empty"), "zeros.png": (bytes(1000), "not a picture"), "text.tif": (b"hello", "not a"),
        "short.jpg": (good[: len(good) // 2], "damaged"), "bomb.jpg": (bytes(bomb), "million"),
        "animation.png": (animation.getvalue(), "2 pictures"), "pages.tif": (pages.getvalue(), "2 pictures"),
        "nan.tif": (nan.getvalue(), "NaN"), "drawing.png": (b"<svg/>", "SVG"), "film.webp": (b"GIF89a" * 9, "GIF"),
        "line\nbreak.jpg": (good[:100], "damaged"), "party\N{PARTY POPPER}.jpg": (b"\xff\xd8\xff", "damaged"),
    }  # fmt: skip
    for name, (content, _) in made.items():
        (folder / name).write_bytes(content)
    return {name: word for name, (_, word) in made.items()}


def test_a_folder_with_bad_files_among_good_ones(
    tmp_path: Path, restore: Callable[..., Any], figure: Callable[[str], None]
) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for i in range(6):
        Image.fromarray(np.roll(ramp(40, 50, 3), i, axis=1)).save(source / f"good{i}.jpg")
    bad = bad_files(source, (source / "good0.jpg").read_bytes())
    said = restore(source, target, "--weights", MIX, "--report", str(tmp_path / "report.json"), status=1)
    outcomes = {o["name"]: o for o in json.loads((tmp_path / "report.json").read_text())["photos"]}
    assert {n for n, o in outcomes.items() if o["status"] == "done"} == {f"good{i}.jpg" for i in range(6)}
    for name, word in bad.items():
        assert outcomes[name]["status"] == "failed" and word in outcomes[name]["reason"], outcomes[name]
        assert outcomes[name]["reason"].endswith(".") and outcomes[name]["reason"] in said
    assert {p.name for p in target.iterdir() if not p.name.startswith(".")} == {f"good{i}.jpg" for i in range(6)}
    figure(f"{len(bad)} kinds listed with their reasons, 6 good photos done, exit status 1")


def test_each_row_of_the_table_names_a_test() -> None:
    rows = re.findall(r"^\|.*`(tests/\S+)::(\w+)`", (ROOT / "docs" / "conformance.md").read_text(), re.MULTILINE)
    assert len(rows) >= 10
    for path, name in rows:
        assert f"def {name}(" in (ROOT / path).read_text(), name
