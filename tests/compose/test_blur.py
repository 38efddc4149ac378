"""Reading a blur's size and direction from a photo's spectrum."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from unires.compose.blur import CERTAIN, CLEAR, Fit
from unires.compose.spectrum import FINE, light
from unires.degrade.isolated import severity_of, strength_of
from unires.degrade.recipe import Recipe


def plane(photo: Any, recipe: str) -> torch.Tensor:
    mean: torch.Tensor = light(Recipe.parse(recipe)(photo, seed=0))[0].mean(dim=(0, 1))
    assert mean.shape == (FINE, FINE // 2 + 1)
    return mean


def near(task: str, size: float) -> float:
    return float(severity_of(task, torch.tensor(size)))


@pytest.mark.parametrize("start", [0.85, 1.2])
@pytest.mark.parametrize(("length", "degrees"), [(7, 20), (12, 110), (16, 0), (25, 60)])
def test_motion(photo: Any, length: float, degrees: float, start: float) -> None:
    fit = Fit(plane(photo, f"motion(length={length}, angle={degrees}) + noise(sigma=1)"), clean=True)
    hint, evidence = fit.hint("motion-deblur", near("motion-deblur", length * start))
    assert strength_of("motion-deblur", hint.severity) == pytest.approx(length, rel=0.06)
    assert hint.angle is not None and evidence > 4 * CERTAIN
    off = (hint.angle - math.radians(degrees) + math.pi / 2) % math.pi - math.pi / 2
    assert abs(off) < 0.04


@pytest.mark.parametrize("start", [0.85, 1.2])
@pytest.mark.parametrize("radius", [2, 3, 4])
def test_defocus(photo: Any, radius: float, start: float) -> None:
    fit = Fit(plane(photo, f"defocus(radius={radius}) + noise(sigma=1)"), clean=True)
    hint, evidence = fit.hint("defocus-deblur", near("defocus-deblur", radius * start))
    assert strength_of("defocus-deblur", hint.severity) == pytest.approx(radius, rel=0.06)
    assert hint.angle is None and evidence > CERTAIN


@pytest.mark.parametrize("cover", ["noise(sigma=12)", "jpeg(quality=40)"])
def test_under_noise_or_jpeg_the_direction_is_still_seen(photo: Any, cover: str) -> None:
    """And the size, where the evidence is clear; else it is believed as it was read."""
    fit = Fit(plane(photo, f"motion(length=12, angle=60) + {cover}"), clean=False)
    hint, evidence = fit.hint("motion-deblur", near("motion-deblur", 14.5))
    assert hint.angle == pytest.approx(math.radians(60), abs=0.09) and evidence > CERTAIN
    size = strength_of("motion-deblur", hint.severity)
    assert size == pytest.approx(12 if evidence > CLEAR else 14.5, rel=0.15 if evidence > CLEAR else 1e-3)


def test_clear_evidence_tells_a_size_under_noise(photo: Any) -> None:
    fit = Fit(plane(photo, "defocus(radius=3) + noise(sigma=6)"), clean=False)
    hint, evidence = fit.hint("defocus-deblur", near("defocus-deblur", 3.5))
    assert evidence > CLEAR and strength_of("defocus-deblur", hint.severity) == pytest.approx(3, rel=0.08)


def test_a_sharp_photo_has_no_direction(photo: Any) -> None:
    hint, evidence = Fit(light(photo)[0].mean(dim=(0, 1)), clean=True).hint("motion-deblur", 0.6)
    assert hint.angle is None and evidence < CERTAIN


@pytest.mark.parametrize("clean", [True, False])
def test_a_flat_picture_has_no_blur(clean: bool) -> None:
    flat = light(torch.full((1, 3, 100, 80), 0.5))[0].mean(dim=(0, 1))
    for task in ("motion-deblur", "defocus-deblur"):
        hint, evidence = Fit(flat, clean).hint(task, 0.5)
        assert hint.angle is None and hint.severity == pytest.approx(0.5) and evidence <= 0
