"""Tiles: full cover, one shape, weights of exactly one, results that do not depend on the cutting."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from unires.errors import OptionError
from unires.photo.tiles import Blender, TilePlan, Window, blend_ramp, cut, plan_tiles

quick = settings(max_examples=50, deadline=None)


def run_tiles(f: Callable[[Any], Any], picture: Any, plan: TilePlan) -> Any:
    """`f` over every window, blended into one picture."""
    parts: list[tuple[Window, Any]] = []
    blender = Blender(plan, lambda window, part: parts.append((window, part + 0)))
    for window in plan:
        blender.add(window, f(cut(picture, window)))
    shape = (*parts[0][1].shape[:-2], plan.height, plan.width)
    kind = parts[0][1]
    out = kind.new_full(shape, float("nan")) if isinstance(kind, torch.Tensor) else np.full(shape, np.nan, kind.dtype)
    for window, part in parts:
        assert part.shape[-2:] == window[2:]
        cut(out, window)[...] = part
    return out


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
    assert len(list(plan)) == len(plan)
    assert len({window[2:] for window in plan}) == 1
    total = np.zeros((plan.height, plan.width), dtype=np.float32)
    for window in plan:
        assert window.top % multiple == window.left % multiple == 0
        assert window.height % multiple == window.width % multiple == 0
        assert window.height <= tile and window.width <= tile
        assert window.top + window.height < plan.height + multiple
        rows = plan.rows.weights[plan.rows.starts.index(window.top)]
        columns = plan.columns.weights[plan.columns.starts.index(window.left)]
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


@pytest.mark.parametrize(("height", "width"), [(64, 20), (20, 64)])
def test_a_margin_is_never_looked_at(height: int, width: int) -> None:
    plan = plan_tiles(height, width, 24, 10, margin=3)
    picture = np.random.default_rng(0).random((1, height, width)).astype(np.float32)
    out = np.zeros_like(picture)

    def put(window: Window, part: Any) -> None:
        cut(out, window)[...] = part

    blender = Blender(plan, put)
    for window in plan:
        tile = cut(picture, window).copy()
        if window.top > 0:
            tile[..., :3, :] = np.nan
        if window.left > 0:
            tile[..., :3] = np.nan
        blender.add(window, tile)
    assert len(plan) > 2 and np.abs(out - picture).max() < 1e-6


@given(plans())
@quick
def test_a_picture_may_be_replaced_in_place(case: tuple[TilePlan, int, int, int, int]) -> None:
    """What is handed on is read by no later tile; and all of it is handed on, once."""
    plan = case[0]
    picture = np.random.default_rng(2).random((1, plan.height, plan.width)).astype(np.float32)
    place, times = picture.copy(), np.zeros(picture.shape)

    def put(window: Window, part: Any) -> None:
        cut(place, window)[...] = -part
        cut(times, window)[...] += 1

    blender = Blender(plan, put)
    for window in plan:
        blender.add(window, cut(place, window))
    assert (times == 1).all() and np.abs(place + picture).max() < 1e-6


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16, np.uint8])
def test_results_of_any_number_type(kind: Any) -> None:
    picture = (np.random.default_rng(0).random((3, 50, 61)) * 200).astype(kind)
    out = run_tiles(lambda t: t, picture, plan_tiles(50, 61, 24, 8, multiple=2))
    assert out.dtype == (np.float64 if kind == np.float64 else np.float32)
    assert np.abs(out - picture).max() < 1e-4


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_halves_are_blended_in_float32(kind: torch.dtype) -> None:
    picture = torch.full((1, 40, 40), 0.3, dtype=kind)
    out = run_tiles(lambda t: t, picture, plan_tiles(40, 40, 16, 8))
    assert out.dtype == (torch.float64 if kind == torch.float64 else torch.float32)
    assert (out - picture.to(out.dtype)).abs().max() < 1e-6


def test_channels_may_change() -> None:
    assert run_tiles(lambda t: t[:1], np.ones((3, 50, 40)), plan_tiles(50, 40, 16, 4)).shape == (1, 50, 40)


def test_one_window_where_the_picture_is_small() -> None:
    plan = plan_tiles(10, 300, 64, 16, multiple=8)
    assert {w.height for w in plan} == {16} and {w.width for w in plan} == {64}
    assert list(plan_tiles(10, 13, 64, 16)) == [Window(0, 0, 10, 13)]


def test_cut_mirrors_beyond_the_edge() -> None:
    picture = np.arange(10).reshape(1, 2, 5)
    part = cut(picture, Window(0, 0, 4, 8))
    assert part.shape == (1, 4, 8)
    assert np.array_equal(part[0], np.pad(picture[0], ((0, 2), (0, 3)), mode="reflect"))
    assert cut(picture, Window(0, 0, 2, 5)).base is not None  # a view costs no memory
    assert cut(np.ones((1, 1)), Window(0, 0, 8, 8)).tolist() == np.ones((8, 8)).tolist()


@pytest.mark.parametrize(("height", "width"), [(2048, 512), (512, 2048), (512, 8192)])
def test_memory_is_that_of_one_strip(height: int, width: int) -> None:
    picture = np.zeros((3, height, width), dtype=np.float32)
    plan = plan_tiles(height, width, 128, 32)
    tracemalloc.start()
    blender = Blender(plan, lambda window, part: None)
    for window in plan:
        blender.add(window, cut(picture, window))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * (3 * 128 * 512 * 4)


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


def test_wrong_shapes_and_orders_are_refused() -> None:
    plan = plan_tiles(20, 20, 16, 4)
    with pytest.raises(ValueError, match="came back"):
        run_tiles(lambda t: t[..., 1:], np.ones((1, 20, 20)), plan)
    blender = Blender(plan, lambda window, part: None)
    with pytest.raises(ValueError, match="order"):
        blender.add(list(plan)[1], np.ones((1, 16, 16)))
