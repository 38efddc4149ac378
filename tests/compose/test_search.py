"""Weights by search: the paper's grid, its winners, and climbing a quality function."""

from __future__ import annotations

import pytest
import torch

from unires.compose import quality, search
from unires.compose.router import Router, RouterConfig
from unires.degrade.isolated import TASKS
from unires.train.router import PLANS


def test_the_grid_is_the_papers() -> None:
    rows = search.grid()
    assert rows.shape == (1512, 6) and len(set(map(tuple, rows.tolist()))) == 1512
    torch.testing.assert_close(rows.sum(dim=1), torch.ones(1512))
    assert int((rows < 0).sum(dim=1).max()) == 1
    assert float(rows.min()) == pytest.approx(-0.2) and float(rows.max()) == pytest.approx(1.2)


def parts() -> tuple[torch.Tensor, torch.Tensor]:
    """Three predictions, and the mixture of them that a quality function wants."""
    predictions = torch.rand(3, 3, 20, 24, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.2
    return predictions, torch.tensor([0.6, -0.2, 0.6])


def nearness(wanted: torch.Tensor, predictions: torch.Tensor) -> quality.Quality:
    target = torch.einsum("k,kchw->chw", wanted, predictions)
    return lambda x: -(x - target).square().mean(dim=(1, 2, 3))


def test_the_best_candidate_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    predictions, wanted = parts()
    candidates, judge = search.grid(3), nearness(wanted, predictions)
    torch.testing.assert_close(search.best_of(predictions, candidates, judge), wanted)
    together = search.judged(predictions, candidates, judge)
    monkeypatch.setattr(search, "AT_ONCE", 1)
    torch.testing.assert_close(search.judged(predictions, candidates, judge), together)


def test_what_wins_most_often_is_kept() -> None:
    a, b, c = torch.tensor([1.0, 0.0]), torch.tensor([0.2, 0.8]), torch.tensor([1.2, -0.2])
    torch.testing.assert_close(search.most_frequent([a, b, c, b, c, b], 2), torch.stack((b, c)))


def test_climbing_reaches_weights_between_the_grids() -> None:
    predictions, _ = parts()
    wanted = torch.tensor([0.93, -0.41, 0.48])
    judge = nearness(wanted, predictions)
    found = search.optimised(predictions, judge, torch.tensor([1.0, 0.0, 0.0]), rounds=300)
    torch.testing.assert_close(found, wanted, atol=0.03, rtol=0)
    assert float(found.sum()) == pytest.approx(1)


def test_the_routers_quality_can_be_climbed() -> None:
    torch.manual_seed(0)
    router = Router(RouterConfig(TASKS, PLANS, 16, 8)).eval().requires_grad_(False)
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    said = quality.remaining_harm(router)(x)
    assert said.shape == (2,)
    (slope,) = torch.autograd.grad(said.sum(), x)
    assert float(slope.abs().max()) > 0
