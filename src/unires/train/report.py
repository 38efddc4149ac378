"""Training the report: what is wrong with a photo, from random mixtures that are drawn afresh for each round."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unires.compose.report import Judgement, Report
from unires.compose.router import HARM_UNIT
from unires.compose.spectrum import CELL, spectra
from unires.denoise.number_type import has_bf16
from unires.train.ahead import ahead
from unires.train.optim import Muon
from unires.train.samples import Log, Samples

POOL = 16  # batches that are mixed where each sample is seen more than once
HELD, HELD_SAMPLES = 10**7, 512  # draws from this number on only tell how well the report generalises; how many


class Examples(NamedTuple):
    """Pixels, B x 3 x H x W; severity, harm and angle as `mixtures.Mixture` has them; and the share of each cell that
    is degraded, B x 1 x h x w."""

    pixels: Tensor
    severity: Tensor
    harm: Tensor
    angle: Tensor
    where: Tensor


def examples(samples: Samples, index: int) -> Examples:
    """The batch of this number."""
    _, mixture, where = samples.draw(index, samples.config.batch, samples.config.crop)
    truth = (mixture.severity, mixture.harm, mixture.angle, F.avg_pool2d(where, CELL))
    return Examples(mixture.degraded, *(v.to(samples.device) for v in truth))


def turned(batch: Examples, way: int) -> Examples:
    """The same photos mirrored and turned, in one of eight ways (0: as they are): degraded likewise."""
    left, down, across = way & 1, way >> 1 & 1, way >> 2
    angle = -batch.angle if left ^ down else batch.angle
    angle = (math.pi / 2 - angle if across else angle).remainder(math.pi)

    def turn(x: Tensor) -> Tensor:
        x = x.flip([d for d, yes in ((-1, left), (-2, down)) if yes])
        return x.mT.contiguous() if across else x

    return batch._replace(pixels=turn(batch.pixels), where=turn(batch.where), angle=angle)


def batches(samples: Samples) -> Iterator[Examples]:
    """New ones for ever; or, where samples are to be seen more than once, each time in other company and turned."""
    new = ahead(lambda index: examples(samples, index), 0, samples.device)
    views = samples.config.report_views
    if views == 1:
        yield from new
    generator = torch.Generator().manual_seed(samples.config.seed)
    while True:
        pool = Examples(*(torch.cat(v) for v in zip(*(next(new) for _ in range(POOL)), strict=True)))
        for _ in range(views):
            order = torch.randperm(len(pool.angle), generator=generator)
            for some in torch.split(order, samples.config.batch):
                way = int(torch.randint(8, (), generator=generator))
                chosen = (v[some.to(v.device)] for v in pool)
                yield turned(Examples(*chosen), way)


def misfit(judged: Judgement, severity: Tensor, harm: Tensor, angle: Tensor) -> Tensor:
    """Presence by cross-entropy; severity and harm by squared error, a motion's direction by its likelihood under a von
    Mises distribution, where they are there."""
    target = (severity >= 0).float()
    count = target.sum().clamp(min=1)
    strength = ((judged.severity - severity).square() * target).sum() / count
    change = ((judged.harm - harm / HARM_UNIT).square() * target).sum() / count
    moves = ~angle.isnan()
    turn, twice = judged.turn[moves], 2 * angle[moves]
    sure = turn.norm(dim=1)
    along = turn[:, 0] * twice.cos() + turn[:, 1] * twice.sin()
    direction = (torch.special.i0e(sure).log() + sure - along).sum() / moves.sum().clamp(min=1)
    presence = F.binary_cross_entropy_with_logits(judged.presence, target)
    total: Tensor = presence + 30 * strength + 0.5 * change + 0.1 * direction
    return total


def loss(report: Report, true: Examples) -> Tensor:
    """The whole photo's, and presence place by place."""
    judged = report(report.see(true.pixels))
    everywhere = (true.severity >= 0).float()[:, :, None, None] * true.where
    places = F.binary_cross_entropy_with_logits(judged.where, everywhere)
    return misfit(judged, true.severity, true.harm, true.angle) + 0.2 * places


def learn_report(report: Report, samples: Samples, log: Log) -> None:
    """For so many rounds or minutes as the samples' configuration says."""
    c, device = samples.config, samples.device
    test = [examples(samples, HELD + i) for i in range(math.ceil(HELD_SAMPLES / c.batch))]
    if not c.report_from:
        with torch.inference_mode():
            some = torch.cat([spectra(batch.pixels) for batch in test])
        deviation = some.std(dim=(0, 2, 3))
        report.mean.copy_(some.mean(dim=(0, 2, 3)))
        # of an empty bin of frequency it is zero: a small one would magnify what half precision takes from the mean
        report.deviation.copy_(torch.where(deviation < 1e-2, 1.0, deviation))
    parameters = [p.requires_grad_() for p in report.parameters()]
    kernels = [*report.eye.mix.parameters(), *report.eye.reduce.parameters()]
    hidden = {id(p) for p in kernels if p.dim() == 4}
    optimizers = [
        Muon([p for p in parameters if id(p) in hidden], lr=c.rate),
        torch.optim.AdamW([p for p in parameters if id(p) not in hidden], lr=c.rate, weight_decay=1e-2),
    ]
    fast = device.type == "cuda" or (device.type == "cpu" and has_bf16())
    started = time.monotonic()
    losses: list[Tensor] = []
    for round_, batch in enumerate(batches(samples)):
        seconds = time.monotonic() - started
        spent = seconds / (60 * c.report_minutes) if c.report_minutes else round_ / c.report_rounds
        if round_ % 500 == 0 or spent >= 1:
            mean = float(torch.stack(losses).mean()) if losses else math.nan
            pace = round_ * c.batch / max(seconds, 1e-9)
            log(f"report, round {round_}: loss {mean:.3f}, {pace:.0f} samples/s; held out: {score(report, test)}")
            losses.clear()
        if spent >= 1:
            break
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = c.rate * min(1.0, (round_ + 1) / 100, 1.3 * (1 - spent))
        report.train()
        with torch.autocast(device.type, torch.bfloat16, enabled=fast):
            value = loss(report, batch)
        torch.autograd.backward(value)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        report.eval()
        losses.append(value.detach())
    for p in parameters:
        p.requires_grad_(False)


@torch.inference_mode()
def score(report: Report, test: list[Examples]) -> str:
    """How well it generalises, in words."""
    judged = [report(report.see(batch.pixels)) for batch in test]
    said = Judgement(*(torch.cat(v) for v in zip(*judged, strict=True)))
    severity, harm, angle = (torch.cat(v) for v in list(zip(*test, strict=True))[1:4])
    there = severity >= 0
    right = ((said.presence > 0) == there).float().mean()
    worst = torch.where(said.presence > 0, said.harm, -math.inf).argmax(dim=1) == harm.argmax(dim=1)
    strongest = worst[there.any(dim=1)].float().mean()
    off = ((said.severity - severity).square() * there).sum(dim=0) / there.sum(dim=0)
    turned = torch.atan2(said.turn[:, 1], said.turn[:, 0]) / 2 - angle
    turned = ((turned + math.pi / 2).remainder(math.pi) - math.pi / 2).abs()[~angle.isnan()]
    median = math.degrees(turned.median()) if len(turned) else math.nan
    return (
        f"presence right {right:.1%}, strongest right {strongest:.1%}, severities off by "
        + ", ".join(f"{v:.3f}" for v in off.sqrt().tolist())
        + f", motions' direction by {median:.1f} degrees (the median)"
    )
