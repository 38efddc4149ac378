"""A photo to work on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image


@pytest.fixture
def photo(tmp_path: Path, astronaut: Any) -> Path:
    path = tmp_path / "holiday.png"
    Image.fromarray(astronaut[:40, :60]).save(path)
    return path
