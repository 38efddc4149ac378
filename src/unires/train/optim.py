"""Muon for convolutions (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks")."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer


def orthogonalise(gradient: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly: a quintic Newton-Schulz iteration.

    As every iterate is a polynomial in X X^T times X, the iteration runs on that small square matrix and meets
    the wide one twice only: five times fewer operations for a 3x3 convolution."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = gradient.shape[0] > gradient.shape[1]
    x = gradient.T if tall else gradient
    x = x / (x.norm() + 1e-7)
    gram = x @ x.T
    eye = torch.eye(len(gram), device=gram.device)
    product = eye
    for _ in range(steps):
        factor = a * eye + b * gram + c * gram @ gram
        product = factor @ product
        gram = factor @ gram @ factor
    x = product @ x
    return x.T if tall else x


class Muon(Optimizer):
    """Momentum whose update is orthogonalised; weights of more than two dimensions are seen as out x rest.

    The update's size per entry is matched to AdamW's (factor 0.2 sqrt(max side); Liu et al. 2025, "Muon is
    scalable for LLM training", eq. 4), so that one learning rate serves both."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(p)
                m = state["momentum"]
                m.lerp_(p.grad, 1 - group["momentum"])
                look_ahead = p.grad.lerp(m, group["momentum"])
                update = orthogonalise(look_ahead.flatten(1)).view_as(p)
                p.add_(update, alpha=-group["lr"] * 0.2 * max(p.shape[0], p[0].numel()) ** 0.5)
