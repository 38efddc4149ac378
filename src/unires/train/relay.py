"""Pairs for experts that work on what another has cleaned (`motion-deblur@relay`).

An expert that was trained on its own degradation alone has never seen what is left of noise or of JPEG's blocks once
they have been taken out: smooth traces that deblurring amplifies. Here a photo gets the task's own degradation, then
noise or JPEG, as behind a lens, and the expert for that cleans it, told how strong it was. What comes out is the
condition; the clean photo stays the target. Experts remain experts: none is asked to undo two degradations."""

from __future__ import annotations

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
    net: CompactNet, x: Tensor, task: str, host: torch.Generator, device: torch.Generator, *,
    kind: torch.dtype = torch.float32, jitter: float = 0.0,
) -> tuple[isolated.Degraded, Tensor]:
    """Clean pixels x, B x 3 x H x W in [0, 1], degraded for `task` (a key of AFTER), degraded again and cleaned by
    `net`, which computes in `kind`; severity and angle are the task's. Also, B, the severity of what was cleaned.
    jitter: deviation of the severity that the cleaning expert is told. H and W: multiples of the network's."""
    draw = isolated.Draw(len(x), host, device)
    own = isolated.DEGRADE[task](x, draw)
    cleaned, harm = torch.empty_like(own.pixels), torch.empty(len(x))
    kinds = torch.randint(0, len(AFTER[task]), (len(x),), generator=host)
    for k, after in enumerate(AFTER[task]):
        here = kinds == k
        count = int(here.sum())
        if not count:
            continue
        few = isolated.Draw(count, host, device)
        both = isolated.DEGRADE[after](own.pixels[here], few)
        lq = operators.round8(both.pixels)
        harm[here] = both.severity
        told = (both.severity + jitter * torch.randn(count, generator=host)).clamp(0, 1)
        estimate = expert(net, isolated.Degraded(lq, told, both.angle), after, kind).to(lq)
        cleaned[here] = lq.lerp(estimate.clamp(0, 1), few.uniform(LEAST, 1).view(-1, 1, 1, 1).to(lq))
    return isolated.Degraded(cleaned, own.severity, own.angle), harm


def expert(net: CompactNet, bad: isolated.Degraded, task: str, kind: torch.dtype = torch.float32) -> Tensor:
    """One step of the task's expert, told how bad it is, on the network's device: B x 3 x H x W in [0, 1], neither
    clipped nor rounded."""
    device = next(net.parameters()).device
    lq, severity, angle = (v.to(device) for v in bad)
    one = torch.ones(len(lq), device=device)
    index = torch.full((len(lq),), TASKS.index(task), device=device)
    with torch.autocast(device.type, kind, enabled=kind != torch.float32):
        x: Tensor = net(torch.zeros_like(lq), one, lq * 2 - 1, index, severity, one.bool(), angle)
    return (x.float() + 1) / 2
