"""What takes minutes: `make soak`."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from album import digests, make_photos
from PIL import Image

from unires.jobs.journal import NAME

pytestmark = pytest.mark.soak

PEAK = """
import re, sys
from pathlib import Path
from unires.doors.cli import main
status = main(sys.argv[1:])
print("peak", int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
sys.exit(status)
"""
needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")


def command(source: Path, target: Path, model: Path, *words: str) -> list[str]:
    plain = ["restore", str(source), "-o", str(target), "--model", str(model), "--device", "cpu"]
    return [*plain, "--weights", "keep=0.5,denoise=0.5", *words]


def peak(words: list[str]) -> int:
    """Of the command line, in MiB. (Not by getrusage: a new process inherits the peak of the one that started it.)"""
    done = subprocess.run([sys.executable, "-c", PEAK, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split("peak ")[1])


def test_killed_at_twenty_moments(tmp_path: Path, tiny_folder: Path, figure: Callable[[str], None]) -> None:
    source = tmp_path / "in"
    make_photos(source, 60, 120, 160)
    originals = digests(source)

    def start(target: Path) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", "unires", *command(source, target, tiny_folder, "--recursive")]
        return subprocess.Popen(words, stdout=subprocess.DEVNULL)

    assert start(tmp_path / "unbroken").wait() == 0
    expected = digests(tmp_path / "unbroken")
    assert len(expected) == 60
    dice, done = random.Random(0), []
    for i in range(20):
        target = tmp_path / f"broken{i}"
        journal, lines = target / NAME, dice.randrange(60)  # one a photo
        job = start(target)
        while job.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") >= lines):
            time.sleep(0.001)
        time.sleep(dice.uniform(0, 0.03))
        job.send_signal(signal.SIGKILL)
        job.wait()
        done.append(sum(not name.split("/")[-1].startswith(".") for name in digests(target)))
        assert start(target).wait() == 0
        assert digests(target) == expected, i
    assert digests(source) == originals
    assert len([n for n in done if 0 < n < 60]) >= 10  # most of them in the middle
    figure(f"20 of 20 end in the same bytes; killed with {min(done)} to {max(done)} of 60 photos done")


@needs_proc
def test_memory_at_12_50_and_100_megapixels(
    tmp_path: Path, tiny_folder: Path, figure: Callable[[str], None]
) -> None:
    peaks = {}
    for million, height, width in ((12, 3000, 4000), (50, 5774, 8660), (100, 8165, 12248)):
        y, x = np.ogrid[0:height, 0:width]
        grey = ((y // 37 + x // 53 + (x * y) % 7) % 256).astype(np.uint8)
        Image.fromarray(np.stack([grey] * 3, axis=-1)).save(tmp_path / f"{million}.jpg", quality=90)
        words = command(tmp_path / f"{million}.jpg", tmp_path / "out.jpg", tiny_folder, "--overwrite")
        peaks[million] = peak(words)
    samples = {m: 2 * 3 * m * 10**6 / 2**20 for m in peaks}  # of the photo and its result
    assert peaks[100] < 2000
    rest = [peaks[m] - samples[m] for m in peaks]
    figure(
        ", ".join(f"{p:,} MiB at {m}" for m, p in peaks.items())
        + f"; beside the 8-bit pixels of the photo and its result {min(rest):,.0f} to {max(rest):,.0f}"
    )


@needs_proc
def test_two_thousand_photos_in_one_run(tmp_path: Path, tiny_folder: Path, figure: Callable[[str], None]) -> None:
    make_photos(tmp_path / "few", 200, 96, 128)
    make_photos(tmp_path / "many", 2000, 96, 128)
    few, many = (
        peak(command(tmp_path / n, tmp_path / f"{n}.out", tiny_folder, "--recursive")) for n in ("few", "many")
    )
    assert len(digests(tmp_path / "many.out")) == 2000
    assert many - few < 30
    figure(f"{many} MiB at most, {many - few:+d} compared with 200 photos")


FUZZ = """
import sys
from pathlib import Path
from unires.jobs import folder
def darker(photo, share):
    return photo.with_pixels(photo.pixels * 0.5)
source, target = Path(sys.argv[1]), Path(sys.argv[2])
report = folder.run(folder.find(source, target, recursive=False), target, darker, {})
assert report.count("done") + report.count("failed") == len(report.outcomes)
assert all(o.reason.endswith(".") and "\\n" not in o.reason for o in report.outcomes if o.status == "failed")
print(len(report.outcomes), report.count("done"))
"""


def test_ten_thousand_fuzzed_files(tmp_path: Path, figure: Callable[[str], None]) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    dice = random.Random(0)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 31, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    seeds = []
    for name in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
        for mode in ("RGB", "L", "RGBA") if name != "JPEG" else ("RGB", "L", "CMYK"):
            out = io.BytesIO()
            picture.convert(mode).save(out, name, exif=exif)
            seeds.append((out.getvalue(), name.lower()))
    for i in range(10_000):
        whole, name = seeds[i % len(seeds)]
        raw = bytearray(whole if dice.random() < 0.8 else whole[: dice.randrange(1, len(whole))])
        for _ in range(dice.randint(1, 8)):
            at = dice.randrange(min(len(raw), 200) if dice.random() < 0.5 else len(raw))
            raw[at] = dice.randrange(256)
        (source / f"{i:05}.{name}").write_bytes(raw)
    originals = digests(source)
    words = [sys.executable, "-c", FUZZ, str(source), str(target)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=3600, check=False, env={**os.environ})
    assert done.returncode == 0, done.stderr[-2000:]
    count, good = map(int, done.stdout.split())
    assert count == 10_000 and digests(source) == originals
    assert {p.name for p in tmp_path.iterdir()} == {"in", "out"}
    assert len(digests(target)) == good
    figure(f"{good:,} restored, {count - good:,} refused in one sentence each; no crash, no other file")
