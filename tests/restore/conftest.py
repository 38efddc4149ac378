"""Restorers of small networks, without a router and with one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from unires.compose.router import Router, RouterConfig
from unires.degrade import isolated
from unires.denoise.compact_denoiser import CompactDenoiser
from unires.restore.restorer import Restorer


@pytest.fixture
def restorer(tiny: CompactDenoiser) -> Restorer:
    return Restorer(tiny)


@pytest.fixture
def routed(tiny: Any) -> Restorer:
    """A router that isn't trained, but whose weights differ from place to place."""
    torch.manual_seed(6)
    steps = ("blind", "denoise", "dejpeg"), ("keep@relay", "denoise@relay")
    router = Router(RouterConfig(isolated.TASKS, (steps,), 16, 8)).eval().requires_grad_(False)
    for weigh in router.weigh:
        torch.nn.init.normal_(weigh.leave.weight, std=0.6)
    router.report.local.bias[: len(isolated.TASKS)] = 3.0  # every degradation is there
    return Restorer(tiny, router=router)
