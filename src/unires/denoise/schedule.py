"""The noise schedule that all denoisers and solvers share: z_t = alpha_t x + sigma_t eps."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def alpha_sigma(t: Tensor) -> tuple[Tensor, Tensor]:
    """The cosine schedule (Nichol and Dhariwal 2021, without offset) at times t in [0, 1], any shape.

    alpha^2 + sigma^2 = 1, and alpha(1) = 0 exactly: zero terminal signal (Lin et al. 2023, "Common Diffusion
    Noise Schedules and Sample Steps are Flawed")."""
    angle = t * (math.pi / 2)
    return torch.where(t >= 1, torch.zeros_like(t), torch.cos(angle)), torch.sin(angle)
