"""Pairs that another expert has cleaned: what is asked of whom, and what comes out."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from unires.degrade import isolated, operators
from unires.denoise.compact import TASKS
from unires.train import relay


class Asked(torch.nn.Module):
    """In the network's place: remembers, and answers with mid-grey."""

    def __init__(self) -> None:
        super().__init__()
        self.anywhere = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[torch.Tensor, ...]] = []

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        self.seen.append(inputs)
        return torch.zeros_like(inputs[2])


def pairs(task: str, count: int = 24, **options: float) -> tuple[Asked, isolated.Degraded, torch.Tensor]:
    net, g = Asked(), torch.Generator().manual_seed(3)
    x = torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    answer: Any = net
    bad, cleaned = relay.pairs(answer, x, {task: count}, g, g, **options)
    return net, bad, cleaned


@pytest.mark.parametrize("task", relay.AFTER)
def test_what_comes_after_a_task_is_cleaned_before_it(task: str) -> None:
    net, bad, cleaned = pairs(task)
    asked = {TASKS[int(i)] for inputs in net.seen for i in inputs[3]}
    assert asked == {name for names in relay.AFTER[task] for name in names}
    told = torch.cat([inputs[4] for inputs in net.seen])
    assert set(cleaned.tolist()) <= set(told.tolist()) and float(cleaned.min()) > 0
    assert all((inputs[1] == 1).all() and inputs[5].all() for inputs in net.seen)  # t = 1, with a condition

    # severity and direction stay the task's own: the same draw gives them without what comes after
    g = torch.Generator().manual_seed(3)
    x = torch.rand(24, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    if task in relay.BEFORE:
        x = operators.round8(isolated.DEGRADE["denoise"](x, isolated.Draw(24, g, g)).pixels)
    own = isolated.DEGRADE[task](x, isolated.Draw(24, g, g))
    assert torch.equal(own.severity, bad.severity)
    torch.testing.assert_close(own.angle, bad.angle, equal_nan=True)


def test_noise_is_cleaned_before_blocks_and_blocks_of_what_that_left() -> None:
    net, _, cleaned = pairs("motion-deblur")
    noisy, blocky = net.seen
    assert (noisy[3] == TASKS.index("denoise")).all() and (blocky[3] == TASKS.index("dejpeg")).all()
    left = (blocky[2] == 0).flatten(1).all(dim=1)  # the answer to noise was mid-grey
    assert 0 < int(left.sum()) < len(left)
    assert len(noisy[3]) + len(blocky[3]) == len(cleaned) + int(left.sum())


def test_a_file_is_compressed_with_its_noise_which_is_cleaned_first() -> None:
    net, bad, cleaned = pairs("dejpeg", jitter=0.0)
    ((_, _, condition, task, told, *_),) = net.seen
    assert (task == TASKS.index("denoise")).all() and torch.equal(told, cleaned)
    g = torch.Generator().manual_seed(3)
    x = torch.rand(24, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    noisy = isolated.DEGRADE["denoise"](x, isolated.Draw(24, g, g))
    assert torch.equal(noisy.severity, cleaned)
    file = isolated.DEGRADE["dejpeg"](operators.round8(noisy.pixels), isolated.Draw(24, g, g))
    torch.testing.assert_close((condition + 1) / 2, file.pixels)
    assert torch.equal(file.severity, bad.severity)


def test_most_of_the_cleaning_experts_change_is_taken() -> None:
    net, bad, _ = pairs("denoise")  # only JPEG comes after it, so that samples keep their order
    ((_, _, condition, *_),) = net.seen
    lq = (condition + 1) / 2
    levels = lq * 255
    assert float((levels - levels.round()).abs().max()) < 1e-3  # the expert reads a file
    share = (bad.pixels - lq) / (0.5 - lq)
    share = share[(lq - 0.5).abs() > 0.2]
    assert float(share.min()) > relay.LEAST - 1e-3 and float(share.max()) < 1 + 1e-3
    assert float(share.std()) > 0.02


def test_the_cleaning_expert_is_told_with_an_error() -> None:
    net, _, cleaned = pairs("denoise", count=400, jitter=0.03)
    told = net.seen[0][4]
    inside = (cleaned > 0.15) & (cleaned < 0.85)
    assert float((told - cleaned)[inside].std()) == pytest.approx(0.03, rel=0.2)
    assert float(told.min()) >= 0 and float(told.max()) <= 1
