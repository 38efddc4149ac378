"""Tiles: full cover, one shape, weights of exactly one, results that do not depend on the cutting."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from unires.errors import OptionError
from unires.photo.tiles import Blender, TilePlan, Window, blend_ramp, cut, plan_tiles, run_tiles

quick = settings(max_examples=50, deadline=None)


@st.composite
def plans(draw: st.DrawFn) -> tuple[TilePlan, int, int, int, int]:
    multiple = draw(st.sampled_from([1, 2, 4, 8]))
    margin = draw(st.integers(0, 6))
    overlap = 2 * margin + draw(st.integers(0, 12))
    tile = draw(st.integers(overlap + 2 * multiple, overlap + 40))
    height, width = draw(st.integers(1, 150)), draw(st.integers(1, 150))
    ramp: Any = draw(st.sampled_from(["cosine", "linear"]))
    plan = plan_tiles(height, width, tile, overlap, margin=margin, multiple=multiple, ramp=ramp)
    return plan, tile, overlap, margin, multiple


@given(plans())
@quick
def test_windows_cover_alike_and_weights_are_exactly_one(case: tuple[TilePlan, int, int, int, int]) -> None:
    plan, tile, overlap, margin, multiple = case
    assert len(list(plan)) == len(plan) and plan[-1] == list(plan)[-1] and plan[:1] == [plan[0]]
    assert len({window[2:] for window in plan}) == 1
    total = np.zeros((plan.height, plan.width), dtype=np.float32)
    for window in plan:
        assert window.top % multiple == window.left % multiple == 0
        assert window.height % multiple == window.width % multiple == 0
        assert window.height <= tile and window.width <= tile
        assert window.top + window.height < plan.height + multiple
        rows, columns = plan.weights(window)
        assert min(rows) >= 0 and min(columns) >= 0
        if margin and window.top > 0:
            assert not any(rows[:margin])
        if margin and window.left + window.width < plan.width:
            assert not any(columns[-margin:])
        weight = np.outer(np.float32(rows), np.float32(columns)).astype(np.float32)
        height, width = (
            min(window.height, plan.height - window.top),
            min(window.width, plan.width - window.left),
        )
        total[window.top : window.top + height, window.left : window.left + width] += weight[:height, :width]
    assert (total == 1).all()
    for axis in (plan.rows, plan.columns):
        for a, b in zip(axis.starts, axis.starts[1:], strict=False):
            assert a < b <= a + axis.tile - overlap
        assert axis.starts[-1] + axis.tile >= axis.length


@given(plans(), st.integers(0, 5))
@quick
def test_doing_nothing_changes_nothing(case: tuple[TilePlan, int, int, int, int], seed: int) -> None:
    plan = case[0]
    picture = np.random.default_rng(seed).random((2, plan.height, plan.width)).astype(np.float32)
    assert np.abs(run_tiles(lambda tile: tile, picture, plan) - picture).max() < 1e-6
    flat = np.full((1, plan.height, plan.width), 0.3, dtype=np.float32)
    assert np.abs(run_tiles(lambda tile: tile, flat, plan) - flat).max() < 1e-7


@given(plans())
@quick
def test_numpy_and_torch_agree(case: tuple[TilePlan, int, int, int, int]) -> None:
    plan = case[0]
    picture = np.random.default_rng(1).random((1, 3, plan.height, plan.width)).astype(np.float32)
    one = run_tiles(lambda tile: tile * 2 - 1, picture, plan)
    two = run_tiles(lambda tile: tile * 2 - 1, torch.from_numpy(picture), plan)
    assert isinstance(one, np.ndarray) and isinstance(two, torch.Tensor)
    assert np.abs(one - two.numpy()).max() < 1e-6


@given(plans(), st.integers(1, 3))
@quick
def test_a_filter_gives_the_same_with_and_without_tiles(case: tuple[TilePlan, int, int, int, int], reach: int) -> None:
    plan, _, _, margin, multiple = case
    assume(margin >= reach)
    # A network with borders: zeros beyond its input, as convolutions have, so wrong values at tile edges.
    kernel = torch.rand(1, 1, 2 * reach + 1, 2 * reach + 1, generator=torch.Generator().manual_seed(0))
    picture = torch.rand(1, 1, plan.height, plan.width, generator=torch.Generator().manual_seed(1))
    whole = torch.nn.functional.conv2d(picture, kernel, padding=reach)
    tiled = run_tiles(lambda tile: torch.nn.functional.conv2d(tile, kernel, padding=reach), picture, plan)
    # Within `reach` of a mirrored edge the two see different continuations; with multiple 1 there is none.
    end = reach if multiple > 1 else 0
    inner = (..., slice(0, plan.height - end), slice(0, plan.width - end))
    if plan.height > end and plan.width > end:
        assert (whole[inner] - tiled[inner]).abs().max() < 1e-5


def test_the_phase_of_a_reducing_network_is_kept() -> None:
    # A network that works on blocks of 4 x 4 (mean of each block): tiles must not shift the blocks.
    def blocks(tile: torch.Tensor) -> torch.Tensor:
        small = torch.nn.functional.avg_pool2d(tile, 4)
        return small.repeat_interleave(4, -2).repeat_interleave(4, -1)

    picture = torch.rand(1, 1, 90, 70)
    padded = torch.nn.functional.pad(picture, (0, 2, 0, 2), mode="reflect")
    plan = plan_tiles(90, 70, 32, 12, margin=4, multiple=4)
    assert len(plan) > 4
    assert (run_tiles(blocks, picture, plan) - blocks(padded)[..., :90, :70]).abs().max() < 1e-6


def test_a_margin_is_never_looked_at() -> None:
    def poisoned(tile: Any) -> Any:
        out = tile.copy()
        if len(plan) > 1:
            seen.append(1)
            out[..., :3, :] = np.where(top[0] > 0, np.nan, out[..., :3, :])
        return out

    plan = plan_tiles(64, 20, 24, 10, margin=3)
    picture = np.random.default_rng(0).random((1, 64, 20)).astype(np.float32)
    seen: list[int] = []
    top = [0]
    blender = Blender(plan)
    for window in plan:
        top[0] = window.top
        blender.add(window, poisoned(cut(picture, window)))
    assert seen and np.abs(blender.picture() - picture).max() < 1e-6


@pytest.mark.parametrize("scale", [1, 2, 3])
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16, np.uint8])
def test_scaled_results_of_any_number_type(scale: int, kind: Any) -> None:
    picture = (np.random.default_rng(0).random((3, 50, 61)) * 200).astype(kind)
    plan = plan_tiles(50, 61, 24, 8, multiple=2)
    out = run_tiles(lambda t: t.repeat(scale, -1).repeat(scale, -2), picture, plan, scale=scale)
    assert out.dtype == (np.float64 if kind == np.float64 else np.float32)
    assert np.abs(out - picture.repeat(scale, -1).repeat(scale, -2)).max() < 1e-4


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_halves_are_blended_in_float32(kind: torch.dtype) -> None:
    picture = torch.full((1, 40, 40), 0.3, dtype=kind)
    out = run_tiles(lambda t: t, picture, plan_tiles(40, 40, 16, 8))
    assert out.dtype == (torch.float64 if kind == torch.float64 else torch.float32)
    assert (out - picture.to(out.dtype)).abs().max() < 1e-6


def test_channels_may_change_and_progress_is_told() -> None:
    plan = plan_tiles(50, 40, 16, 4)
    told: list[tuple[int, int]] = []
    out = run_tiles(
        lambda t: t[:1], np.ones((3, 50, 40)), plan, progress=lambda done, total: told.append((done, total))
    )
    assert out.shape == (1, 50, 40)
    assert told == [(i + 1, len(plan)) for i in range(len(plan))]


def test_one_window_where_the_picture_is_small() -> None:
    plan = plan_tiles(10, 300, 64, 16, multiple=8)
    assert {w.height for w in plan} == {16} and {w.width for w in plan} == {64}
    assert plan_tiles(10, 13, 64, 16)[0] == Window(0, 0, 10, 13) and len(plan_tiles(10, 13, 64, 16)) == 1


def test_cut_mirrors_beyond_the_edge() -> None:
    picture = np.arange(10).reshape(1, 2, 5)
    part = cut(picture, Window(0, 0, 4, 8))
    assert part.shape == (1, 4, 8)
    assert np.array_equal(part[0], np.pad(picture[0], ((0, 2), (0, 3)), mode="reflect"))
    assert cut(picture, Window(0, 0, 2, 5)).base is not None  # a view costs no memory
    assert cut(np.ones((1, 1)), Window(0, 0, 8, 8)).tolist() == np.ones((8, 8)).tolist()


def test_memory_beyond_the_result_is_that_of_tiles() -> None:
    picture = np.zeros((3, 1024, 1024), dtype=np.float32)
    plan = plan_tiles(1024, 1024, 128, 32)
    tracemalloc.start()
    run_tiles(lambda t: t, picture, plan)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < picture.nbytes + 40 * 3 * 128 * 128 * 4


@given(st.integers(0, 300), st.sampled_from(["cosine", "linear"]))
@quick
def test_ramps_climb_and_mirror(length: int, kind: Any) -> None:
    ramp = blend_ramp(length, kind)
    assert len(ramp) == length and ramp == sorted(ramp)
    assert [a + b for a, b in zip(ramp, reversed(ramp), strict=True)] == [1.0] * length
    assert all(0 <= v <= 1 and (v * 4096).is_integer() for v in ramp)


@pytest.mark.parametrize(
    "arguments, options",
    [
        ((0, 5, 64, 8), {}),
        ((5, 5, 0, 0), {}),
        ((5, 5, 8, 8), {}),
        ((5, 5, 16, 8), {"margin": 5}),
        ((5, 5, 7, 0), {"multiple": 8}),
        ((5, 5, 16, -1), {}),
        ((5, 5, 16, 2), {"ramp": "wavy"}),
    ],
)
def test_sizes_that_make_no_sense(arguments: tuple[int, int, int, int], options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        plan_tiles(*arguments, **options)


def test_wrong_shapes_are_refused() -> None:
    plan = plan_tiles(20, 20, 16, 4)
    with pytest.raises(ValueError, match="came back"):
        run_tiles(lambda t: t[..., 1:], np.ones((1, 20, 20)), plan)
    with pytest.raises(ValueError, match="the plan is for"):
        run_tiles(lambda t: t, np.ones((1, 20, 21)), plan)
    with pytest.raises(ValueError, match="no tile"):
        Blender(plan).picture()
    with pytest.raises(OptionError):
        Blender(plan, 0)
    with pytest.raises(IndexError):
        plan[len(plan)]
