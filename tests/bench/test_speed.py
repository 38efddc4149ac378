"""Speed: what is counted is what is there, ratios are taken in one run, and the profile adds up."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from unires.bench import profile, speed
from unires.bench.methods import Ours


def test_multiply_adds_in_closed_form() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 5, padding=2, groups=8), nn.Flatten(),
                        nn.Linear(8 * 10 * 12, 5))
    x = torch.zeros(2, 3, 10, 12)
    expected = 2 * (10 * 12 * 8 * 27 + 10 * 12 * 8 * 25 + 8 * 10 * 12 * 5)
    assert speed.multiply_adds(lambda: net(x)) == expected


def test_the_reference_is_the_one_of_the_design() -> None:
    run, adds = speed.reference("cpu")
    assert adds == pytest.approx(2.4e9, rel=0.01)
    out = run()
    assert isinstance(out, torch.Tensor) and out.shape == (1, 64, 256, 256) and out.dtype == torch.bfloat16
    exact = speed.reference("cpu", torch.float32)[0]()  # where bf16 is slow, the network computes in float32
    assert isinstance(exact, torch.Tensor) and exact.dtype == torch.float32


def test_jobs_take_turns() -> None:
    order: list[str] = []

    def job(name: str, seconds: float) -> object:
        order.append(name)
        time.sleep(seconds)
        return None

    found = speed.interleaved([lambda: job("a", 0.002), lambda: job("b", 0.02)], "cpu", 0, 3)
    assert order == ["a", "b"] * 4
    assert found[1] / found[0] > 2


def test_figures_and_history(model: str, tmp_path: Path) -> None:
    ours = Ours(model, "cpu")
    figures = speed.measure(ours.restorer, seconds=0, least=1, large=False)
    names = [f.name for f in figures]
    told = "one pass that is told the noise, 512 x 512"
    assert names[:3] == ["reference convolution", "one pass, 512 x 512", told]
    assert "composed step of 8 experts, 512 x 512" in names
    by_name = {f.name: f for f in figures}
    assert by_name[told].multiply_adds > by_name["one pass, 512 x 512"].multiply_adds
    eight = by_name["composed step of 8 experts, 512 x 512"]
    assert eight.multiply_adds == 8 * by_name["one pass, 512 x 512"].multiply_adds
    facts = speed.machine(ours.restorer, ours.version)
    text = speed.table(figures, facts).text()
    assert "share of its rate" in text and facts["commit"] in text
    for _ in range(2):
        speed.remember(tmp_path / "speed.jsonl", figures, facts)
    lines = (tmp_path / "speed.jsonl").read_text().splitlines()
    assert len(lines) == 2 and json.loads(lines[0])["figures"][1]["name"] == "one pass, 512 x 512"


def test_phases_of_a_cold_start(model: str) -> None:
    spent = profile.measure(model, "cpu", rounds=1)
    absent = {"self-test of number types", "see what is wrong"}  # in float32, and without a router
    assert all(spent[p] > 0 for p in profile.PHASES[:-1] if p not in absent)
    assert sum(spent[p] for p in profile.PHASES) == pytest.approx(spent["total"], rel=0.02)
    table = profile.table(spent, {"commit": "abc"})
    assert [r[0] for r in table.rows][:-2] == list(profile.PHASES)
