"""What an enlarged photo was made from: found, and kept to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unires.compose.consistency import REDUCING, consistent
from unires.compose.grid import ENLARGING, SIDE, Axis, Grid, find
from unires.degrade import jpeg, kernels, operators
from unires.degrade.operators import round8
from unires.degrade.resample import KERNELS, reduced_size, resize


def textured(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """1 x 3 x height x width in [0.1, 0.9], with as much detail of one size as of any other."""
    f = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)).clamp(min=1 / max(height, width))
    white = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(seed))
    out = torch.fft.irfft2(torch.fft.rfft2(white) / f, s=(height, width))
    return (0.5 + 0.15 * out / out.std()).clamp(0.1, 0.9)


@given(st.integers(20, 90), st.integers(20, 90), st.floats(1.2, 4.5), st.integers(0, 99))
def test_reduced_again_it_is_the_small_photo(height: int, width: int, scale: float, seed: int) -> None:
    size = reduced_size(height, width, scale)
    small, guess = textured(*size, seed), textured(height, width, seed + 1)
    grid = Grid(Axis(size[0], height), Axis(size[1], width))
    out = consistent(guess, resize(small, (height, width)), grid)
    before, after = (
        torch.stack([(resize(x, size, kernel) - small).square().mean().sqrt() for kernel in REDUCING])
        for x in (guess, out)
    )
    assert float((after / before).min()) < 0.1  # by one of the kernels
    # once more it changes little, and what reduces to nothing is left alone
    again = consistent(out, resize(small, (height, width)), grid)
    assert (again - out).square().mean() < 0.02 * (out - guess).square().mean()


def test_it_does_not_matter_in_which_values(photo: Any) -> None:
    small = resize(photo, (60, 60))
    large = resize(small, (131, 131))
    grid = Grid(Axis(60, 131), Axis(60, 131))
    guess = resize(photo, (131, 131))
    theirs = consistent(guess * 2 - 1, large * 2 - 1, grid)
    torch.testing.assert_close((theirs + 1) / 2, consistent(guess, large, grid), atol=1e-5, rtol=0)


def test_a_part_is_as_in_the_whole() -> None:
    small = textured(150, 170)
    large = resize(small, (399, 407))
    guess = textured(399, 407, 1)
    grid = Grid(Axis(150, 399), Axis(170, 407))
    whole = consistent(guess, large, grid)
    part = consistent(guess[..., 101:331, 37:307], large[..., 101:331, 37:307], grid.at(101, 37))
    inner = slice(40, -40)
    torch.testing.assert_close(part[..., inner, inner], whole[..., 141:291, 77:267], atol=1e-3, rtol=0)


def test_parts_too_small_for_a_pixel_stay() -> None:
    guess = textured(400, 400)[..., :3, :3]
    grid = Grid(Axis(100, 400), Axis(100, 400)).at(201, 203)
    assert torch.equal(consistent(guess, guess + 1, grid), guess)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    ("size", "scale"), [((200, 240), 2.0), ((333, 211), 3.1), ((700, 500), 1.37), ((190, 900), 4.2)]
)
def test_the_size_is_found(kernel: str, size: tuple[int, int], scale: float) -> None:
    height, width = size
    small = reduced_size(height, width, scale)
    photo = round8(resize(round8(resize(textured(height, width), small, kernel)), size))
    for read in (scale / 1.1, scale, scale * 1.1):
        assert find(photo, read) == Grid(Axis(small[0], height), Axis(small[1], width))


@pytest.mark.parametrize("kernel", ENLARGING)
def test_so_is_what_enlarged_it(kernel: str) -> None:
    photo, grid = textured(300, 260), Grid(Axis(120, 300), Axis(104, 260), kernel)
    small = round8(resize(photo, (120, 104)))
    enlarged = round8(resize(small, (300, 260), kernel))
    assert find(enlarged, 2.5) == grid
    out = consistent(photo, enlarged, grid)
    assert (resize(out, (120, 104)) - small).abs().mean() < 0.5 / 255


@pytest.mark.parametrize("kernel", REDUCING)
def test_the_kernel_that_reduced_it_is_the_one_that_an_estimate_contradicts_least(kernel: str) -> None:
    photo, size = textured(300, 260), (120, 104)
    small = round8(resize(photo, size, kernel))
    enlarged = resize(small, (300, 260))
    guess = photo + 0.02 * (textured(300, 260, 1) - 0.5)
    out = consistent(guess, enlarged, Grid(Axis(120, 300), Axis(104, 260)))
    assert (resize(out, size, kernel) - small).abs().mean() < 0.5 / 255
    assert (out - photo).square().mean() < 0.9 * (guess - photo).square().mean()


def test_noise_does_not_hide_it_but_blocks_hide_some() -> None:
    enlarged = resize(round8(resize(textured(300, 300), (130, 130))), (300, 300))
    noisy = round8(enlarged + 6 / 255 * torch.randn(enlarged.shape, generator=torch.Generator().manual_seed(0)))
    for compressed in (False, True):
        assert find(noisy, 2.2, compressed) == Grid(Axis(130, 300), Axis(130, 300))
    fitting = round8(resize(resize(textured(304, 304), (190, 190)), (304, 304)))  # a block has 5 small pixels
    assert find(fitting, 1.6) is not None and find(fitting, 1.6, compressed=True) is None


@pytest.mark.parametrize("quality", [30, 50, 80, 90])
@pytest.mark.parametrize("cut", [0, 3])
def test_half_the_size_is_told_from_blocks_that_lost_their_fine_half(quality: int, cut: int) -> None:
    """Wherever blocks begin. (Coarser ones leave too little to tell it by.)"""
    photo, grid = textured(304, 304), Grid(Axis(152, 304), Axis(152, 304))
    enlarged, (window,) = resize(round8(resize(photo, (152, 152))), (304, 304)), kernels.disc(torch.tensor([2.5]))
    soft = operators.blur(photo, window[None])

    def compressed(x: torch.Tensor) -> torch.Tensor:
        moved = x.roll((cut, cut), dims=(-2, -1))
        return jpeg.encode_decode(round8(moved), [quality], ["4:2:0"]).roll((-cut, -cut), dims=(-2, -1))

    assert find(compressed(enlarged), 2.0, compressed=True) == (grid if quality >= 80 else None)
    for x in (photo, soft):
        assert find(compressed(x), 2.0, compressed=True) is None


def test_of_two_kernels_that_do_equally_well_the_usual_one_is_named() -> None:
    """Under noise, at exactly twice the size."""
    enlarged = resize(round8(resize(textured(256, 256), (128, 128))), (256, 256))
    for seed in range(12):
        noise = torch.randn(enlarged.shape, generator=torch.Generator().manual_seed(seed))
        assert find(round8(enlarged + 8 / 255 * noise), 2.0) == Grid(Axis(128, 256), Axis(128, 256), "bicubic")


def test_less_is_enough_where_it_is_likely() -> None:
    enlarged = resize(round8(resize(textured(256, 256), (110, 110))), (256, 256))
    found = {False: 0, True: 0}
    for seed in range(12):
        noise = torch.randn(enlarged.shape, generator=torch.Generator().manual_seed(seed))
        here = {likely: find(round8(enlarged + 24 / 255 * noise), 2.3, likely=likely) for likely in found}
        assert here[False] is None or here[True] == here[False]
        found = {likely: found[likely] + (grid is not None) for likely, grid in here.items()}
    assert found[True] > found[False]


def test_nothing_is_found_where_nothing_is() -> None:
    photo = textured(300, 300)
    assert find(round8(photo), 2.0) is None  # never reduced
    enlarged = resize(round8(resize(photo, (150, 150))), (300, 300))
    assert find(round8(enlarged), 3.0) is None  # not by so much
    assert find(torch.full((1, 3, 300, 300), 0.4), 2.0) is None  # flat
    assert find(torch.ones(1, 3, 300, 300), 2.0) is None  # all clipped
    assert find(photo[..., : SIDE - 1], 2.0) is None  # too small
    assert find(photo, 1.1) is None  # hardly enlarged
