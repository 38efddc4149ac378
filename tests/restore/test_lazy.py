"""Pictures that are never whole are the same in whatever parts they are cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unires.compose.conditions import Conditions
from unires.degrade import resample
from unires.errors import UniresError
from unires.photo.tiles import Window, cut
from unires.restore import lazy
from unires.restore.lazy import Noise, Resized, Scratch, WindowConditions

quick = settings(max_examples=40, deadline=None)


@st.composite
def windows(draw: st.DrawFn, height: int, width: int) -> Window:
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    return Window(top, left, draw(st.integers(1, height - top)), draw(st.integers(1, width - left)))


@given(st.data(), st.integers(1, 90), st.integers(1, 90), st.sampled_from(resample.KERNELS))
@quick
def test_a_part_of_what_is_resized(data: st.DataObject, height: int, width: int, kernel: str) -> None:
    x = torch.rand(1, 3, 37, 53, generator=torch.Generator().manual_seed(0))
    window = data.draw(windows(height, width))
    whole = resample.resize(x, (height, width), kernel)
    assert (cut(Resized(x, (height, width), kernel, clip=False), window) - cut(whole, window)).abs().max() < 1e-5
    assert (cut(Resized(x, (height, width), kernel), window) - cut(whole, window).clamp(0, 1)).abs().max() < 1e-5


def test_large_pictures_are_resized_in_blocks() -> None:
    x = torch.rand(1, 1, 700, 30, generator=torch.Generator().manual_seed(0))
    for size in ((1400, 60), (600, 11)):
        for kernel in resample.KERNELS:
            whole = resample.resize(x, size, kernel)
            at_once = resample.part(x, size, kernel, slice(0, size[0]), slice(0, size[1]))
            assert (whole - at_once).abs().max() < 1e-5


@given(st.data(), st.integers(-(2**63), 2**63 - 1))
@quick
def test_noise_is_one_field(data: st.DataObject, seed: int) -> None:
    window = data.draw(windows(200, 310))
    field = Noise(seed, (2, 3, 200, 310))
    part = cut(field, window)
    assert part.shape == (2, 3, *window[2:]) and part.dtype == torch.float32
    assert torch.equal(part, cut(field[..., 0:200, 0:310], window)) and torch.equal(part[0], part[1])
    larger = Noise(seed, (2, 3, 500, 400))  # a place has its noise, however large the picture
    assert torch.equal(part, cut(larger, window))


def test_noise_is_unit_gaussian_and_depends_on_the_seed() -> None:
    one, two = (Noise(seed, (1, 3, 512, 512))[..., 0:512, 0:512] for seed in (0, 1))
    assert abs(float(one.mean())) < 0.005 and abs(float(one.std()) - 1) < 0.005
    assert abs(float((one.pow(4)).mean()) - 3) < 0.05
    blocks = one.unfold(2, 128, 128).unfold(3, 128, 128).reshape(3 * 16, -1)
    for a in (blocks, torch.cat((blocks[:16], two.unfold(2, 128, 128).unfold(3, 128, 128).reshape(3 * 16, -1)[:16]))):
        related = torch.corrcoef(a) - torch.eye(len(a))
        assert related.abs().max() < 0.05  # no block repeats another


@given(st.data())
@quick
@pytest.mark.parametrize(("height", "width"), [(60, 41), (41, 60)])
@pytest.mark.parametrize("exact", [True, False])
def test_scratch_gives_back_what_was_put(height: int, width: int, exact: bool, data: st.DataObject) -> None:
    x = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    x = x if exact else x.half().float()
    scratch = Scratch((2, 3, height, width), exact)
    for at in range(0, 60, 7):
        length = min(7, 60 - at)
        window = Window(at, 0, length, width) if height > width else Window(0, at, height, length)
        scratch.put(window, cut(x, window))
    window = data.draw(windows(height, width))
    assert torch.equal(cut(scratch, window), cut(x, window))
    part = data.draw(windows(height, width))  # from no side to another
    scratch.put(part, -cut(x, part))
    cut(x, part).neg_()
    assert torch.equal(cut(scratch, window), cut(x, window))


def test_scratch_on_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no disk that is always full")
    monkeypatch.setattr(lazy.tempfile, "TemporaryFile", lambda **_: full.open("wb", buffering=0))
    with pytest.raises(UniresError, match=r"not enough room in .* set TMPDIR"):
        Scratch((1, 3, 8, 8)).put(Window(0, 0, 8, 8), torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("name", ["lq", "down2", "down4", "relay"])
def test_conditions_of_a_window_are_those_of_the_picture(tiny: Any, name: str) -> None:
    picture = torch.from_numpy(np.random.default_rng(0).random((1, 3, 71, 95), dtype=np.float32))
    window = Window(13, 22, 40, 51)
    relay = torch.rand_like(picture)
    whole = Conditions(tiny, picture)(name, relay)
    part = WindowConditions(tiny, picture, window)(name, cut(relay, window))
    assert (part - cut(whole, window)).abs().max() < 1e-5
