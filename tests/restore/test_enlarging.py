"""Photos that are enlarged, or were: what they were made from is found, restored first, and kept to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from unires.compose import consistency
from unires.compose import router as routing
from unires.compose.consistency import REDUCING
from unires.compose.grid import Axis, Grid
from unires.compose.router import Router, RouterConfig
from unires.degrade import isolated
from unires.degrade.resample import resize
from unires.denoise.compact_denoiser import CompactDenoiser
from unires.restore import restorer as module
from unires.restore.restorer import Restorer

LEVEL = 1 / 255


@pytest.mark.parametrize("scale", [1, 1.01, 1.5, 2, 3.99, 4])
def test_any_scale(restorer: Restorer, scale: float) -> None:
    x = np.random.default_rng(0).integers(0, 256, (23, 31, 3)).astype(np.uint8)
    out = restorer(x, scale=scale)
    assert out.shape == (int(23 * scale + 0.5), int(31 * scale + 0.5), 3)


@pytest.mark.parametrize("tile", [None, 384])
def test_reduced_again_the_enlarged_photo_is_itself(tiny: CompactDenoiser, photo: Any, tile: int | None) -> None:
    """By one of the kernels; with and without a router, in one piece and in tiles."""
    torch.manual_seed(1)
    plans = ((("super-resolution",),),)
    for router in (None, Router(RouterConfig(isolated.TASKS, plans, 16, 8)).eval().requires_grad_(False)):
        restorer = Restorer(tiny, router=router)
        out = restorer.pixels(photo, weights="super-resolution", scale=2.3, tile=tile)
        assert restorer.report is not None and (restorer.report.tiles > 1) == (tile is not None)
        plain = resize(photo, (589, 589))
        off, kept = (
            torch.stack([(resize(v, (256, 256), kernel) - photo).square().mean().sqrt() for kernel in REDUCING])
            for v in (plain, out)
        )
        assert bool(((kept < 0.3 * off) & (kept < LEVEL)).any())


def test_one_part_says_for_all_by_which_kernel_it_was_reduced(
    tiny: CompactDenoiser, photo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The middle one: parts that choose for themselves would differ in sharpness."""
    said, kept = list[str](), list[str]()
    choose, keep = consistency.reduced_by, consistency.consistent
    monkeypatch.setattr(consistency, "reduced_by", lambda *args: (said.append(choose(*args)), "lanczos")[1])
    spy = lambda x, c, grid: (kept.append(grid.reduced_by), keep(x, c, grid))[1]  # noqa: E731
    monkeypatch.setattr(consistency, "consistent", spy)
    restorer = Restorer(tiny)
    restorer.pixels(photo, weights="super-resolution", scale=2.3, tile=384)
    assert restorer.report is not None and len(said) == 1 and said[0] in REDUCING
    assert kept == ["lanczos"] * restorer.report.tiles
    restorer.pixels(photo, weights="super-resolution", scale=1.2)  # in one piece
    restorer.pixels(photo, weights="denoise", scale=2.3, tile=384)
    assert len(said) == 1 and kept[-1] == ""


def test_what_a_picture_was_enlarged_from_is_found(
    routed: Restorer, photo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a picture of any kind."""
    monkeypatch.setattr(routing, "strength_of", lambda task, severity: 2.3)
    enlarged = resize(resize(photo[..., :240], (110, 103)), (256, 240)).clamp(0, 1)
    for picture in (enlarged, (enlarged[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)):
        routed(picture)
        assert routed.report is not None and routed.report.reading is not None
        assert routed.report.reading.grid == Grid(Axis(110, 256), Axis(103, 240))


@pytest.mark.parametrize("large", [False, True])
def test_it_is_restored_at_its_own_size_first(
    routed: Restorer, photo: Any, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the router; what was chosen by hand runs on the enlarged photo alone. Large ones lie in a file between."""
    monkeypatch.setattr(module, "TILE", 64 if large else 1024)
    seen: list[float] = []
    out = routed.pixels(photo, scale=1.5, progress=seen.append)
    report = routed.report
    assert report is not None and report.before is not None and report.before.scale == 1 and report.scale == 1.5
    assert seen == sorted(seen) and seen[-1] == 1.0 and seen[0] < 0.3
    small = routed.pixels(photo)
    assert routed.report is not None and str(routed.report.weights) == str(report.before.weights)
    enlarged = resize(small, (384, 384)).clamp(0, 1)
    torch.testing.assert_close(out, routed.pixels(enlarged, weights=report.weights), atol=2e-2, rtol=0)
    for options in ({"weights": "denoise"}, {"steps": 1}):
        routed.pixels(photo, scale=1.5, **options)
        assert routed.report is not None and routed.report.before is None
    assert str(routed.read(photo, 1.5).weights) == str(report.weights)


def test_enlarging_without_a_network_is_bicubic(restorer: Restorer, astronaut: Any) -> None:
    from PIL import Image

    small = Image.fromarray(astronaut[100:140, 100:150])
    ours = np.asarray(restorer(small, weights="keep", scale=2)).astype(float)
    pillow = np.asarray(small.resize((100, 80), Image.Resampling.BICUBIC)).astype(float)
    assert np.abs(ours - pillow).max() <= 1
