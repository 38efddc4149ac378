"""What a router learns from: crops of clean photos, what random mixtures made of them, and what is known of each."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from unires.compose.report import Judgement, Report
from unires.compose.spectrum import CELL, light
from unires.degrade import mixtures
from unires.degrade.camera import camera_file
from unires.degrade.recipe import Recipe
from unires.denoise.interface import Hint
from unires.errors import UniresError
from unires.restore.restorer import pick_device
from unires.train.config import RouterTraining
from unires.train.data import Atlas, photo_paths

Log = Callable[[str], None]
TOGETHER = 16  # samples that are drawn at once, to learn weights from


@dataclass
class Sample:
    """One crop, the restorations of its centre so far, and there the errors' products by cell, step by step."""

    clean: Tensor  # 3 x H x W, of the centre that experts are asked about
    degraded: Tensor
    plane: Tensor  # mean log power of light (`compose.spectrum.light`) of the whole crop
    look: Tensor  # what `Report.see` makes of the whole crop, SEEN x h x w, float16
    judged: Judgement  # what the report says of it
    left: Tensor | None = None  # like `plane`, of what the first steps left of the centre
    known: Tensor = field(default_factory=lambda: torch.empty(0))  # as `Router.known` has it
    first: Tensor | None = None  # the same before the second look, if there was one
    told: dict[str, Hint] = field(default_factory=dict)
    asked: Tensor = field(default_factory=lambda: torch.empty(0))  # K x 3 x H x W, of the first plan's first step
    answers: Tensor = field(default_factory=lambda: torch.empty(0))  # likewise, of the step last run
    grams: dict[int, Tensor] = field(default_factory=dict)  # of a plan's step (`RouterConfig.place`): h x w x K x K


class Samples:
    """Draws samples, each by its number: the same ones whenever the configuration is the same."""

    def __init__(self, config: RouterTraining, log: Log) -> None:
        self.config, self.log = config, log
        self.device = torch.device(pick_device(config.device))
        self.edge = (config.seen - config.asked) // 2  # around what experts are asked about
        sides = config.crop, config.asked, config.rim, self.edge
        if any(side % CELL for side in sides) or self.edge < 0 or config.asked <= 2 * config.rim:
            raise UniresError(f"Crops for a router, their centres and rims are of whole cells of {CELL} pixels.")
        self.recipe = Recipe.parse(config.degradation) if config.degradation else None
        paths = [p for folder in config.clean for p in photo_paths(Path(folder))]
        if not paths:
            raise UniresError("The configuration names no folder of clean photos.")
        self.photos = Atlas.load(paths, max(config.crop, config.seen) + 2 * config.margin, self.device)

    def draw(self, index: int, count: int, crop: int) -> tuple[Tensor, mixtures.Mixture, Tensor]:
        """Clean crops, what became of them, and where: B x 1 x H x W, one where degraded. In a part of them a region
        stays clean. The window is cut after degrading, so that borders are real."""
        c = self.config
        seed = (c.seed * 1_000_003 + index) * 4099
        host = torch.Generator().manual_seed(seed)
        device = torch.Generator(self.device).manual_seed(seed + 1) if self.device.type != "cpu" else host
        clean = self.photos.crops(self.photos.places(count, crop + 2 * c.margin, host))
        if c.camera_share > 0:
            written = (torch.rand(count, generator=host) < c.camera_share).nonzero().flatten()
            clean[written.to(clean.device)] = camera_file(clean[written.to(clean.device)], host)
        source = clean
        if self.recipe:
            seeds, suffers = torch.randint(2**62, (count,), generator=host), torch.rand(count, generator=host) < 0.5
            parts = [
                self.recipe(x[None], seed) if yes else x[None]
                for x, seed, yes in zip(clean, seeds.tolist(), suffers.tolist(), strict=True)
            ]
            source = torch.cat(parts)
        mixture = mixtures.draw(source, host, device, c.plain_share)
        top, left = torch.randint(0, 2 * c.margin + 1, (2,), generator=host).tolist()
        window = (..., slice(top, top + crop), slice(left, left + crop))
        where = _regions(count, crop, c.region_share, host).to(self.device)
        degraded = torch.where(where, mixture.degraded[window], clean[window])
        return clean[window], dataclasses.replace(mixture, degraded=degraded), where.float()

    @torch.inference_mode()
    def open(self, count: int, report: Report) -> list[Sample]:
        """The first `count` samples, to learn weights from, and what the report says of each: experts are told that,
        and not the truth, as at test time."""
        inner = slice(self.edge, self.config.seen - self.edge)
        columns: list[Tensor] = []  # all samples' in one tensor each: small ones among large ones would scatter memory
        judged: list[Judgement] = []
        started = time.monotonic()
        for index in range(0, count, TOGETHER):
            clean, mixture, _ = self.draw(index, TOGETHER, self.config.seen)
            look = report.see(mixture.degraded)
            said = Judgement(*(v.cpu() for v in report(look)))
            judged += [said.of(i) for i in range(TOGETHER)]
            own = (x[..., inner, inner] for x in (clean, mixture.degraded))
            parts = [*own, light(mixture.degraded).mean(dim=(1, 2)).cpu(), look.half()]
            columns = columns or [part.new_empty(count, *part.shape[1:]) for part in parts]
            for column, part in zip(columns, parts, strict=True):
                column[index : index + TOGETHER] = part[: count - index]
            done = index + TOGETHER
            if done % 1000 == 0:
                self.log(f"{done} samples, {done / (time.monotonic() - started):.1f} a second")
        return [Sample(*row) for row in zip(*columns, judged[:count], strict=True)]


def _regions(count: int, size: int, share: float, host: torch.Generator) -> Tensor:
    """B x 1 x size x size, true where degraded: everywhere, or for a share of the pictures on one side of a line."""
    angle, distance, partly = torch.rand(3, count, 1, 1, generator=host)
    ramp = torch.linspace(-1, 1, size)
    along = torch.cos(angle * 2 * math.pi) * ramp[:, None] + torch.sin(angle * 2 * math.pi) * ramp
    degraded: Tensor = (along < distance - 0.3) | (partly >= share)
    return degraded[:, None]
