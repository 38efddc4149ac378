"""Training the second look: from random mixtures, as the router's first steps leave them.

The report, the first steps' weights and the experts are there already and stay as they are."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from unires.compose.report import Judgement, Report
from unires.compose.router import Router
from unires.degrade.operators import round8
from unires.denoise.interface import Denoiser
from unires.denoise.number_type import has_bf16
from unires.sample.sampler import sample
from unires.train.config import RouterTraining
from unires.train.report import HELD, HELD_SAMPLES, Examples, examples, misfit, turned
from unires.train.samples import Log, Samples


class Cleaned(NamedTuple):
    """Samples as the first steps left them: in `now` their pixels, severity, harm, angle and where as in `Examples`;
    `before`: what the report says of the photo as it came."""

    now: Examples
    before: Judgement

    def some(self, which: Tensor) -> Cleaned:
        """Those of these numbers."""
        return Cleaned(Examples(*(v[which] for v in self.now)), Judgement(*(v[which] for v in self.before)))


class AtOnce(nn.Module):
    """A report that sees and judges in one call, as `functional_call` needs it."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        self.report = report

    def forward(self, pixels: Tensor) -> Judgement:
        judged: Judgement = self.report(self.report.see(pixels))
        return judged


@torch.inference_mode()
def cleaned(router: Router, denoiser: Denoiser, batch: Examples) -> Cleaned | None:
    """What the first steps make of a batch, of those samples that they clean at all; None where there are none. (Blurs
    are not looked at more closely first: that takes as long as an expert, and the first steps hardly heed it.)"""
    look = router.report.see(batch.pixels)
    judged: Judgement = router.report(look)
    plan = len(router.config.plans) - 1
    first = router.config.plans[plan][:-1]
    kept, parts = [], []
    for i in range(len(look)):
        known, told = router.known(judged.of(i), None)
        rows = router.rows(look[i : i + 1], known, plan, len(first))
        steps = router.cleaning(rows)
        if steps and router.lone(judged.of(i)) is None:
            out = sample(denoiser, batch.pixels[i : i + 1], router.weights(rows, first), steps=steps, hints=told)
            kept.append(i)
            parts.append(round8(out))
    if not kept:
        return None
    everything = Cleaned(batch, judged).some(torch.tensor(kept, device=look.device))
    return everything._replace(now=everything.now._replace(pixels=torch.cat(parts)))


def collect(draw: Callable[[int], Cleaned | None], count: int, log: Log) -> Cleaned:
    """At least so many examples from draws 0, 1, 2 ...; the pixels as bytes."""
    parts: list[Cleaned] = []
    found, index, started = 0, 0, time.monotonic()
    while found < count:
        part = draw(index)
        index += 1
        if part is None:
            continue
        found += len(part.now.angle)
        parts.append(part._replace(now=part.now._replace(pixels=(255 * part.now.pixels).round().byte())))
        if index % 50 == 0:
            log(f"second look: {found} samples cleaned, {found / (time.monotonic() - started):.1f} a second")
    now = Examples(*(torch.cat(v) for v in zip(*(p.now for p in parts), strict=True)))
    return Cleaned(now, Judgement(*(torch.cat(v) for v in zip(*(p.before for p in parts), strict=True))))


def batches(known: Cleaned, views: int, size: int, seed: int) -> Iterator[Cleaned]:
    """All examples so many times in new orders, each time turned or mirrored in one of eight ways."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(views):
        for which in torch.split(torch.randperm(len(known.now.angle), generator=generator), size):
            way = int(torch.randint(8, (), generator=generator))
            chosen = known.some(which)
            now = turned(chosen.now._replace(pixels=chosen.now.pixels / 255), way)
            yield Cleaned(now, chosen.before._replace(turn=_turned(chosen.before.turn, way)))


def learn_second_look(router: Router, denoiser: Denoiser, samples: Samples, log: Log) -> None:
    """From `second_samples` examples, each seen `second_views` times."""
    c: RouterTraining = samples.config

    def draw(first: int) -> Callable[[int], Cleaned | None]:
        return lambda index: cleaned(router, denoiser, examples(samples, first + index))

    test = collect(draw(HELD), HELD_SAMPLES, log)
    known = collect(draw(0), c.second_samples, log)
    learn(router, known, test, c, log)


def learn(router: Router, known: Cleaned, test: Cleaned, c: RouterTraining, log: Log) -> None:
    """From these examples."""
    second, at_once = router.second, AtOnce(router.report)
    if not bool(second.share.any()):
        second.share.data.fill_(0.5)
    parameters = [p.requires_grad_() for p in second.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=c.rate, weight_decay=1e-2)
    total = c.second_views * math.ceil(len(known.now.angle) / c.batch)
    device = known.now.angle.device
    fast = device.type == "cuda" or (device.type == "cpu" and has_bf16())
    losses: list[Tensor] = []
    for round_, batch in enumerate(batches(known, c.second_views, c.batch, c.seed)):
        if round_ % 500 == 0:
            mean = float(torch.stack(losses).mean()) if losses else math.nan
            log(f"second look, round {round_} of {total}: loss {mean:.3f}; held out: {score(router, test)}")
            losses.clear()
        for group in optimizer.param_groups:
            group["lr"] = c.rate * min((round_ + 1) / 100, 1 - round_ / total)
        changed = {f"report.{name}": value for name, value in second.changed(router.report).items()}
        router.report.train()  # drops some of what is seen
        with torch.autocast(device.type, torch.bfloat16, enabled=fast):
            seen = functional_call(at_once, changed, (batch.now.pixels,))
        router.report.eval()
        said = Judgement(*(v.float() for v in seen))
        value = misfit(second.settle(batch.before, said), batch.now.severity, batch.now.harm, batch.now.angle)
        torch.autograd.backward(value)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(value.detach())
    for p in parameters:
        p.requires_grad_(False)
    log(f"second look, after {total} rounds; held out: {score(router, test)}")


@torch.inference_mode()
def score(router: Router, test: Cleaned) -> str:
    """How well it generalises beside the report alone, in words."""
    reader = router.second.reader(router.report)
    parts = [test.now.pixels[i : i + 32] / 255 for i in range(0, len(test.now.angle), 32)]
    seen = [reader(reader.see(part)) for part in parts]
    after = router.second.settle(test.before, Judgement(*(torch.cat(v) for v in zip(*seen, strict=True))))
    there = test.now.severity >= 0

    def one(judged: Judgement) -> str:
        cross = F.binary_cross_entropy_with_logits(judged.presence, there.float())
        named = torch.where(judged.presence > 0, judged.harm, -math.inf).argmax(dim=1)
        strongest = (named == test.now.harm.argmax(dim=1))[there.any(dim=1)].float().mean()
        return f"cross-entropy {float(cross):.4f}, strongest right {float(strongest):.1%}"

    return f"{one(after)} (the report alone: {one(test.before)})"


def _turned(turn: Tensor, way: int) -> Tensor:
    """Cosine and sine of twice a direction, B x 2, in a picture that was turned or mirrored in one of eight ways, as
    `report.turned` does it: -a for a mirrored one, pi / 2 - a for one whose sides were exchanged."""
    left, down, across = way & 1, way >> 1 & 1, way >> 2
    cosine, sine = turn.unbind(dim=1)
    if left ^ down:
        sine = -sine
    if across:
        cosine = -cosine
    return torch.stack((cosine, sine), dim=1)
