"""What a router learns from: crops of clean photos, what random mixtures made of them, and what is known of each."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from unires.compose.spectrum import CELL, spectra
from unires.degrade import mixtures
from unires.degrade.recipe import Recipe
from unires.denoise.interface import Hint
from unires.errors import UniresError
from unires.train.config import RouterTraining
from unires.train.data import Atlas, photo_paths

Log = Callable[[str], None]
VERSION = 3  # of kept samples: one more whenever degradations or mixtures change


@dataclass
class Sample:
    """One crop, the restorations of its centre so far, and there the errors' products by cell, step by step."""

    clean: Tensor  # 3 x H x W, of the centre that experts are asked about
    degraded: Tensor
    plane: Tensor  # mean log power of the whole crop
    spectra: Tensor  # FEATURES x h x w of the whole crop, float16
    severity: Tensor  # 5, as `mixtures.Mixture` has them
    harm: Tensor
    where: Tensor  # 1 x h x w, the share of each cell that is degraded
    known: Tensor = field(default_factory=lambda: torch.empty(0))  # as `Router.known` has it
    told: dict[str, Hint] = field(default_factory=dict)
    asked: Tensor = field(default_factory=lambda: torch.empty(0))  # K x 3 x H x W, of the first plan's first step
    answers: Tensor = field(default_factory=lambda: torch.empty(0))  # likewise, of the step last run
    grams: list[Tensor] = field(default_factory=list)  # a plan's step: h x w x K x K


class Samples:
    """Draws samples, each by its number: the same ones whenever the configuration is the same."""

    def __init__(self, config: RouterTraining, log: Log) -> None:
        self.config, self.log = config, log
        self.device = torch.device(config.device)
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
        source = clean
        if self.recipe:
            seeds, suffers = torch.randint(2**62, (count,), generator=host), torch.rand(count, generator=host) < 0.5
            parts = [
                self.recipe(x[None], seed) if yes else x[None]
                for x, seed, yes in zip(clean, seeds.tolist(), suffers.tolist(), strict=True)
            ]
            source = torch.cat(parts)
        mixture = mixtures.draw(source, host, device)
        top, left = torch.randint(0, 2 * c.margin + 1, (2,), generator=host).tolist()
        window = (..., slice(top, top + crop), slice(left, left + crop))
        where = _regions(count, crop, c.region_share, host).to(self.device)
        degraded = torch.where(where, mixture.degraded[window], clean[window])
        return clean[window], dataclasses.replace(mixture, degraded=degraded), where.float()

    def open(self, count: int, weigh: bool = True) -> list[Sample]:
        """The first `count` samples, to learn weights from; or the report, for which pixels are not kept."""
        crop = self.config.seen if weigh else self.config.crop
        inner = slice(self.edge, crop - self.edge)
        columns: list[Tensor] = []  # all samples' in one tensor each: small ones among large ones would scatter memory
        started = time.monotonic()
        for index in range(0, count, 8):
            clean, mixture, where = self.draw(index, 8, crop)
            features, power = spectra(mixture.degraded)
            own = [clean[..., inner, inner], mixture.degraded[..., inner, inner], power.mean(dim=(1, 2))]
            told = [features.half(), mixture.severity, mixture.harm, F.avg_pool2d(where, CELL)]
            parts = [*(own if weigh else [torch.empty(8, 0)] * 3), *told]
            columns = columns or [part.new_empty(count, *part.shape[1:]) for part in parts]
            for column, part in zip(columns, parts, strict=True):
                column[index : index + 8] = part[: count - index]
            if index % 1000 == 992:
                self.log(f"{index + 8} samples, {(index + 8) / (time.monotonic() - started):.1f} a second")
        return [Sample(*row) for row in zip(*columns, strict=True)]

    def collect(self) -> list[Sample]:
        """The report's samples: from the run's folder if they are there already, else made and kept there."""
        c = self.config
        file, names = Path(c.run) / "samples.safetensors", ("spectra", "severity", "harm", "where")
        folders = [str(Path(folder).resolve()) for folder in c.clean]
        key = f"{folders} {len(self.photos.pixels)} {c.crop} {c.margin} {c.region_share} {c.seed} {c.report_samples}"
        with suppress(OSError, SafetensorError), safe_open(file, "pt") as opened:
            if (opened.metadata() or {}).get("key") == f"{VERSION} {key}":
                columns = [opened.get_tensor(name) for name in names]
                none = torch.empty(0)
                return [Sample(none, none, none, *row) for row in zip(*columns, strict=True)]
        samples = self.open(c.report_samples, weigh=False)
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")  # a run that is killed while it saves leaves no half of a file
        save_file({n: torch.stack([getattr(s, n) for s in samples]) for n in names}, part, {"key": f"{VERSION} {key}"})
        part.replace(file)
        return samples


def _regions(count: int, size: int, share: float, host: torch.Generator) -> Tensor:
    """B x 1 x size x size, true where degraded: everywhere, or for a share of the pictures on one side of a line."""
    angle, distance, partly = torch.rand(3, count, 1, 1, generator=host)
    ramp = torch.linspace(-1, 1, size)
    along = torch.cos(angle * 2 * math.pi) * ramp[:, None] + torch.sin(angle * 2 * math.pi) * ramp
    degraded: Tensor = (along < distance - 0.3) | (partly >= share)
    return degraded[:, None]
