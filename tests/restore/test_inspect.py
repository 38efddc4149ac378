"""What a reading says: the right words in the right order, numbers for programs, colours where it is."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from unires.compose.grid import Axis, Grid
from unires.compose.router import Reading
from unires.compose.weights import Weights
from unires.degrade.isolated import TASKS, severity_of
from unires.denoise.compact import TASKS as EXPERTS
from unires.restore.inspect import COLOURS, as_dict, describe, draw_map, plot_weights


@pytest.fixture
def reading() -> Reading:
    """Noise of sigma 25 everywhere, JPEG of quality 30 in the left half, and no more."""
    severity = torch.zeros(5)
    severity[3] = severity_of("denoise", torch.tensor(25.0))
    severity[4] = severity_of("dejpeg", torch.tensor(71.0))
    where = torch.zeros(5, 4, 6)
    where[3] = 0.9
    where[4, :, :3] = 0.95
    return Reading(
        TASKS, torch.tensor([0.1, 0.0, 0.2, 0.97, 0.8]), severity, torch.tensor([-50.0, -50, -50, -20, -30]), where,
        Weights.parse("denoise=1.4,dejpeg=-0.4; keep@relay", EXPERTS),
    )  # fmt: skip


def test_words(reading: Reading) -> None:
    assert describe(reading) == [
        "Noise, sigma about 25 of 255, everywhere (97% sure).",
        "JPEG compression, quality about 30, in 50% of the photo (80% sure).",
        "Weights: denoise=1.4,dejpeg=-0.4; keep@relay=1.",
    ]


def test_a_clean_photo_is_called_that(reading: Reading) -> None:
    clean = Reading(**{**vars(reading), "present": torch.zeros(5)})
    assert describe(clean)[0] == "Nothing wrong was found." and clean.told == {}


def test_for_programs(reading: Reading) -> None:
    data = json.loads(json.dumps(as_dict(reading)))
    assert [row["task"] for row in data["degradations"]][:2] == ["denoise", "dejpeg"]
    assert [row["there"] for row in data["degradations"]] == [True, True, False, False, False]
    assert data["degradations"][0]["strength"] == pytest.approx(25, rel=0.01)
    assert np.array(data["values"]).sum(axis=1) == pytest.approx(1)


def test_what_it_was_enlarged_from(reading: Reading) -> None:
    assert as_dict(reading)["enlarged_from"] is None
    present = torch.tensor([0.99, 0.0, 0.0, 0.0, 0.0])
    known = Reading(**{**vars(reading), "present": present, "grid": Grid(Axis(200, 400), Axis(300, 600))})
    assert describe(known)[0] == "Too few pixels, enlarged from 300 x 200, in 0% of the photo (99% sure)."
    assert as_dict(known)["enlarged_from"] == [300, 200]


def test_the_map_shows_where(reading: Reading) -> None:
    grey = np.full((64, 96, 3), 0.5, np.float32)
    drawn = draw_map(reading, grey).astype(int)
    assert drawn.shape == (64, 96, 3) and drawn.dtype == int

    def nearest(pixel: np.ndarray) -> str:
        tint = pixel - pixel.mean()
        tints = {t: 0.5 * (np.array(c) - np.mean(c)) for t, c in COLOURS.items()}
        return min(tints, key=lambda t: float(np.abs(tint - tints[t]).sum()))

    assert nearest(drawn[32, 10]) == "dejpeg" and nearest(drawn[32, 90]) == "denoise"


def test_the_plot_is_a_picture(reading: Reading) -> None:
    pytest.importorskip("matplotlib")
    with Image.open(io.BytesIO(plot_weights(reading))) as image:
        assert image.format == "PNG" and min(image.size) > 100
