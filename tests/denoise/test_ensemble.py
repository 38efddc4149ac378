"""Self-ensemble: equal views of equal pictures, and one view is none at all."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from unires.denoise.ensemble import Ensembled
from unires.denoise.interface import Hint
from unires.errors import OptionError


def test_eight_views_don_t_care_how_a_picture_lies(tiny: Any, photo: Any) -> None:
    x = tiny.encode(photo[..., :48, :64])
    z = torch.zeros_like(x)

    def ask(denoiser: Any, c: torch.Tensor) -> torch.Tensor:
        return denoiser.predict(torch.zeros_like(c), 1.0, c, ["denoise"], [Hint(0.3)])

    eight = Ensembled(tiny, 8)
    turns = lambda v: v.flip(-1), lambda v: v.flip(-2), lambda v: v.mT, lambda v: v.rot90(1, (-2, -1))
    for turn in turns:
        torch.testing.assert_close(turn(ask(eight, x)), ask(eight, turn(x)), atol=1e-4, rtol=0)
        assert not torch.allclose(turn(ask(tiny, x)), ask(tiny, turn(x)), atol=1e-3)
    assert torch.equal(Ensembled(tiny, 1).predict(z, 1.0, x, ["denoise"]), tiny.predict(z, 1.0, x, ["denoise"]))


def test_a_motion_turns_with_the_view(tiny: Any, photo: Any) -> None:
    """Where a path points in a mirrored, turned or transposed photo follows from where it points in this one."""
    x = tiny.encode(photo[..., :48, :64])
    eight = Ensembled(tiny, 8)

    def ask(c: torch.Tensor, angle: float) -> torch.Tensor:
        return eight.predict(torch.zeros_like(c), 1.0, c, ["motion-deblur"], [Hint(0.5, angle)])

    straight = ask(x, 0.4)
    for turned, angle, back in (
        (x.flip(-1), -0.4, lambda v: v.flip(-1)),
        (x.flip(-2), -0.4, lambda v: v.flip(-2)),
        (x.mT, math.pi / 2 - 0.4, lambda v: v.mT),
        (x.rot90(1, (-2, -1)), 0.4 + math.pi / 2, lambda v: v.rot90(-1, (-2, -1))),
    ):
        torch.testing.assert_close(back(ask(turned.contiguous(), angle)), straight, atol=1e-4, rtol=0)
        assert not torch.allclose(back(ask(turned.contiguous(), angle + 0.5)), straight, atol=1e-3)


def test_two_views_are_the_photo_and_its_mirror(tiny: Any, photo: Any) -> None:
    x = tiny.encode(photo[..., :32, :48])
    z = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    mirrored = tiny.predict(z.flip(-1), 0.5, x.flip(-1), ["blind"]).flip(-1)
    expected = (tiny.predict(z, 0.5, x, ["blind"]) + mirrored) / 2
    torch.testing.assert_close(Ensembled(tiny, 2).predict(z, 0.5, x, ["blind"]), expected)


def test_only_symmetries_of_the_square(tiny: Any) -> None:
    with pytest.raises(OptionError, match="1, 2, 4 or 8"):
        Ensembled(tiny, 3)
