"""Training the report: its samples are what mixtures make, it learns, and it says so."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from unires.compose.report import Judgement, Report
from unires.degrade import kernels, operators
from unires.degrade.isolated import TASKS
from unires.train import report as module
from unires.train.config import RouterTraining
from unires.train.report import Examples, batches, examples, learn_report, loss, score, turned
from unires.train.samples import Samples

MOTION = TASKS.index("motion-deblur")


def samples(photos: Path, **changes: Any) -> Samples:
    values = {"clean": (str(photos),), "crop": 64, "seen": 64, "asked": 64, "margin": 8, "batch": 16}
    return Samples(RouterTraining(**values | changes), log=lambda line: None)


def test_examples_are_numbered(photos: Path) -> None:
    some = samples(photos)
    first, again, second = examples(some, 0), examples(samples(photos), 0), examples(some, 1)
    assert first.pixels.shape == (16, 3, 64, 64) and first.where.shape == (16, 1, 2, 2)
    for a, b in zip(first, again, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)
    assert not torch.equal(first.pixels, second.pixels)
    assert torch.equal(first.angle.isnan(), first.severity[:, MOTION] < 0)


def test_a_share_of_clean_pictures_is_like_camera_files(photos: Path) -> None:
    plain, some = (samples(photos, margin=0, camera_share=share).draw(0, 16, 64) for share in (0.0, 0.5))
    changed = (plain[0] != some[0]).flatten(1).any(dim=1)
    assert 3 <= changed.sum() <= 13
    untouched = (some[1].severity < 0).all(dim=1) & changed
    torch.testing.assert_close(some[1].degraded[untouched], some[0][untouched])


@pytest.mark.parametrize("way", range(8))
def test_what_is_turned_is_degraded_in_the_direction_that_is_told(photo: Any, way: int) -> None:
    none, angle, photo = torch.zeros(1), torch.tensor([0.4]), photo[..., :96, :80]

    def moved(x: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
        return operators.blur(x, kernels.splat(kernels.arc(torch.tensor([9.0]), angle, none)), none)

    def example(x: torch.Tensor) -> Examples:
        return Examples(x, torch.zeros(1, 5), torch.zeros(1, 5), angle, torch.ones(1, 1, 3, 3))

    out, clean = turned(example(moved(photo, angle)), way), turned(example(photo), way)
    inner = (..., slice(12, -12), slice(12, -12))
    torch.testing.assert_close(moved(clean.pixels, out.angle)[inner], out.pixels[inner])


def test_each_sample_is_seen_as_often_as_wanted(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POOL", 2)
    coming = batches(samples(photos, report_views=3))

    def pool() -> Counter[bytes]:
        pixels = torch.cat([next(coming).pixels for _ in range(6)])
        return Counter(x.flatten().sort()[0].numpy().tobytes() for x in pixels)

    first, second = pool(), pool()
    assert sum(first.values()) == 6 * 16 and all(count % 3 == 0 for count in first.values())
    assert not first.keys() & second.keys()


def test_it_learns_and_says_how_well(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HELD_SAMPLES", 48)
    torch.manual_seed(0)
    report, some, lines = Report(len(TASKS), 16).eval().requires_grad_(False), samples(photos, report_rounds=60), []
    test = [examples(some, module.HELD + i) for i in range(3)]
    learn_report(report, samples(photos, report_rounds=1), log=lines.append)  # only the features' units
    before = float(sum(loss(report, e) for e in test))
    learn_report(report, some, log=lines.append)
    assert float(sum(loss(report, e) for e in test)) < 0.6 * before
    assert not any(p.requires_grad for p in report.parameters()) and not report.training
    assert len(lines) == 4 and "presence right" in lines[-1]


def test_the_truth_scores_full_marks_and_least_loss(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true = examples(samples(photos, batch=64), 3)
    turn = torch.stack((torch.cos(2 * true.angle), torch.sin(2 * true.angle)), dim=1).nan_to_num(0)
    presence = torch.where(true.severity >= 0, 20.0, -20.0)

    class Says:
        def __init__(self, angle: float) -> None:
            c, s = math.cos(2 * angle), math.sin(2 * angle)
            turned = torch.stack((turn[:, 0] * c - turn[:, 1] * s, turn[:, 0] * s + turn[:, 1] * c), dim=1)
            where = presence[:, :, None, None].expand(-1, -1, 2, 2)
            self.said = Judgement(presence, true.severity, true.harm / 10, 30 * turned, where)

        def see(self, pixels: torch.Tensor) -> tuple[torch.Tensor, None]:
            return pixels, None

        def __call__(self, look: torch.Tensor) -> Judgement:
            return self.said

    exact: Any = Says(0.0)
    said = score(exact, [true])
    assert "presence right 100.0%, strongest right 100.0%, severities off by 0.000" in said
    assert "direction by 0.0 degrees" in said
    turned: Any = Says(math.radians(10))
    assert "direction by 10.0 degrees" in score(turned, [true])
    whole = Examples(*true[:4], torch.ones_like(true.where))
    assert float(loss(exact, whole)) < float(loss(turned, whole)) - 0.1


def test_in_half_precision_it_judges_as_it_did(photos: Path) -> None:
    """Features that never vary, of bins of frequency without a member, magnify no rounding."""
    torch.manual_seed(0)
    report, some = Report(len(TASKS), 16).eval().requires_grad_(False), samples(photos, report_rounds=30)
    learn_report(report, some, log=lambda line: None)
    look = report.see(examples(some, 5).pixels)
    constant = look[:, : len(report.mean)].flatten(2).std(dim=(0, 2)) < 1e-4
    assert 20 < int(constant.sum()) < 40
    before = report(look)
    report.load_state_dict({k: v.half().float() for k, v in report.state_dict().items()})
    after = report(report.see(examples(some, 5).pixels))
    torch.testing.assert_close(after.severity, before.severity, atol=0.01, rtol=0)
