"""The second look: it starts as the first, is what its changes make of it, and settles the last step only."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from unires.compose.report import Judgement, Report
from unires.compose.router import Router, RouterConfig
from unires.compose.second import SCALED, SecondLook
from unires.degrade.isolated import TASKS

PLAN = (("keep", "denoise"), ("keep@relay", "super-resolution@relay", "defocus-deblur@relay"))


@pytest.fixture
def report() -> Report:
    torch.manual_seed(2)
    return Report(len(TASKS), 16).eval().requires_grad_(False)


def stirred(second: SecondLook) -> SecondLook:
    torch.manual_seed(3)
    for parameter in second.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return second.requires_grad_(False)


def test_untrained_it_reads_and_says_what_the_report_does(report: Report, photo: Any) -> None:
    second = SecondLook(report)
    before = report(report.see(photo))
    after = second.reader(report)(report.see(photo))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    cleaned = Judgement(*(v + 1 for v in before))
    assert all(torch.equal(a, b) for a, b in zip(before, second.settle(before, cleaned), strict=True))


def test_a_scaled_and_shifted_kernel_is_a_scaled_and_shifted_channel(report: Report) -> None:
    second = stirred(SecondLook(report))
    scale, shift = second.scaled[SCALED.index("eye.mix.1")]
    x = torch.rand(2, report.eye.mix[1].in_channels, 9, 7)
    one = report.eye.mix[1](x) * (1 + scale).view(-1, 1, 1) + shift.view(-1, 1, 1)
    torch.testing.assert_close(second.reader(report).eye.mix[1](x), one, atol=1e-5, rtol=0)


def test_after_it_only_the_last_step_is_another(photo: Any) -> None:
    torch.manual_seed(5)
    router = Router(RouterConfig(TASKS, (PLAN,), 16, 8)).eval().requires_grad_(False)
    for weigh in router.weigh:
        torch.nn.init.normal_(weigh.leave.weight, std=0.6)
        weigh.leave.bias.copy_(torch.linspace(0, 1, len(weigh.leave.bias)))
    router.report.whole[4].bias[: len(TASKS)] = 3.0  # every degradation is there
    reading = router.read(photo)
    assert reading.cleaning == 1 and reading.weights.steps == 2
    same = router.look_again(reading, photo)
    assert torch.equal(same.weights.values, reading.weights.values) and torch.equal(same.present, reading.present)
    assert same.cleaning == 0  # there is no third look
    router.second.both[2].bias[TASKS.index("super-resolution")] = -9.0  # on the second look it isn't there
    after = router.look_again(reading, photo)
    assert reading.found and "super-resolution" in reading.found and "super-resolution" not in after.found
    assert str(after.weights).split(";")[0] == str(reading.weights).split(";")[0]
    used = {str(after.weights.experts[i]) for i in after.weights.active(1)}
    assert "super-resolution@relay" not in used and "super-resolution" not in after.told
    assert after.others == reading.others


def test_where_nothing_is_cleaned_or_composed_there_is_no_second_look(photo: Any) -> None:
    router = Router(RouterConfig(TASKS, (PLAN,), 16, 8)).eval().requires_grad_(False)
    router.report.whole[4].bias[: len(TASKS)] = 3.0
    assert router.read(photo).cleaning == 0  # untrained, the first step keeps
    router.weigh[0].leave.bias.copy_(torch.tensor([0.0, 1.0]))
    assert router.read(photo).cleaning == 1
    router.report.whole[4].bias[: len(TASKS)] = -9.0
    router.report.whole[4].bias[TASKS.index("denoise")] = 9.0  # the right expert does it alone
    reading = router.read(photo)
    assert str(reading.weights) == "denoise=1" and reading.cleaning == 0
