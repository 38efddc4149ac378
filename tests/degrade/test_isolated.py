"""Training pairs: each shows its own degradation, over the whole range, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from unires.degrade import isolated, jpeg, operators

SIGMA_2 = 2 / 255  # the most noise that a blur or resolution pair carries


def gens(seed: int = 0) -> tuple[torch.Generator, torch.Generator]:
    one = torch.Generator().manual_seed(seed)
    return one, one


def crops(photo: Any, count: int, size: int = 64) -> torch.Tensor:
    g = torch.Generator().manual_seed(5)
    top, left = torch.randint(0, 256 - size, (2, count), generator=g).tolist()
    return torch.cat([photo[..., t : t + size, le : le + size] for t, le in zip(top, left, strict=True)])


@pytest.mark.parametrize("task", isolated.TASKS)
def test_pairs_are_8_bit_valued_and_severity_lies_between_0_and_1(photo: Any, task: str) -> None:
    x = crops(photo, 48)
    out, severity, _ = isolated.pairs(x, task, *gens())
    assert out.shape == x.shape and severity.shape == (48,)
    assert torch.equal(out, operators.round8(out))
    assert float(severity.min()) >= 0 and float(severity.max()) <= 1
    again, same, _ = isolated.pairs(x, task, *gens())
    assert torch.equal(out, again) and torch.equal(severity, same)
    assert not torch.equal(out, isolated.pairs(x, task, *gens(1))[0])


@pytest.mark.parametrize("task", isolated.TASKS)
def test_severity_says_how_bad_it_is(photo: Any, task: str) -> None:
    """Of the same crop in 64 versions, the worse half has the larger error, clearly; untouched ones have none."""
    x = photo[..., 64:160, 64:160].repeat(64, 1, 1, 1)
    out, severity, _ = isolated.pairs(x, task, *gens(3))
    error = (out - x).square().mean(dim=(1, 2, 3)).sqrt()
    order = severity.argsort()
    assert error[order[32:]].mean() > 1.4 * error[order[:32]].mean()
    for i in torch.nonzero(severity == 0).flatten().tolist():
        assert torch.equal(out[i], x[i])


@pytest.mark.parametrize("task", isolated.TASKS)
def test_some_pairs_have_nothing_wrong(photo: Any, task: str) -> None:
    x = crops(photo, 400, 48)
    out, severity, _ = isolated.pairs(x, task, *gens(9))
    untouched = (out == x).flatten(1).all(dim=1)
    assert 0.01 < float(untouched.float().mean()) < 0.12
    assert torch.equal(untouched, severity == 0)


def test_a_noise_pair_has_noise_and_no_blur(photo: Any) -> None:
    """The residual's mean is zero at every pixel: on average over many draws, the clean photo comes back, sharp."""
    x = photo[..., 64:128, 64:128].clamp(0.25, 0.75)  # clipping would pull the mean off
    draw = isolated.Draw(600, *gens(2))
    noisy, *_ = isolated.noise(x.repeat(600, 1, 1, 1), draw)
    residual = (noisy - x).mean(dim=0)
    assert float(residual.mean().abs()) < 2e-3
    # sigma of a mean over 600 of up to 60 / 255; a blur of one pixel alone would leave more at this crop's edges
    assert float(residual.std()) < 0.02
    edges = (x[..., 1:] - x[..., :-1])[0]
    kept = ((noisy[..., 1:] - noisy[..., :-1]).mean(dim=0) * edges).sum() / edges.square().sum()
    assert float(kept) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("task", ["motion-deblur", "defocus-deblur", "super-resolution"])
def test_a_blur_or_resolution_pair_has_hardly_any_noise(task: str) -> None:
    """On a flat picture nothing is left but the trace of noise, sigma 0 to 2, and rounding; no JPEG, no shift."""
    x = torch.full((64, 3, 64, 64), 128 / 255)
    out, *_ = isolated.pairs(x, task, *gens(4))
    residual = out - x
    deviation = residual.std(dim=(1, 2, 3))
    assert float(deviation.max()) < (SIGMA_2**2 + (1 / 255) ** 2 / 12) ** 0.5 * 1.05
    assert float(deviation.median()) == pytest.approx(1 / 255, rel=0.4)
    assert float(residual.mean().abs()) < 1e-3


@pytest.mark.parametrize("task", ["motion-deblur", "defocus-deblur"])
def test_a_blur_pair_is_not_shifted(task: str) -> None:
    """The centre of a blurred dot stays where it was (faint enough not to be a lamp)."""
    x = torch.full((48, 3, 79, 79), 0.02)
    x[..., 38:41, 38:41] = 0.8
    out = operators.to_linear(isolated.pairs(x, task, *gens(6))[0]) - operators.to_linear(torch.tensor(0.02))
    r = torch.arange(-39, 40, dtype=torch.float32)
    for axis in (-1, -2):
        profile = out.mean(dim=1).sum(dim=axis)
        profile = torch.where(profile > profile.amax(dim=1, keepdim=True) * 0.1, profile, torch.zeros_like(profile))
        off = (profile * r).sum(1) / profile.sum(1)
        assert float(off.mean().abs()) < 0.3


def test_a_jpeg_pair_is_the_encoders_at_every_phase(photo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without noise of any kind: each crop is what the encoder makes of it, or of what an earlier save left."""
    calls: list[tuple[list[int], list[str], torch.Tensor]] = []
    real = jpeg.encode_decode

    def watched(x: torch.Tensor, quality: list[int], kinds: list[str]) -> torch.Tensor:
        calls.append((quality, kinds, real(x, quality, kinds)))
        return calls[-1][2]

    monkeypatch.setattr(jpeg, "encode_decode", watched)
    x = crops(photo, 40)
    out, severity, _ = isolated.pairs(x, "dejpeg", *gens(8))
    touched = severity > 0
    assert torch.equal(out[touched], calls[-1][2][touched])
    quality, kinds, _ = calls[-1]
    assert min(quality) >= 5 and max(quality) <= 90 and set(kinds) == {"4:2:0", "4:4:4"}
    # strictly worse with falling quality
    order = sorted(range(40), key=lambda i: quality[i])
    assert (severity[touched][1:] >= 0).all() and max(quality) - min(quality) > 60
    kept = [float(severity[i]) for i in order if touched[i]]
    assert kept == sorted(kept, reverse=True)


def test_the_device_generator_makes_the_fields_and_the_host_one_the_parameters(photo: Any) -> None:
    """So that the parameters are the same on every device."""
    x = crops(photo, 8)
    host, device = torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)
    _, severity, _ = isolated.pairs(x, "defocus-deblur", host, device)
    host, device = torch.Generator().manual_seed(1), torch.Generator().manual_seed(3)
    _, same, _ = isolated.pairs(x, "defocus-deblur", host, device)
    assert torch.equal(severity, same)


def test_softened_pictures_are_blurred_and_nothing_else(photo: Any) -> None:
    grey = torch.full((40, 3, 64, 64), 128 / 255)
    torch.testing.assert_close(isolated.softened(grey, isolated.Draw(40, *gens(6))), grey, atol=1e-3, rtol=0)
    x = crops(photo, 40)
    kept = x.clone()
    out = isolated.softened(x, isolated.Draw(40, *gens(6)))
    assert torch.equal(x, kept) and float(out.min()) >= 0 and float(out.max()) <= 1
    before, after = ((v[..., 1:] - v[..., :-1]).square().mean(dim=(1, 2, 3)) for v in (x, out))
    assert float((after / before).median()) < 0.7 and float((after / before).max()) < 1.1
