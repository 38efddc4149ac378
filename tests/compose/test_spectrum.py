"""Spectra against closed forms: noise is flat at its variance, blurs have their zeros, blocks their peaks."""

from __future__ import annotations

import pytest
import torch

from unires.compose.spectrum import AXIS, BLOCK, FEATURES, FINE, RINGS, WINDOW, light, spectra
from unires.degrade import kernels, operators
from unires.degrade.recipe import Recipe


def white(sigma: float, size: int = 256) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    return 0.5 + sigma / 255 * torch.randn(1, 3, size, size, generator=g)


def luma_rings(pixels: torch.Tensor) -> torch.Tensor:
    return spectra(pixels)[0, :RINGS].exp().mean(dim=(1, 2))


def test_shapes() -> None:
    assert spectra(torch.rand(2, 3, 70, 33)).shape == (2, FEATURES, 3, 2)
    assert light(torch.rand(2, 3, 70, 33)).shape == (2, 3, 2, FINE, FINE // 2 + 1)


@pytest.mark.parametrize("sigma", [2, 20])
def test_white_noise_is_flat_at_its_variance(sigma: float) -> None:
    weights = torch.tensor((0.299, 0.587, 0.114))
    power = luma_rings(white(sigma))[3:]  # the lowest lose what goes with the mean
    expected = sigma**2 * float(weights.square().sum())
    torch.testing.assert_close(power, torch.full_like(power, expected), rtol=0.15, atol=0.03)


@pytest.mark.parametrize("radius", [2.5, 4.0])
def test_a_disc_has_its_zero(radius: float) -> None:
    """The first zero of its transfer function is at 0.61 / radius."""
    kernel = kernels.disc(torch.tensor([radius]))
    x = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(1)) * 0.2 + 0.5
    blurred = torch.nn.functional.conv2d(x, kernel[:, None].expand(3, 1, -1, -1), padding="same", groups=3)
    power = luma_rings(blurred[..., 16:-16, 16:-16])
    first = 0.61 / radius * WINDOW
    near = power[round(first) - 3 : round(first) + 4]
    assert abs(round(first) - 3 + int(near.argmin()) - first) < 1.2


def test_motion_has_its_zero_along_it() -> None:
    path = kernels.arc(torch.tensor([12.0]), torch.tensor([0.0]), torch.tensor([0.0]))
    x = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(1)) * 0.3 + 0.3
    blurred = operators.to_linear(operators.blur(operators.to_srgb(x), kernels.splat(path)))
    axes = spectra(blurred)[0, -2 * AXIS - 2 * BLOCK : -2 * BLOCK].exp().mean(dim=(1, 2))
    across, along = axes[:AXIS], axes[AXIS:]
    dip = int(across[2:8].argmin()) + 3  # frequencies start at one
    assert abs(dip - WINDOW / 12) < 1.2
    assert float(along[dip - 1] / across[dip - 1]) > 5


@pytest.mark.parametrize(("down", "right"), [(0, 0), (3, 5)])
def test_steps_between_blocks(photo: torch.Tensor, down: int, right: int) -> None:
    worse = Recipe.parse("jpeg(quality=10)")(photo)[..., down:, right:]
    for pixels, there in ((worse, True), (photo[..., down:, right:], False)):
        columns, rows = spectra(pixels)[0, -2 * BLOCK :].mean(dim=(1, 2)).split(BLOCK)
        assert (float(columns.max() - columns.median()) > 0.5) == there
        if there:
            assert int(columns.argmax()) == (7 - right) % 8 and int(rows.argmax()) == (7 - down) % 8


def test_a_long_motion_has_its_zeros_in_light() -> None:
    """They lie 5 of its bins apart, too close for windows of half the side."""
    path = kernels.arc(torch.tensor([25.0]), torch.tensor([0.0]), torch.tensor([0.0]))
    x = torch.rand(1, 3, 384, 384, generator=torch.Generator().manual_seed(1))
    power = light(operators.blur(x, kernels.splat(path))[..., 32:-32, 32:-32])[0].exp().mean(dim=(0, 1))
    across = power[:2].mean(dim=0)
    for zero in (1, 2, 3):
        place = zero * FINE / 25
        peak = across[round(place + FINE / 50) - 1 : round(place + FINE / 50) + 2].max()
        assert float(across[round(place)] / peak) < 0.5


def test_around_a_place_of_light_lies_the_picture() -> None:
    """Windows at its borders are those farther in: nothing beyond is made up."""
    power = light(torch.rand(1, 3, 256, 160, generator=torch.Generator().manual_seed(0)))[0]
    torch.testing.assert_close(power[0], power[1])
    assert not torch.equal(power[2], power[3])
    torch.testing.assert_close(power[:, 0], power[:, 1])


def test_a_flat_picture_has_numbers() -> None:
    assert bool(torch.isfinite(spectra(torch.zeros(1, 3, 64, 64))).all())
