"""Training the second look: its examples are what the first steps leave, and it learns from them."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.func import functional_call

from unires.compose.report import Judgement, Report
from unires.compose.router import Router
from unires.compose.second import SecondLook
from unires.degrade.isolated import TASKS
from unires.train import second
from unires.train.config import RouterTraining
from unires.train.report import Examples, examples, turned
from unires.train.router import RouterTrainer
from unires.train.second import Cleaned, cleaned


def trainer(photos: Path, tiny_folder: Path, tmp_path: Path, **changes: Any) -> RouterTrainer:
    config = {
        "clean": (str(photos),), "model": str(tiny_folder), "run": str(tmp_path / "run"), "crop": 64, "margin": 8,
        "batch": 8, "samples": 8, "seen": 96, "asked": 32,
    }  # fmt: skip
    return RouterTrainer(RouterTraining(**config | changes), log=lambda line: None)


def cleaning(photos: Path, tiny_folder: Path, tmp_path: Path, **changes: Any) -> RouterTrainer:
    """A router that thinks everything is there, and takes out noise first."""
    t = trainer(photos, tiny_folder, tmp_path, **changes)
    t.router.report.whole[4].bias[: len(TASKS)] = 5.0
    t.router.weigh[1].leave.bias.copy_(torch.tensor([0.0, 1.0]))
    return t


def test_examples_are_what_the_first_steps_leave(photos: Path, tiny_folder: Path, tmp_path: Path) -> None:
    t = cleaning(photos, tiny_folder, tmp_path)
    batch = examples(t.samples, 3)
    found = cleaned(t.router, t.denoiser, batch)
    assert found is not None and len(found.now.angle) == len(batch.angle)
    assert torch.equal(found.now.severity, batch.severity)
    levels = found.now.pixels * 255
    torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)
    t.router.weigh[1].leave.bias.copy_(torch.tensor([1.0, 0.0]))  # it keeps what there is
    assert cleaned(t.router, t.denoiser, batch) is None


def test_every_parameter_of_it_counts(photo: Any) -> None:
    torch.manual_seed(2)
    report = Report(len(TASKS), 16).eval().requires_grad_(False)
    look = SecondLook(report)
    for parameter in look.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    changed = {f"report.{name}": value for name, value in look.changed(report).items()}
    seen = functional_call(second.AtOnce(report), changed, (photo,))
    torch.autograd.backward(sum(v.square().sum() for v in look.settle(report(report.see(photo)), seen)[:-1]))
    assert all(p.grad is not None and bool(p.grad.any()) for p in look.parameters())
    assert all(p.grad is None for p in report.parameters())


@pytest.mark.parametrize("way", range(8))
def test_a_direction_turns_with_its_picture(way: int) -> None:
    angle = torch.tensor([0.3, 1.2, 2.9])
    batch = Examples(torch.rand(3, 3, 8, 8), torch.zeros(3, 5), torch.zeros(3, 5), angle, torch.rand(3, 1, 2, 2))
    expected = turned(batch, way).angle
    got = second._turned(torch.stack(((2 * angle).cos(), (2 * angle).sin()), dim=1), way)
    back = (torch.atan2(got[:, 1], got[:, 0]) / 2).remainder(math.pi)
    torch.testing.assert_close(back, expected, atol=1e-5, rtol=0)


def test_it_learns_what_can_be_told_only_after_cleaning(photos: Path, tiny_folder: Path, tmp_path: Path) -> None:
    """Of pictures whose judgement says nothing, half of them flat when cleaned."""
    t = trainer(photos, tiny_folder, tmp_path, second_views=60, rate=1e-2)
    torch.manual_seed(4)
    there = torch.arange(32) % 2 == 0
    pixels = torch.where(there[:, None, None, None], torch.rand(32, 3, 64, 64), torch.full((32, 3, 64, 64), 0.5))
    severity = torch.full((32, 5), -1.0)
    severity[there, 0] = 0.5
    nothing = Judgement(*(torch.zeros(32, 5) for _ in range(3)), torch.zeros(32, 2), torch.zeros(32, 5, 2, 2))
    now = Examples((pixels * 255).round().byte(), severity, torch.full((32, 5), -30.0), torch.full((32,), math.nan),
                   torch.ones(32, 1, 2, 2))  # fmt: skip
    lines: list[str] = []
    before = {k: v.clone() for k, v in t.router.report.state_dict().items()}
    second.learn(t.router, Cleaned(now, nothing), Cleaned(now, nothing), t.config, lines.append)
    after, alone = map(float, re.findall(r"cross-entropy ([0-9.]+)", lines[-1]))
    assert after < 0.3 < math.log(2) - 0.01 < alone
    assert all(torch.equal(v, t.router.report.state_dict()[k]) for k, v in before.items())


def test_it_can_be_learnt_alone(
    photos: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For weights and a report that stay as they are."""
    known = cleaning(photos, tiny_folder, tmp_path)
    known.router.save(tmp_path)
    t = trainer(photos, tiny_folder, tmp_path, start_from=str(tmp_path), rounds=0, second_samples=8, second_views=2)
    monkeypatch.setattr(second, "HELD_SAMPLES", 8)
    t.run()
    after = Router.load(tmp_path / "run")
    assert after is not None
    same = {k for k, v in known.router.state_dict().items() if torch.equal(v.half().float(), after.state_dict()[k])}
    assert all(k in same for k in known.router.state_dict() if not k.startswith("second."))
    assert any(k not in same for k in known.router.state_dict() if k.startswith("second."))
