"""What JPEG has rounded a photo to: found in its pixels, and kept to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unires.compose.cells import Cells, find, within
from unires.compose.experts import Expert
from unires.compose.grid import Axis, Grid
from unires.compose.origin import Origin
from unires.degrade.jpeg import encode_decode
from unires.degrade.operators import round8
from unires.degrade.recipe import Recipe
from unires.denoise.compact import TASKS


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * (a - b).square().mean().log10())


@pytest.fixture
def rich(photo: Any) -> torch.Tensor:
    """With enough detail and colour for every quality, 240 x 256: blocks of colours are 16 pixels wide."""
    made = torch.Generator().manual_seed(3)
    waves = torch.nn.functional.interpolate(torch.rand(1, 3, 60, 64, generator=made), scale_factor=4, mode="bicubic")
    out: torch.Tensor = round8((0.25 + 0.5 * waves).clamp(0.1, 0.9))
    return out


@pytest.mark.parametrize("quality", [5, 10, 33, 50, 75, 90, 97])
@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
def test_the_very_quality_is_found(rich: torch.Tensor, quality: int, subsampling: str) -> None:
    cells = find(encode_decode(rich, [quality], [subsampling]))
    assert cells is not None and cells.quality == quality
    assert cells.enlarged in ({"4:2:0": 2, "4:4:4": 1}[subsampling], 0)
    assert cells.enlarged or quality < 33 or quality > 90  # few steps of colour, or smaller than rounding shows


@pytest.mark.parametrize(
    "after", ["", "noise(sigma=3)", "defocus(radius=1)", "resize(scale=1.5)", "jpeg(quality=40) + noise(sigma=8)"]
)
def test_nothing_is_found_where_nothing_lies_on_a_grid(rich: torch.Tensor, after: str) -> None:
    assert find(round8(Recipe.parse(after)(rich, 1)) if after else rich) is None
    assert find(torch.full((1, 3, 64, 64), 0.5)) is None and find(torch.rand(1, 3, 12, 5)) is None


def test_blocks_that_begin_elsewhere_are_not_found(rich: torch.Tensor) -> None:
    assert find(encode_decode(rich, [40], ["4:2:0"])[..., 3:, 5:]) is None


@pytest.mark.parametrize("quality", [10, 40, 80])
@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
def test_an_estimate_elsewhere_is_moved_towards_the_truth(rich: torch.Tensor, quality: int, subsampling: str) -> None:
    lq = encode_decode(rich, [quality], [subsampling])
    cells = find(lq)
    assert cells is not None
    estimate = rich + 0.5 * torch.randn(rich.shape, generator=torch.Generator().manual_seed(1))
    kept = (within(estimate * 2 - 1, lq * 2 - 1, cells) + 1) / 2
    assert psnr(kept, rich) > psnr(estimate, rich) + 0.7
    again = (within(kept * 2 - 1, lq * 2 - 1, cells) + 1) / 2
    torch.testing.assert_close(again, kept, atol=1e-4, rtol=0)


def test_what_lies_within_stays(rich: torch.Tensor) -> None:
    lq = encode_decode(rich, [30], ["4:4:4"])
    cells = find(lq)
    assert cells is not None
    torch.testing.assert_close(within(lq * 2 - 1, lq * 2 - 1, cells), lq * 2 - 1, atol=2e-3, rtol=0)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 90), st.integers(0, 90), st.integers(40, 150), st.integers(40, 150))
def test_a_part_agrees_with_the_whole(top: int, left: int, height: int, width: int) -> None:
    """Wherever it begins; but for blocks that its border cuts, which stay as they are."""
    made = torch.Generator().manual_seed(5)
    x = torch.nn.functional.interpolate(torch.rand(1, 3, 60, 64, generator=made), scale_factor=4, mode="bicubic")
    lq = encode_decode(round8(x.clamp(0.1, 0.9)), [35], ["4:2:0"]) * 2 - 1
    estimate = lq + 0.2 * torch.randn(lq.shape, generator=made)
    axes = Axis(120, 240), Axis(128, 256)
    cells = Cells(35, 2, *axes)
    part = (..., slice(top, top + height), slice(left, left + width))
    whole, own = within(estimate, lq, cells)[part], within(estimate[part], lq[part], cells.at(top, left))
    inner = (..., slice(32, height - 32), slice(32, width - 32))
    torch.testing.assert_close(own[inner], whole[inner], atol=3e-3, rtol=0)


@pytest.mark.parametrize("size", [(239, 255), (41, 33), (17, 16), (9, 7), (3, 200)])
def test_any_size(size: tuple[int, int], rich: torch.Tensor) -> None:
    x = rich[..., : size[0], : size[1]]
    lq = encode_decode(x, [40], ["4:2:0"])
    find(lq)
    cells = Cells(40, 2, *(Axis((side + 1) // 2, (side + 1) // 2 * 2) for side in lq.shape[-2:]))
    kept = within(lq * 2 - 1 + 0.1, lq * 2 - 1, cells)
    assert kept.shape == lq.shape and bool(kept.isfinite().all())
    if min(size) > 100:
        assert float((kept - lq * 2 + 1).abs().mean()) < 0.05  # what is far off is seen at the border as well


def test_only_who_undoes_jpeg_is_kept_to_it(rich: torch.Tensor) -> None:
    lq = encode_decode(rich, [20], ["4:2:0"]) * 2 - 1
    cells = find((lq + 1) / 2)
    assert cells is not None
    estimate = lq + 0.3
    for name, kept in (("dejpeg", True), ("dejpeg@relay", False), ("dejpeg@down2", False), ("denoise", False)):
        same = torch.equal(Origin(cells=cells).keep(Expert.parse(name, TASKS), estimate, lq), estimate)
        assert same != kept, name
    assert torch.equal(Origin().keep(Expert.parse("dejpeg", TASKS), estimate, lq), estimate)
    both = Origin(Grid(Axis(120, 240), Axis(128, 256)), cells).at(4, 6, 240, 256)
    assert (both.grid, both.cells) == (Grid(Axis(120, 240, 4), Axis(128, 256, 6)), cells.at(4, 6))
