"""The training objective: unit-scale regression of the clean sample (docs/method.md)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unires.compose.grid import Grid
from unires.denoise.compact import TASKS, CompactNet
from unires.denoise.schedule import alpha_sigma
from unires.train.kept import kept


class Uncertainty(nn.Module):
    """Expected log loss of a sample, from what makes it easy or hard; used in training only.

    Dividing each sample's loss by its expected value keeps every task, severity and noise level at the same
    weight (Karras et al. 2024, "Analyzing and improving the training dynamics of diffusion models", eq. 19 f.)."""

    def __init__(self, tasks: int = len(TASKS)) -> None:
        super().__init__()
        self.tasks = tasks
        self.inner = nn.Linear(tasks + 6, 64)
        self.outer = nn.Linear(64, 1)
        nn.init.zeros_(self.outer.weight)
        nn.init.constant_(self.outer.bias, -1.0)

    def forward(self, t: Tensor, task: Tensor, severity: Tensor, has_condition: Tensor, relayed: Tensor) -> Tensor:
        """All inputs B; relayed: severity of what another expert has cleaned before, 0: nothing. Returns B."""
        kind = torch.nn.functional.one_hot(task, self.tasks).to(t)
        seen = has_condition.to(t)
        x = torch.cat((kind, torch.stack((t, t * t, severity, severity**2, seen, relayed), dim=1)), dim=1)
        out: Tensor = self.outer(torch.nn.functional.silu(self.inner(x)))
        return out.squeeze(1)


def loss(
    net: CompactNet,
    uncertainty: Uncertainty,
    clean: Tensor,
    degraded: Tensor,
    task: Tensor,
    severity: Tensor,
    angle: Tensor,
    generator: torch.Generator,
    *,
    first_step_share: float = 0.5,
    task_dropout: float | Tensor = 0.1,
    relayed: Tensor | None = None,
    condition_dropout: float = 0.1,
    severity_dropout: float = 0.5,
    severity_jitter: float | Tensor = 0.0,
    angle_jitter: float = 0.0,
    angle_dropout: float | Tensor = 0.1,
    grids: Sequence[Grid | None] = (),
) -> tuple[Tensor, Tensor]:
    """(p_z + p_c) |x_hat - x|^2, divided by its expectation; a share of the samples is at t = 1.

    clean, degraded: B x 3 x H x W in [-1, 1]; task: B indices into the network's tasks; severity (negative: unknown),
    angle: B;
    task_dropout, severity_jitter, angle_dropout: for all, or B; relayed: see Uncertainty (None: nothing was cleaned);
    grids: of each sample what it was enlarged from, which its estimate is kept to before it is judged.
    Returns the mean loss and the plain squared error of each sample."""
    count, device = clean.shape[0], clean.device
    u = torch.rand(6, count, generator=generator, device=device)
    t = torch.where(u[0] < first_step_share, torch.ones_like(u[1]), 0.01 + 0.99 * u[1])
    has_condition = (u[2] >= condition_dropout) | (u[0] < first_step_share)  # nothing to go by but the condition
    told = torch.where(u[3] < task_dropout, 0, task)
    off = torch.randn(2, count, generator=generator, device=device)
    read = (severity + severity_jitter * off[0]).clamp(0, 1)
    turned = torch.where(u[5] < angle_dropout, math.nan, angle + angle_jitter * off[1])
    # nobody tells the blind expert, nor of photos that nobody has degraded
    untold = (u[4] < severity_dropout) | (told == 0) | (severity < 0)
    hint = torch.where(untold, torch.full_like(severity, -1), read)
    alpha, sigma = (v.view(-1, 1, 1, 1) for v in alpha_sigma(t))
    noise = torch.randn(clean.shape, generator=generator, device=device)
    z = alpha * clean + sigma * noise
    condition = torch.where(has_condition.view(-1, 1, 1, 1), degraded, torch.zeros_like(degraded))
    estimate = net(z, t, condition, told, hint, has_condition, turned)
    if any(grids):
        where = torch.tensor([i for i, grid in enumerate(grids) if grid]).to(device)
        with torch.autocast(device.type, enabled=False):  # what is kept to is exact to float32
            estimate = estimate.float()
            closer = kept(estimate[where], condition[where], [grid for grid in grids if grid])
        expert = (has_condition & (told == task))[where]  # the blind one is never kept to anything
        closer = torch.where(expert.view(-1, 1, 1, 1), closer, estimate[where])
        estimate = estimate.index_copy(0, where, closer)
    error = (estimate - clean).square().mean(dim=(1, 2, 3))
    unit = net.total_precision(t, told, has_condition) * error
    cleaned = torch.zeros_like(severity) if relayed is None else relayed
    expected = uncertainty(t, task, severity.clamp(min=0), has_condition, cleaned)
    return (unit * torch.exp(-expected) + expected).mean(), error.detach()
