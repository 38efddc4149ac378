"""Files that once broke a promise (found by fuzz.py), and the fuzzer's own seeds."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

fuzz = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("fuzz.py"))))


@pytest.mark.parametrize("path", sorted(fuzz.FINDS.glob("*-*")), ids=lambda p: p.name[:20])
def test_finds_stay_mended(tmp_path: Path, path: Path) -> None:
    fuzz.check(path.read_bytes(), tmp_path)


def test_the_seeds_are_photos(tmp_path: Path) -> None:
    read = 0
    for data in fuzz.seeds():
        fuzz.check(data, tmp_path)
        read += (tmp_path / "out.png").exists()
        (tmp_path / "out.png").unlink(missing_ok=True)
    assert read >= 18
