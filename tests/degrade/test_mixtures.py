"""Random mixtures: what is said to be in them is, and the test recipes never are."""

from __future__ import annotations

import pytest
import torch

from unires.degrade import mixtures, operators
from unires.degrade.isolated import TASKS
from unires.degrade.recipes import TEST, TUNING


def drawn(count: int, size: int = 48) -> tuple[torch.Tensor, mixtures.Mixture]:
    g = torch.Generator().manual_seed(5)
    ramp = torch.linspace(0.1, 0.9, size).expand(count, 3, size, size)
    clean = (ramp + 0.1 * torch.randn(ramp.shape, generator=g)).clamp(0, 1)
    return clean, mixtures.draw(clean, g, g)


def test_a_mixture_says_what_it_holds() -> None:
    clean, mixture = drawn(160)
    there = mixture.severity >= 0
    assert torch.equal(mixture.degraded * 255, (mixture.degraded * 255).round())
    untouched = ~there.any(dim=1)
    assert untouched.any()
    assert (mixture.degraded[untouched] - clean[untouched]).abs().max() < 0.5 / 255 + 1e-6
    assert (mixture.harm[~there] == mixtures.FLOOR).all()
    assert (mixture.harm[there] > mixtures.FLOOR).float().mean() > 0.95
    blurs = there[:, TASKS.index("motion-deblur")] & there[:, TASKS.index("defocus-deblur")]
    assert not blurs.any()
    for k in range(len(TASKS)):
        assert there[:, k].any()
    assert set(there.sum(dim=1).tolist()) == {0, 1, 2, 3, 4}


def test_noise_harm_is_its_variance() -> None:
    _, mixture = drawn(200)
    k = TASKS.index("denoise")
    strongest = mixture.severity[:, k].argmax()
    sigma = 10 ** (mixture.harm[strongest, k] / 20) * 255
    assert 20 < sigma < 80


def test_harm_is_the_error_that_a_degradation_makes_alone() -> None:
    """Noise, then JPEG: on noise, JPEG's step changes about as much as noise did; on the clean photo, little."""
    clean, mixture = drawn(1200)
    noise, jpeg = TASKS.index("denoise"), TASKS.index("dejpeg")
    only = (mixture.severity[:, [0, 1, 2]] < 0).all(dim=1)
    both = only & (mixture.severity[:, noise] > 0.8) & (mixture.severity[:, jpeg] >= 0)
    assert both.sum() >= 3
    error = 10 * (mixture.degraded - clean)[both].square().mean(dim=(1, 2, 3)).log10()
    assert (mixture.harm[both, noise] > mixture.harm[both, jpeg]).all()
    assert (mixture.harm[both, jpeg] < error + 1).all()


def test_no_draw_is_a_test_recipe() -> None:
    tests, tuning = (torch.stack([mixtures.severities(r) for r in recipes]) for recipes in (TEST, TUNING))
    assert mixtures.near_test(tests).all()
    assert mixtures.near_test(torch.where(tests >= 0, tests + 0.02, tests)).all()
    assert not mixtures.near_test(tuning).any()
    _, mixture = drawn(200)
    assert not mixtures.near_test(mixture.severity).any()


def test_what_comes_near_a_test_recipe_stays_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    clean, before = drawn(40)
    monkeypatch.setattr(mixtures, "_TESTS", before.severity[before.severity.amax(dim=1) >= 0][:3])
    _, mixture = drawn(40)
    near = (before.severity >= 0).any(dim=1) & (mixture.severity != before.severity).any(dim=1)
    assert near.sum() >= 3
    assert (mixture.severity[near] == mixtures.ABSENT).all() and (mixture.harm[near] == mixtures.FLOOR).all()
    assert torch.equal(mixture.degraded[near], operators.round8(clean[near]))
    others = (mixture.severity == before.severity).all(dim=1)
    assert others.sum() > 20
    assert torch.equal(mixture.degraded[others], before.degraded[others])


def test_severity_of_a_recipe_is_what_training_tells() -> None:
    row = mixtures.severities("motion(length=31) + jpeg(quality=5)")
    assert row[TASKS.index("motion-deblur")] == 1 and row[TASKS.index("dejpeg")] == 1
    assert (row[[0, 2, 3]] == mixtures.ABSENT).all()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_of_the_pictures_is_degraded_plainly(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    plain: list[bool] = []
    blur = mixtures.isolated.DEGRADE["defocus-deblur"]

    def spy(x: torch.Tensor, draw: mixtures.Draw) -> mixtures.isolated.Degraded:
        assert draw.plain is not None
        plain.extend(draw.plain.tolist())
        return blur(x, draw)

    monkeypatch.setitem(mixtures.isolated.DEGRADE, "defocus-deblur", spy)
    g = torch.Generator().manual_seed(7)
    mixtures.draw(torch.rand(900, 3, 16, 16, generator=g), g, g, share)
    assert len(plain) > 100 and abs(sum(plain) / len(plain) - share) < 0.12
