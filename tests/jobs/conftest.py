from __future__ import annotations

from pathlib import Path

import pytest
from album import ENCODE, make_photos

from unires.jobs.settings import Settings


@pytest.fixture
def settings(tiny_folder: Path) -> Settings:
    options = {"weights": "denoise", "steps": None, "fidelity": None, "scale": 1, "seed": 0}
    return Settings(str(tiny_folder), "cpu", 1, options, ENCODE)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    make_photos(tmp_path / "in", 7)
    return tmp_path / "in"
