"""`unires dial`: the page's pictures, and the photo at a place between its two ends."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import unires
from unires.doors import dial
from unires.doors.cli import main


@pytest.fixture
def photo(tmp_path: Path, astronaut: Any) -> Path:
    path = tmp_path / "old <1>.jpg"
    exif = Image.Exif()
    exif[0x010E] = "a cat"
    Image.fromarray(astronaut[:40, :60]).save(path, quality=95, exif=exif)
    return path


def pictures(page: Path) -> list[np.ndarray[Any, Any]]:
    codes = re.findall(r'src="data:image/png;base64,([^"]+)"', page.read_text())
    return [np.array(Image.open(io.BytesIO(base64.b64decode(code)))) for code in codes]


def test_the_page_has_both_ends_and_the_photo(
    photo: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["dial", str(photo), "--model", str(tiny_folder), "--device", "cpu"]
    before = photo.read_bytes()
    assert main(words) == 0
    page = photo.with_name("old <1>.dial.html")
    faithful, crisp, was = pictures(page)
    original = np.array(Image.open(photo))
    assert np.array_equal(was, original)
    for made, aim in ((faithful, 1.0), (crisp, 0.0)):
        alone = unires.restore(original, fidelity=aim, model=tiny_folder, device="cpu")
        assert np.abs(made.astype(int) - alone).max() <= 1
    assert not np.array_equal(faithful, crisp)
    assert f"--model {tiny_folder} --at" in page.read_text()  # what is to be typed gives what was shown
    assert "old &lt;1&gt;.jpg" in page.read_text() and "old <1>.jpg" not in page.read_text()
    assert main(words) == 1 and "exists already" in capsys.readouterr().err
    assert photo.read_bytes() == before


def test_what_was_chosen_is_written_with_all_that_the_file_had(photo: Path, tiny_folder: Path) -> None:
    out, page = photo.with_name("out.png"), photo.with_name("page.html")
    options = ["--model", str(tiny_folder), "--device", "cpu"]
    Image.open(photo).save(photo.with_suffix(".png"), exif=Image.open(photo).getexif())
    png = str(photo.with_suffix(".png"))
    assert main(["dial", png, "--at", "0.25", "-o", str(out), *options]) == 0
    assert main(["dial", png, "-o", str(page), *options]) == 0
    faithful, crisp, _ = pictures(page)
    blended = 0.25 * faithful.astype(float) + 0.75 * crisp
    assert np.abs(np.array(Image.open(out)) - blended).max() <= 1
    assert Image.open(out).getexif()[0x010E] == "a cat"


def test_a_large_photo_is_shown_by_its_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "MOST_PIXELS", 600)
    part = dial._middle(np.arange(40 * 60).reshape(40, 60, 1))
    assert part.shape == (20, 30, 1) and part[0, 0, 0] == 10 * 60 + 15


@pytest.mark.parametrize("at", ["1.5", "nan", "x"])
def test_refusals(photo: Path, at: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dial", str(photo), "--at", at]) == 2
    assert at in capsys.readouterr().err
    before = photo.read_bytes()
    for more in ([], ["--at", "0.5"]):
        assert main(["dial", str(photo), "-o", str(photo), "--overwrite", *more]) == 2
        assert "never written over" in capsys.readouterr().err
    assert photo.read_bytes() == before
