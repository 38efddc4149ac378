"""What shrinkage shows the network of a noisy photo: the transform, what it gains, what it keeps, and from how far."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.fft import dct
from torch import Tensor

from unires.degrade.isolated import severity_of
from unires.denoise.shrink import SIGMAS, cosines, shrink


def severity(sigma: float) -> Tensor:
    low, high = SIGMAS
    return torch.tensor([math.log(sigma / low) / math.log(high / low)])


def psnr(a: Tensor, b: Tensor) -> float:
    return -10 * math.log10(float((a.clamp(0, 1) - b).square().mean()))


def noisy(photo: Tensor, sigma: float) -> Tensor:
    g = torch.Generator().manual_seed(0)
    return photo + torch.randn(photo.shape, generator=g) * sigma / 255


@pytest.mark.parametrize("n", [3, 8])
def test_the_transform_is_the_cosine_transform(n: int) -> None:
    np.testing.assert_allclose(cosines(n).numpy(), dct(np.eye(n), axis=0, norm="ortho"), atol=1e-6)


def test_severities_are_those_that_the_experts_are_told() -> None:
    for sigma in (2.0, 15.0, 60.0):
        assert float(severity(sigma)) == pytest.approx(float(severity_of("denoise", torch.tensor(sigma))), abs=1e-6)


@pytest.mark.parametrize(("sigma", "least"), [(15.0, 6.0), (25.0, 7.5), (50.0, 9.0)])
def test_both_answers_gain(photo: Tensor, sigma: float, least: float) -> None:
    y = noisy(photo, sigma)
    d = shrink(y * 2 - 1, severity(sigma))
    for change in (d[:, :3], d[:, 3:]):
        assert psnr(y + change / 2, photo) > psnr(y, photo) + least


def test_a_photo_without_noise_stays(photo: Tensor) -> None:
    d = shrink(photo * 2 - 1, torch.zeros(1))
    assert float(d.abs().mean()) * 255 / 2 < 1
    flat = torch.full((1, 3, 32, 48), 0.3)
    assert float(shrink(flat, torch.ones(1)).abs().max()) < 1e-5  # no brightness is lost, at the borders neither


def test_each_picture_has_its_own_strength(photo: Tensor) -> None:
    both = torch.cat([noisy(photo, 15.0), noisy(photo, 50.0)])[..., :96, :128] * 2 - 1
    together = shrink(both, torch.cat([severity(15.0), severity(50.0)]))
    for i, sigma in enumerate((15.0, 50.0)):
        torch.testing.assert_close(together[i : i + 1], shrink(both[i : i + 1], severity(sigma)), atol=1e-5, rtol=0)


def test_what_is_far_away_is_not_seen(photo: Tensor) -> None:
    """So that a tile's middle is what it would be in the whole photo."""
    y = noisy(photo, 25.0) * 2 - 1
    part, inner = slice(16, 240), slice(48, 176)
    whole, tile = shrink(y, severity(25.0))[..., part, part], shrink(y[..., part, part], severity(25.0))
    torch.testing.assert_close(whole[..., inner, inner], tile[..., inner, inner], atol=1e-5, rtol=0)
    assert float((whole - tile)[..., :4, :4].abs().max()) > 1e-3


@pytest.mark.parametrize("size", [(2, 2), (4, 6), (16, 16)])
def test_small_pictures_are_mirrored_as_far_as_they_go(size: tuple[int, int]) -> None:
    d = shrink(torch.rand(1, 3, *size) * 2 - 1, severity(25.0))
    assert d.shape == (1, 6, *size) and bool(d.isfinite().all())
