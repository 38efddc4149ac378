"""A trained network in another shape says the same where nothing that matters was taken away."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from unires.denoise.checkpoint import save_net
from unires.denoise.compact import TASKS, CompactConfig, CompactNet
from unires.errors import UniresError
from unires.train.config import TrainConfig
from unires.train.loop import Trainer
from unires.train.reshape import blocks, reshaped

SHAPE: dict[str, Any] = {"widths": (8, 12), "down": (1, 2), "up": (1,), "wide_from": 1, "embedding": 16}


def everything(batch: int = 6) -> tuple[torch.Tensor, ...]:
    """What a network takes, of all tasks."""
    z, c = torch.randn(2, batch, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    t, severity, angle = torch.linspace(0.1, 1, batch), torch.linspace(0.2, 1, batch), torch.zeros(batch)
    return z, t, c.clamp(-1, 1), torch.arange(batch) % len(TASKS), severity, torch.ones(batch).bool(), angle


def look(net: CompactNet) -> None:
    net(*everything())


def test_channels_that_say_nothing_are_dropped_first(tiny_net: Any) -> None:
    net = tiny_net(**SHAPE)
    silent = {1: [0, 3, 7, 11], 2: [1, 2, 9, 10]}  # of the two blocks of the lower level
    for i, (_, block) in enumerate(blocks(net)):
        with torch.no_grad():
            block.b.weight[:, silent.get(i, [])] = 0
    narrow = reshaped(net, replace(net.config, inside=(8, 8)), look)
    assert narrow.down[1][0].a.out_channels == 8 and narrow.modulate.out_features == 2 * (8 + 8 + 8 + 8)
    torch.testing.assert_close(narrow(*everything()), net(*everything()))
    narrower = reshaped(net, replace(net.config, inside=(8, 7)), look)
    assert (narrower(*everything()) - net(*everything())).abs().max() > 1e-3


def test_a_surface_starts_as_the_shared_one_or_stays(tiny_net: Any) -> None:
    net = tiny_net(**SHAPE)
    own = reshaped(net, replace(net.config, own=("denoise",)), look)
    torch.testing.assert_close(own(*everything()), net(*everything()))
    with torch.no_grad():
        for p in own.own["denoise"].parameters():
            p += 0.1
    more = reshaped(own, replace(net.config, own=("dejpeg", "denoise")), look)
    torch.testing.assert_close(more(*everything()), own(*everything()))
    with pytest.raises(UniresError, match="differs from the configuration"):
        reshaped(own, replace(net.config, own=("dejpeg",)), look)


def test_added_tasks_keep_their_modulation(tiny_net: Any) -> None:
    tasks, precision = (*TASKS, "haze"), (*CompactConfig().precision, 20.0)
    net = tiny_net(**SHAPE, tasks=tasks, precision=precision)
    with torch.no_grad():
        net.added[0].normal_()
    narrow = reshaped(net, replace(net.config, inside=(8, 11)), look)
    assert narrow.added[0].shape == (2 * (8 + 11 + 11 + 8),)
    assert set(narrow.added[0].tolist()) < set(net.added[0].tolist())


def test_what_modulates_little_is_left_out(tiny_net: Any) -> None:
    net = tiny_net(**SHAPE, tasks=(*TASKS, "haze"), precision=(*CompactConfig().precision, 20.0))
    with torch.no_grad():
        net.added[0].normal_(std=0.1)
    before = net(*everything())
    same, small, tiny = (reshaped(net, replace(net.config, rank=rank), look) for rank in (16, 8, 1))
    torch.testing.assert_close(same(*everything()), before, atol=1e-4, rtol=1e-4)
    far = [float((other(*everything()) - before).square().mean().detach()) for other in (small, tiny)]
    assert far[0] < far[1] / 4
    both = reshaped(net, replace(net.config, rank=8, inside=(8, 11)), look)
    assert both.modulate.weight.shape == (2 * (8 + 11 + 11 + 8), 8)
    with pytest.raises(UniresError, match="differs from the configuration"):
        reshaped(small, replace(net.config, rank=4), look)


@pytest.mark.parametrize("changes", [{"down": (1, 1)}, {"embedding": 24}, {"inside": (8, 13)}, {"inside": (7, 12)}])
def test_nothing_else_can_be_changed(tiny_net: Any, changes: dict[str, Any]) -> None:
    net = tiny_net(**SHAPE)
    with pytest.raises(UniresError, match="differs from the configuration"):
        reshaped(net, replace(net.config, **changes), look)


def test_a_run_that_trains_surfaces_only(photos: Path, tmp_path: Path, tiny_net: Any) -> None:
    save_net(tiny_net(**SHAPE), tmp_path / "start", torch.float32)
    model = CompactConfig(**SHAPE, inside=(8, 9), own=("denoise", "dejpeg"))
    config = TrainConfig(
        clean=(str(photos),), run=str(tmp_path / "run"), start_from=str(tmp_path / "start"), model=model,
        surfaces_only=True, tasks={"denoise": 1.0, "motion-deblur": 1.0}, task_dropout=0.0, crop=32, margin=8, batch=4,
        steps=3, warmup=1,
    )  # fmt: skip
    trainer = Trainer(config, lambda line: None)
    before = {k: v.clone() for k, v in trainer.net.state_dict().items()}
    trainer.run()
    after = trainer.net.state_dict()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed and all(k.startswith("own.denoise.") for k in changed)
