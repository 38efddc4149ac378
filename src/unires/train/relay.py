"""Pairs for experts that work on what another has cleaned (`motion-deblur@relay`).

An expert that was trained on its own degradation alone has never seen what is left of noise or of JPEG's blocks once
they have been taken out: smooth traces that deblurring amplifies. Here a photo gets the task's own degradation, then
noise, JPEG or both, as behind a lens, and the experts for these clean it in that order, told how strong they were. What
comes out is the condition; the clean photo stays the target. (Of JPEG and noise, noise is there first, and taken out
first all the same.) Experts remain experts: none is asked to undo two degradations."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from unires.degrade import isolated, operators
from unires.denoise.compact import TASKS, CompactNet

BLURRED = (("denoise",), ("dejpeg",), ("denoise", "dejpeg"))
AFTER = {  # what a photo meets after a task's own degradation, and experts take out, in this order, before the task's
    "super-resolution": BLURRED,
    "motion-deblur": BLURRED,
    "defocus-deblur": BLURRED,
    "denoise": (("dejpeg",),),
    "dejpeg": (("denoise",),),
}
BEFORE = ("dejpeg",)  # of these the photo meets noise before: a file is compressed with it
LEAST = 0.8  # of what the expert would change: composed estimates leave some as it is


@torch.no_grad()
def pairs(
    net: CompactNet, x: Tensor, counts: Mapping[str, int], host: torch.Generator, device: torch.Generator, *,
    kind: torch.dtype = torch.float32, jitter: float = 0.0,
) -> tuple[isolated.Degraded, Tensor]:
    """Clean pixels x, B x 3 x H x W in [0, 1], degraded for their tasks (`counts`: a key of AFTER, how many, one task
    after the other), degraded again, and cleaned by `net`, which computes in `kind`; severity and angle are the task's.
    Also, B, the severity of what was cleaned, the larger of two. jitter: deviation of the severity that the cleaning
    experts are told. H and W: multiples of the network's."""
    own, after, before = [], list[tuple[str, ...]](), torch.zeros(len(x))
    for (task, count), part in zip(counts.items(), torch.split(x, list(counts.values())), strict=True):
        if task in BEFORE:
            noisy = isolated.DEGRADE["denoise"](part, isolated.Draw(count, host, device))
            part, before[len(after) : len(after) + count] = operators.round8(noisy.pixels), noisy.severity
        own.append(isolated.DEGRADE[task](part, isolated.Draw(count, host, device)))
        after += [AFTER[task][i] for i in torch.randint(0, len(AFTER[task]), (count,), generator=host).tolist()]
    pixels, severity, angle = (torch.cat(v) for v in zip(*own, strict=True))
    covers = {name: torch.tensor([name in names for names in after]) for name in ("denoise", "dejpeg")}
    covers = {name: here for name, here in covers.items() if here.any()}
    lq, harms = pixels.clone(), torch.zeros(len(covers), len(x))
    for harm, (name, here) in zip(harms, covers.items(), strict=True):
        harm[here] = before[here]
        late = here & (before == 0)
        if late.any():
            both = isolated.DEGRADE[name](lq[late], isolated.Draw(int(late.sum()), host, device))
            lq[late], harm[late] = operators.round8(both.pixels), both.severity
    told = (harms + jitter * torch.randn(harms.shape, generator=host)).clamp(0, 1)
    estimate = lq.clone()
    for known, (name, here) in zip(told, covers.items(), strict=True):
        asked = torch.full((int(here.sum()),), TASKS.index(name))
        bad = isolated.Degraded(estimate[here], known[here], torch.full((len(asked),), math.nan))
        estimate[here] = expert(net, bad, asked, kind).to(lq).clamp(0, 1)
    taken = isolated.Draw(len(x), host, device).uniform(LEAST, 1).view(-1, 1, 1, 1).to(lq)
    return isolated.Degraded(lq.lerp(estimate, taken), severity, angle), harms.amax(dim=0)


def expert(net: CompactNet, bad: isolated.Degraded, task: Tensor, kind: torch.dtype = torch.float32) -> Tensor:
    """One step of the tasks' experts (B indices into TASKS), told how bad it is, on the network's device: B x 3 x H x W
    in [0, 1], neither clipped nor rounded."""
    device = next(net.parameters()).device
    lq, severity, angle, index = (v.to(device) for v in (*bad, task))
    one = torch.ones(len(lq), device=device)
    with torch.autocast(device.type, kind, enabled=kind != torch.float32):
        x: Tensor = net(torch.zeros_like(lq), one, lq * 2 - 1, index, severity, one.bool(), angle)
    return (x.float() + 1) / 2
