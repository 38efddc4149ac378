"""Training inside equation (3): of photos to be enlarged a share is kept to what it was made from before it counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from unires.compose.consistency import consistent
from unires.compose.grid import Axis, Grid
from unires.degrade import resample
from unires.denoise.compact import TASKS, CompactConfig, CompactNet
from unires.train import objective
from unires.train.config import TrainConfig
from unires.train.kept import kept
from unires.train.loop import Trainer


@pytest.fixture
def config(photos: Path, tmp_path: Path) -> TrainConfig:
    tiny = CompactConfig(widths=(8, 8), down=(1, 1), up=(1,), wide_from=1, embedding=16)
    tasks = {"super-resolution": 3.0, "denoise": 1.0}
    return TrainConfig(clean=(str(photos),), run=str(tmp_path / "run"), crop=32, margin=8, model=tiny, tasks=tasks)


def unexplained(pixels: torch.Tensor, axis: Axis) -> float:
    """Root of the mean square of what an axis' small pixels don't explain of the lines across it."""
    _, matrix = resample.weights(axis.small, axis.large, "bicubic", axis.start, axis.start + pixels.shape[-2])
    basis = torch.linalg.qr(matrix).Q
    return float((pixels - basis @ (basis.T @ pixels)).square().mean().sqrt())


def test_the_grids_are_what_samples_were_enlarged_from(config: TrainConfig) -> None:
    batch = Trainer(replace(config, batch=60, kept_share=1.0), lambda line: None).batch(0)
    reduced = (batch.task == TASKS.index("super-resolution")) & (batch.severity > 0)
    assert [grid is not None for grid in batch.grids] == reduced.tolist() and 30 < int(reduced.sum()) < 60
    ahead = []
    for pixels, grid in zip(batch.degraded, batch.grids, strict=True):
        if grid is not None and grid.scale > 2:
            rows, columns = grid[:2]
            assert rows.large == columns.large == 48 and 0 <= rows.start <= 16
            shifted = rows._replace(start=(rows.start + 1) % 17), rows._replace(small=rows.small - 2)
            right = unexplained(pixels, rows) + unexplained(pixels.mT, columns)
            ahead += [right < 2 * unexplained(pixels, axis) for axis in shifted]
    assert len(ahead) > 20 and sum(ahead) >= 0.95 * len(ahead)


def test_a_share_of_them(config: TrainConfig) -> None:
    trainer = Trainer(replace(config, batch=300, kept_share=0.4), lambda line: None)
    share = sum(grid is not None for grid in trainer.batch(0).grids) / 300
    assert share == pytest.approx(0.4 * 0.75, abs=0.07)
    assert not any(Trainer(replace(config, batch=9, run=config.run + "2"), lambda line: None).batch(0).grids)


def test_many_at_once_are_kept_as_each_alone() -> None:
    scales, kernels = (2.0, 2.05, 3.0, 4.5, 1.3, 2.4), (2, 0, 3, 2, 1, 3)
    clean = torch.rand(6, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    reduced = resample.there_and_back(clean, torch.tensor(scales), torch.tensor(kernels), lambda x: x)
    condition = reduced[..., 5:37, 13:45]
    estimate = (condition + 0.1 * clean[..., 5:37, 13:45]).requires_grad_()
    sizes = [resample.reduced_size(48, 48, scale)[0] for scale in scales]
    grids = [Grid(Axis(size, 48, 5), Axis(size, 48, 13)) for size in sizes]
    one_by_one = zip(estimate.split(1), condition.split(1), grids, strict=True)
    alone = torch.cat([consistent(x, c, grid) for x, c, grid in one_by_one])
    together = kept(estimate, condition, grids)
    assert float((alone - estimate).detach().abs().amax(dim=(1, 2, 3)).min()) > 0.01
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-6)
    gradients = (torch.autograd.grad(x.square().sum(), estimate)[0] for x in (together, alone))
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-5)


def test_what_counts_is_the_estimate_that_was_kept() -> None:
    """And only where an expert sees the photo at all."""
    net = CompactNet(CompactConfig(widths=(8, 8), down=(1, 1), up=(1,), wide_from=1, embedding=16))
    clean = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    degraded = resample.resize(resample.resize(clean, (16, 16)), (32, 32))
    task, angle = torch.full((2,), TASKS.index("super-resolution")), torch.full((2,), torch.nan)
    grid = Grid(Axis(16, 32), Axis(16, 32))

    def errors(*grids: Grid | None, seen: bool = True, blind: bool = False) -> torch.Tensor:
        _, error = objective.loss(
            net, objective.Uncertainty(), clean, degraded, task, torch.full((2,), 0.5), angle,
            torch.Generator().manual_seed(1), first_step_share=float(seen), condition_dropout=float(not seen),
            task_dropout=float(blind), grids=grids,
        )  # fmt: skip
        return error

    estimate = degraded  # of a network that has learnt nothing, at t = 1
    closer = consistent(estimate, degraded, grid)
    plain, one = errors(), errors(grid, None)
    torch.testing.assert_close(plain, (estimate - clean).square().mean(dim=(1, 2, 3)), rtol=1e-4, atol=0)
    torch.testing.assert_close(one[0], (closer - clean).square().mean(dim=(1, 2, 3))[0], rtol=1e-4, atol=0)
    assert one[1] == plain[1] and one[0] < 0.97 * plain[0]
    assert torch.equal(errors(grid, grid, seen=False), errors(seen=False))
    assert torch.equal(errors(grid, grid, blind=True), errors(blind=True))
