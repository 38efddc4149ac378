"""Pairs for experts that work on what another has cleaned (`motion-deblur@relay`).

An expert that was trained on its own degradation alone has never seen what is left of noise or of JPEG's blocks once
they have been taken out: smooth traces that deblurring amplifies. Here a photo gets the task's own degradation, then
noise or JPEG, as behind a lens, and the expert for that cleans it, told how strong it was. What comes out is the
condition; the clean photo stays the target. Experts remain experts: none is asked to undo two degradations."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from unires.degrade import isolated, operators
from unires.denoise.compact import TASKS, CompactNet

AFTER = {  # what a photo meets after a task's own degradation, and an expert takes out before the task's
    "super-resolution": ("denoise", "dejpeg"),
    "motion-deblur": ("denoise", "dejpeg"),
    "defocus-deblur": ("denoise", "dejpeg"),
    "denoise": ("dejpeg",),
}
LEAST = 0.8  # of what the expert would change: composed estimates leave some as it is


@torch.no_grad()
def pairs(
    net: CompactNet, x: Tensor, counts: Mapping[str, int], host: torch.Generator, device: torch.Generator, *,
    kind: torch.dtype = torch.float32, jitter: float = 0.0,
) -> tuple[isolated.Degraded, Tensor]:
    """Clean pixels x, B x 3 x H x W in [0, 1], degraded for their tasks (`counts`: a key of AFTER, how many, one task
    after the other), degraded again, and cleaned by `net`, which computes in `kind`; severity and angle are the task's.
    Also, B, the severity of what was cleaned. jitter: deviation of the severity that the cleaning expert is told.
    H and W: multiples of the network's."""
    own, after = [], []
    for (task, count), part in zip(counts.items(), torch.split(x, list(counts.values())), strict=True):
        own.append(isolated.DEGRADE[task](part, isolated.Draw(count, host, device)))
        picked = torch.randint(0, len(AFTER[task]), (count,), generator=host)
        after.append(torch.tensor([TASKS.index(name) for name in AFTER[task]])[picked])
    pixels, severity, angle = (torch.cat(v) for v in zip(*own, strict=True))
    kinds = torch.cat(after)
    lq, harm, undirected = torch.empty_like(pixels), torch.empty(len(x)), torch.full((len(x),), math.nan)
    for k in torch.unique(kinds).tolist():
        here = kinds == k
        both = isolated.DEGRADE[TASKS[k]](pixels[here], isolated.Draw(int(here.sum()), host, device))
        lq[here], harm[here] = operators.round8(both.pixels), both.severity
    told = (harm + jitter * torch.randn(len(x), generator=host)).clamp(0, 1)
    estimate = expert(net, isolated.Degraded(lq, told, undirected), kinds, kind).to(lq)
    taken = isolated.Draw(len(x), host, device).uniform(LEAST, 1).view(-1, 1, 1, 1).to(lq)
    return isolated.Degraded(lq.lerp(estimate.clamp(0, 1), taken), severity, angle), harm


def expert(net: CompactNet, bad: isolated.Degraded, task: Tensor, kind: torch.dtype = torch.float32) -> Tensor:
    """One step of the tasks' experts (B indices into TASKS), told how bad it is, on the network's device: B x 3 x H x W
    in [0, 1], neither clipped nor rounded."""
    device = next(net.parameters()).device
    lq, severity, angle, index = (v.to(device) for v in (*bad, task))
    one = torch.ones(len(lq), device=device)
    with torch.autocast(device.type, kind, enabled=kind != torch.float32):
        x: Tensor = net(torch.zeros_like(lq), one, lq * 2 - 1, index, severity, one.bool(), angle)
    return (x.float() + 1) / 2
