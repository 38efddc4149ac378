"""Clean pictures made like a camera's files: softer, without a cast, and never changed where there is nothing."""

from __future__ import annotations

import torch

from unires.degrade.camera import camera_file


def textured(count: int, size: int = 64) -> torch.Tensor:
    g = torch.Generator().manual_seed(2)
    ramp = torch.linspace(0.2, 0.8, size).expand(count, 3, size, size)
    return (ramp + 0.1 * torch.randn(ramp.shape, generator=g)).clamp(0, 1)


def drawn(x: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return camera_file(x, torch.Generator().manual_seed(seed))


def test_it_is_softer_of_eight_bits_and_of_the_same_colours() -> None:
    x = textured(24)
    before, y = x.clone(), drawn(x)
    assert torch.equal(x, before)
    assert y.shape == x.shape and torch.equal(y * 255, (y * 255).round())
    assert (y.mean(dim=(2, 3)) - x.mean(dim=(2, 3))).abs().max() < 0.02
    steps = [(v[..., 1:] - v[..., :-1]).square().mean(dim=(1, 2, 3)) for v in (y, x)]
    assert steps[0].median() < 0.75 * steps[1].median()  # most are; what was sharpened most is not


def test_every_picture_is_treated_in_its_own_way_and_the_seed_decides() -> None:
    x = textured(1).expand(8, -1, -1, -1)
    y = drawn(x)
    assert torch.equal(y, drawn(x)) and not torch.equal(y, drawn(x, 1))
    assert len({tuple(v.flatten()[:200].tolist()) for v in y}) == 8


def test_a_plain_wall_stays_as_it_is_and_none_is_none() -> None:
    wall = (torch.tensor([40.0, 128.0, 200.0]) / 255).view(1, 3, 1, 1).expand(6, 3, 40, 48)
    assert (drawn(wall) - wall).abs().max() <= 1.01 / 255
    assert drawn(wall[:0]).shape == (0, 3, 40, 48)
