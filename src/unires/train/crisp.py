"""The expert `crisp`: what `--fidelity` turns to. It makes what the other experts leave look as photos do.

The photo of least error is the mean of all that could have been there, and so it is soft; what looks right has to err
more (Blau and Michaeli 2018, "The perception-distortion tradeoff"). `crisp` is an added task like any other
(`expert.py`), for `relay` alone: a photo gets an isolated degradation, the model's own expert undoes it, and of its
result `crisp` learns to make the photo again, for little LPIPS as well as little error."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from unires.degrade import isolated
from unires.denoise import number_type
from unires.denoise.checkpoint import new_folder, save_with_task
from unires.denoise.compact import TASKS, CompactNet
from unires.restore.latents import psnr_of
from unires.restore.restorer import pick_device
from unires.train import relay
from unires.train.data import Atlas, photo_paths
from unires.train.expert import (
    MEASURED,
    RATE,
    Crops,
    ExpertTraining,
    Log,
    descend,
    notes,
    own_parameters,
    with_surface,
    with_task,
)
from unires.train.lpips import Lpips

ODDS = {"super-resolution": 0.3, "motion-deblur": 0.22, "defocus-deblur": 0.25, "denoise": 0.13, "dejpeg": 0.1}
TWICE = 0.35  # of the pairs of `relay.AFTER`: cleaned by another expert first, as in mixtures
ERROR = 0.025  # what squared error counts beside LPIPS, each as a multiple of what the expert before left
JITTER = 0.02  # deviation of the severity that the expert before is told, as a router's reading has it
TYPICAL = 0.1  # LPIPS of what the expert before left
GRID = 3e4  # of `grid`: what repeats with a deviation of one level of 255 costs 1.8
PERIOD = 4  # pixels
FLOORS = 1e-4, 0.01  # of that error (pixels in [-1, 1]) and that LPIPS: what is nearly right stays as it is


class Left(Crops):
    """Random crops of clean photos and what the model's own experts leave of them."""

    def __init__(self, c: ExpertTraining, net: CompactNet, kind: torch.dtype) -> None:
        self.net, self.kind, self.crop, self.margin = net, kind, c.crop, c.margin
        self.clean = Atlas.load(photo_paths(c.data), c.crop + 2 * c.margin, torch.device("cpu"))

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(clean, left), B x 3 x crop x crop in [-1, 1]; all randomness follows from the generator."""
        clean = self.clean.crops(self.clean.places(count, self.crop + 2 * self.margin, generator))
        kinds = torch.multinomial(torch.tensor(list(ODDS.values())), count, True, generator=generator).sort().values
        counts = torch.bincount(kinds, minlength=len(ODDS)).tolist()
        again = float(torch.rand(1, generator=generator)) < TWICE  # for all of a batch: each cleaning is a pass
        bad = []
        for (name, many), x in zip(zip(ODDS, counts, strict=True), torch.split(clean, counts), strict=True):
            if many and again and name in relay.AFTER:
                pairs = relay.pairs(self.net, x, {name: many}, generator, generator, kind=self.kind, jitter=JITTER)
                bad.append(pairs[0])
            elif many:
                bad.append(isolated.pairs(x, name, generator, generator))
        pixels, severity, angle = (torch.cat(v) for v in zip(*bad, strict=True))
        told = (severity + JITTER * torch.randn(count, generator=generator)).clamp(0, 1)
        task = torch.tensor([TASKS.index(name) for name in ODDS])[kinds]
        with torch.no_grad():
            left = relay.expert(self.net, isolated.Degraded(pixels, told, angle), task, self.kind).clamp(0, 1).cpu()
        top, side = torch.randint(2 * self.margin + 1, (2,), generator=generator).tolist()
        window = (..., slice(top, top + self.crop), slice(side, side + self.crop))
        return clean[window] * 2 - 1, left[window] * 2 - 1


def add_crisp(c: ExpertTraining, old: CompactNet, log: Log) -> None:
    """Train it and write the checkpoint `c.out`; as `expert.add_expert`, which calls this, does for others."""
    assert c.lpips is not None
    device = torch.device(pick_device(c.device))
    judge = Lpips(c.lpips, str(device))
    with new_folder(c.out) as folder:
        old = old.requires_grad_(False).to(device).channels_last()
        kind = number_type.choose(old, device)
        left = Left(c, old, kind)
        clean, given = left.measured(c)
        if c.name in old.config.tasks:  # goes on from what it is
            net = copy.deepcopy(old)
        else:
            net = with_task(old, c.name, float(f"{1 / float((given - clean).square().mean()):.3g}"))
        net = (with_surface(net) if c.surface else net).to(device).channels_last()
        own = own_parameters(net, c.rate or RATE)
        torch.manual_seed(c.seed)
        host = torch.Generator().manual_seed(c.seed + 1)

        def value() -> Tensor:
            clean, given = left.draw(c.batch, host)
            down, across = torch.randint(PERIOD, (2,), generator=host).tolist()
            return loss(net, judge, clean.to(device), given.to(device), kind, (down, across))

        steps, minutes = descend(torch.optim.Adam(own, betas=(0.9, 0.99)), value, c, log)
        with torch.no_grad():
            made = torch.cat([crisper(net, x.to(device), kind).cpu() for x in torch.split(given, 1)])
            far, nearer = (float(judge((x + 1) / 2, (clean + 1) / 2).mean()) for x in (given, made))
        psnr, lower = (psnr_of((x - clean) / 2) for x in (given, made))
        figures = (f"LPIPS {nearer:.4f} instead of {far:.4f}, PSNR {lower:.2f} instead of {psnr:.2f} dB, of {MEASURED} "
                   "training crops that others restored")  # fmt: skip
        save_with_task(folder, c.model, net, notes(c, left, steps, minutes, figures))
    log(f"Trained {c.name} in {steps} steps: {figures}.")


def crisper(net: CompactNet, left: Tensor, kind: torch.dtype) -> Tensor:
    """What the last task of `net` makes of pictures at t = 1, B x 3 x H x W in [-1, 1]."""
    one = torch.ones(len(left), device=left.device)
    task = torch.full((len(left),), len(net.config.tasks) - 1, device=left.device)
    with torch.autocast(left.device.type, kind, enabled=kind != torch.float32):
        x: Tensor = net(torch.zeros_like(left), one, left, task, -one, one.bool(), math.nan * one)
    return x.float()


def loss(
    net: CompactNet, judge: Lpips, clean: Tensor, left: Tensor, kind: torch.dtype, shift: tuple[int, int] = (0, 0)
) -> Tensor:
    """LPIPS and squared error of `crisper`, each divided by what `left` has of it (LPIPS by its square root), and
    `grid`. shift: the rows and columns that LPIPS doesn't see; its first layers look at every other pixel and every
    fourth, and shown the same ones always they teach a grid."""
    x = crisper(net, left, kind)
    least_error, least_distance = FLOORS
    error = (x - clean).square().mean(dim=(1, 2, 3)) / ((left - clean).square().mean(dim=(1, 2, 3)) + least_error)
    down, across = shift
    seen, before, target = ((v[..., down:, across:] + 1) / 2 for v in (x, left, clean))
    with torch.no_grad():
        was = judge(before, target) + least_distance
    value: Tensor = (ERROR * error.cpu() + judge(seen, target) / (TYPICAL * was).sqrt()).mean().float()
    return value + GRID * grid(x - left).cpu()


def grid(change: Tensor) -> Tensor:
    """How much of a change (B x 3 x H x W) repeats every PERIOD pixels all over a neighbourhood, as what a network puts
    together from quarters does, and LPIPS's first layers may like it to, and no photo: mean square."""
    places = [change[..., i::PERIOD, j::PERIOD] for i in range(PERIOD) for j in range(PERIOD)]
    own = torch.stack([F.avg_pool2d(x, 8, 4) for x in places])
    return (own - own.mean(dim=0)).square().mean()
