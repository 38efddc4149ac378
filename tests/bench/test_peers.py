"""Peers that a package manager installs: each improves what it is made for, and gets what the table says it gets."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from unires.bench import peers, sets
from unires.bench.interface import NotApplicable
from unires.bench.measures import psnr
from unires.degrade import kernels, operators
from unires.errors import UniresError

MODULE = {"bm3d": "bm3d", "nlm": "cv2"}


def case_of(data: Path, name: str, size: int = 48) -> sets.Case:
    return next(s for s in sets.open_sets("singles", data) if s.name == name).fewer(1, size).load(0)


def quality(pixels: torch.Tensor, case: sets.Case) -> float:
    assert case.gt is not None
    return float(psnr(operators.round8(pixels), case.gt))


@pytest.mark.parametrize(
    ("name", "on", "least"),
    [
        ("bm3d", "noise 25", 3), ("nlm", "noise 25", 1), ("wavelet", "noise 25", 2), ("tv", "noise 25", 2),
        ("richardson-lucy", "motion 9", 1), ("richardson-lucy", "defocus 3", 1), ("wiener", "defocus 2", 0.5),
    ],
)
def test_a_peer_improves_what_it_is_made_for(data: Path, name: str, on: str, least: float) -> None:
    pytest.importorskip(MODULE.get(name, "skimage"))
    case = case_of(data, on, 32 if name == "bm3d" else 64)
    answer = peers.PEERS[name][0](case)
    assert answer.pixels.shape == case.lq.shape and answer.note
    assert quality(answer.pixels, case) > quality(case.lq, case) + least
    assert torch.equal(peers.PEERS[name][0](case).pixels, answer.pixels)


def test_iterations_are_those_of_scikit_image() -> None:
    """Away from the borders, which the two treat differently."""
    restoration = pytest.importorskip("skimage.restoration")
    x = torch.rand(1, 1, 90, 90, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    kernel = kernels.disc(torch.tensor([2.0]))[0]
    estimate = next(itertools.islice(peers.lucy_steps(x, kernel), 4, None))
    theirs = restoration.richardson_lucy(x[0, 0].numpy(), kernel.numpy(), num_iter=5)
    assert np.abs(estimate[0, 0].clamp(-1, 1).numpy() - theirs)[35:-35, 35:-35].max() < 2e-4


def test_the_best_strength_is_taken() -> None:
    gt = torch.zeros(1, 3, 4, 4) + 100 / 255
    case = sets.Case("a", gt + 0.2, gt, sets.Truth())
    tried = []

    def run(strength: float) -> torch.Tensor:
        tried.append(strength)
        return gt + (4 * (strength - 3) + 1) / 255

    answer = peers.best_of(case, (1, 2, 3, 4, 8, 9), run, "strength")
    assert answer.note == "strength 3" and tried == [1, 2, 3, 4]  # clearly worse at 4: no need to go on


def test_not_applicable(data: Path) -> None:
    jpeg = case_of(data, "jpeg 20")
    for name in ("richardson-lucy", "wiener", "bm3d"):
        pytest.importorskip(MODULE.get(name, "skimage"))
        with pytest.raises(NotApplicable):
            peers.PEERS[name][0](jpeg)
    plain = sets.Case("a", jpeg.lq, None, sets.Truth())
    with pytest.raises(NotApplicable):
        peers.best_of(plain, (1.0,), lambda s: plain.lq, "strength")


def test_a_package_that_is_missing() -> None:
    with pytest.raises(UniresError, match="is not installed"):
        peers.need("unires_no_such_package", "no-such-package")
