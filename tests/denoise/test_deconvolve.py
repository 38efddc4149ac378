"""What deconvolution shows the network: transfer functions, and what it gives back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from unires.degrade import isolated, kernels, operators
from unires.denoise.compact import CompactNet
from unires.denoise.deconvolve import EXTENTS, deconvolve, transfer

OVERLAP = 96  # of tiles: `CompactDenoiser.facts`
BLURS = [("defocus-deblur", 2.5, 0.0), ("motion-deblur", 9.0, 0.4), ("motion-deblur", 9.0, 2.2)]


def kernel(task: str, extent: float, angle: float) -> Tensor:
    size, turn = torch.tensor([extent]), torch.tensor([angle])
    return kernels.disc(size) if task == "defocus-deblur" else kernels.splat(kernels.arc(size, turn))


def severity(task: str, extent: float) -> Tensor:
    return isolated.severity_of(task, torch.tensor([extent]))


def psnr(a: Tensor, b: Tensor) -> float:
    """Away from the borders, beyond which nothing is known."""
    return float(-10 * (a - b)[..., 24:-24, 24:-24].square().mean().log10())


@pytest.mark.parametrize("task", EXTENTS)
def test_extents_are_what_severity_counts(task: str) -> None:
    low, high = EXTENTS[task]
    for s in (0.0, 0.3, 1.0):
        assert low * (high / low) ** s == pytest.approx(isolated.strength_of(task, s))


@pytest.mark.parametrize(("task", "extent", "angle"), BLURS)
def test_the_transfer_function_is_the_kernels(task: str, extent: float, angle: float) -> None:
    """Where pixels resolve it (a kernel of pixels repeats beyond)."""
    k, n = kernel(task, extent, angle)[0], 64
    half = k.shape[-1] // 2
    placed = torch.zeros(n, n)
    placed[: 2 * half + 1, : 2 * half + 1] = k
    exact = torch.fft.rfft2(placed.roll((-half, -half), (0, 1))).real
    ours = transfer(task, torch.tensor([extent]), torch.tensor([angle]), n, n)[0]
    f = torch.hypot(torch.fft.fftfreq(n)[:, None], torch.fft.rfftfreq(n)[None, :])
    low = f < 0.3
    assert float((ours - exact)[low].abs().max()) < 0.08
    assert float((ours - exact)[low].square().mean().sqrt()) < 0.03


@pytest.mark.parametrize(("task", "extent", "angle"), BLURS)
def test_a_blur_that_is_told_is_undone(task: str, extent: float, angle: float, photo: Any) -> None:
    blurred = operators.round8(operators.blur(photo, kernel(task, extent, angle)))
    d = deconvolve(blurred * 2 - 1, task, severity(task, extent), torch.tensor([angle]))
    before = psnr(blurred, photo)
    assert psnr((blurred * 2 + d[:, 3:]) / 2, photo) > before + 2
    more, less = ((blurred * 2 + x).diff(dim=-1).square().mean() for x in (d[:, :3], d[:, 3:]))
    assert float(less) > 1.1 * float(more)  # the less it is regularised, the more it brings out, noise included
    if task == "motion-deblur":  # and not by a path across it
        wrong = deconvolve(blurred * 2 - 1, task, severity(task, extent), torch.tensor([angle + 1.5]))
        assert psnr((blurred * 2 + wrong[:, 3:]) / 2, photo) < before


def test_the_network_sees_it_only_where_enough_is_known(tiny_net: Any) -> None:
    net: CompactNet = tiny_net()
    tasks = [net.config.tasks.index(name) for name in ("motion-deblur", "defocus-deblur", "denoise", "blind")]
    c = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    one = torch.ones(4)

    def seen(severity: float, angle: float, there: bool = True) -> list[bool]:
        d = net.classical(c, torch.tensor(tasks), one * severity, one.bool() & there, one * angle)
        return [False] * 4 if d is None else [bool(x.any()) for x in d]

    assert seen(0.5, 0.3) == [True, True, True, False]
    assert seen(0.5, torch.nan) == [False, True, True, False]
    assert seen(-1, 0.3) == seen(0.5, 0.3, there=False) == [False] * 4


@pytest.mark.parametrize("task", EXTENTS)
def test_what_is_far_away_is_not_seen(task: str) -> None:
    """So that a tile's middle is what it would be in the whole photo, to 4 of 255 levels even of noise."""
    x = torch.rand(1, 3, 300, 320, generator=torch.Generator().manual_seed(0)) * 2 - 1
    part = slice(20, 280)
    inner = slice(OVERLAP, 260 - OVERLAP)
    whole, tile = (deconvolve(v, task, torch.tensor([0.8]), torch.ones(1)) for v in (x, x[..., part, part]))
    off = (whole[..., part, part] - tile).abs()
    assert float(off[..., inner, inner].max()) < 4 / 127.5 and float(off[..., inner, inner].mean()) < 0.01 / 127.5
    assert float(off[..., :8, :8].max()) > 0.01


def test_small_pictures_are_mirrored_as_far_as_they_go() -> None:
    x = torch.rand(1, 3, 5, 3) * 2 - 1
    d = deconvolve(x, "defocus-deblur", torch.tensor([0.5]), torch.zeros(1))
    assert d.shape == (1, 6, 5, 3) and bool(d.isfinite().all())
