"""What tests of training share: a folder of photos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, astronaut: Any) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i in range(2):
        Image.fromarray(astronaut[100 * i : 100 * i + 120, 150:310]).save(folder / f"{i}.png")
    return folder
