"""Restorer: the one path from picture to picture."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unires.compose import presets
from unires.compose.conditions import Conditions
from unires.compose.weights import Weights
from unires.degrade import resample
from unires.degrade.recipe import checked_seed
from unires.denoise.checkpoint import load_denoiser
from unires.denoise.interface import Denoiser
from unires.errors import OptionError
from unires.photo.tiles import Blender, TilePlan, Window, cut, plan_tiles
from unires.restore.pictures import open_picture
from unires.sample.sampler import SOLVERS, State, check_solver, composed_estimate, sample, times

Progress = Callable[[float], None]  # called with the share that is done, 0 to 1
TILE = 1024  # pixels a side: larger pictures are restored in overlapping tiles
LARGEST_SCALE = 4.0
MOST_STEPS = 50


@dataclass(frozen=True)
class Report:
    """What a restore did."""

    weights: Weights
    steps: int
    scale: float
    passes: int  # network passes a tile
    tiles: int
    device: str
    number_type: str


class Restorer:
    """Restores pictures with one denoiser; make it once, call it often.

    >>> restorer = Restorer.from_pretrained()                              # doctest: +SKIP
    >>> better = restorer(photo, weights="denoise=0.7,motion-deblur=0.3")  # doctest: +SKIP
    """

    def __init__(self, denoiser: Denoiser, device: str = "cpu") -> None:
        self.denoiser, self.device = denoiser, device
        self.report: Report | None = None

    @classmethod
    def from_pretrained(cls, folder: str | Path | None = None, device: str = "auto") -> Restorer:
        """From a checkpoint folder, or with None the shipped model. Raises UniresError if it is unusable."""
        where = pick_device(device)
        return cls(load_denoiser(None if folder is None else Path(folder), where), where)

    def __call__(
        self,
        image: Any,
        *,
        weights: str | Weights | None = None,
        steps: int | None = None,
        fidelity: float | None = None,
        scale: float = 1,
        seed: int = 0,
        solver: str = "ddim",
        tile: int = TILE,
        progress: Progress | None = None,
    ) -> Any:
        """Restore a PIL image, a numpy array or a torch tensor (see `open_picture`); returns the same kind, depth
        and size (times `scale`, by bicubic enlargement first).

        weights: as `Weights.parse` reads them, or an object; None chooses. steps: 1 to 50. fidelity: 1 (least
        error) to 0 (crispest). seed: of the noise that sampling with several steps starts from. progress: called
        with the share done. Raises UniresError in one sentence."""
        pixels, back = open_picture(image)
        restored = self.pixels(
            pixels, weights=weights, steps=steps, fidelity=fidelity, scale=scale, seed=seed,
            solver=solver, tile=tile, progress=progress,
        )
        if restored is pixels:  # untouched: what came in goes out, not what survives float32 and back
            return image.clone() if isinstance(image, Tensor) else image.copy()
        return back(restored)

    restore = __call__

    def plan(
        self, weights: str | Weights | None, steps: int | None, fidelity: float | None, scale: float
    ) -> tuple[Weights, int]:
        """Check the options and settle what they leave open. Raises OptionError."""
        if not (isinstance(scale, (int, float)) and 1 <= scale <= LARGEST_SCALE):
            raise OptionError(f"The scale is a number from 1 to {LARGEST_SCALE:g}, not {scale!r}.")
        if fidelity is not None and not (isinstance(fidelity, (int, float)) and 0 <= fidelity <= 1):
            raise OptionError(f"The fidelity is a number from 0 to 1, not {fidelity!r}.")
        if steps is not None and not (isinstance(steps, int) and 1 <= steps <= MOST_STEPS):
            raise OptionError(f"The steps are a whole number from 1 to {MOST_STEPS}, not {steps!r}.")
        aim = 1.0 if fidelity is None else fidelity
        tasks = self.denoiser.facts.tasks
        if weights is None:
            weights = presets.default_weights(scale, aim, tasks)
        elif isinstance(weights, str):
            weights = Weights.parse(weights, tasks)
        count = presets.default_steps(aim, weights) if steps is None else steps
        if count < weights.steps:
            raise OptionError(f"There are weights for {weights.steps} steps, but only {count} to run.")
        return weights, count

    def pixels(
        self,
        pixels: Tensor,
        *,
        weights: str | Weights | None = None,
        steps: int | None = None,
        fidelity: float | None = None,
        scale: float = 1,
        seed: int = 0,
        solver: str = "ddim",
        tile: int = TILE,
        progress: Progress | None = None,
    ) -> Tensor:
        """As `__call__`, for B x 3 x H x W in [0, 1]; the result is not clipped. It may be the input itself."""
        chosen, count = self.plan(weights, steps, fidelity, scale)
        seed = checked_seed(seed)
        check_solver(solver)
        facts = self.denoiser.facts
        x = pixels
        if scale != 1:
            size = math.floor(x.shape[-2] * scale + 0.5), math.floor(x.shape[-1] * scale + 0.5)
            x = resample.resize(x.to(torch.float32), size, "bicubic").clamp(0, 1)
        tiles = 1
        if chosen.only_keep:  # nothing is computed, so that nothing can be off by a last bit
            passes = 0
        else:
            passes = chosen.passes(count)
            x, tiles = self._sample(x, chosen, count, seed, solver, tile, progress)
        self.report = Report(chosen, count, scale, passes, tiles, self.device, facts.number_type)
        if progress:
            progress(1.0)
        return x

    def _sample(
        self, x: Tensor, weights: Weights, steps: int, seed: int, solver: str, tile: int, progress: Progress | None
    ) -> tuple[Tensor, int]:
        facts = self.denoiser.facts
        height, width = x.shape[-2:]
        plan = plan_tiles(height, width, max(tile, 4 * facts.reach), 3 * facts.reach, margin=facts.reach,
                          multiple=facts.multiple)
        noise = self._noise(x, seed) if steps > 1 else None
        if len(plan) > 1:
            return self._in_tiles(x, noise, weights, steps, solver, plan, progress), len(plan)

        def after(state: State) -> None:
            if progress:
                progress((state.step + 1) / state.steps)

        z = None if noise is None else noise.to(self.device)
        out = sample(self.denoiser, x, weights, steps=steps, noise=z, solver=solver, callback=after)
        return out.to(x.device), 1

    def _in_tiles(
        self, x: Tensor, noise: Tensor | None, weights: Weights, steps: int, solver: str, plan: TilePlan,
        progress: Progress | None,
    ) -> Tensor:
        """Every step is computed in tiles and blended to a whole before the next: what a tile gets wrong near its
        border can't grow from step to step."""
        values = weights.values
        if values.dim() == 4:  # the maps are of the whole picture, and are cut as it is
            size = x.shape[-2], x.shape[-1]
            values = F.interpolate(values, size=size, mode="bilinear", align_corners=False)
        whole = Conditions(self.denoiser, x)
        done = 0

        def estimate(z: Tensor, t: float, step: int, relay: Tensor | None) -> Tensor:
            nonlocal done
            blender = Blender(plan)
            for window in plan:
                here = Weights(weights.experts, cut(values, window)) if values.dim() == 4 else weights

                def conditions(name: str, relay: Tensor | None, window: Window = window) -> Tensor:
                    own: Tensor = cut(whole(name, relay), window)
                    return own.to(self.device)

                part = cut(z, window).to(self.device)
                out = composed_estimate(self.denoiser, conditions, here, part, t, step, relay)
                blender.add(window, out.to(x.device))
                done += 1
                if progress:
                    progress(done / (len(plan) * steps))
            blended: Tensor = blender.picture()
            return blended

        z = torch.zeros_like(x) if noise is None else noise
        return self.denoiser.decode(SOLVERS[solver](estimate, z, times(steps), None))

    def _noise(self, x: Tensor, seed: int) -> Tensor:
        """z_1 for the whole picture from one generator, so that tiles share it, and so that each picture of a batch
        becomes what it would have become alone."""
        facts = self.denoiser.facts
        if facts.reduction != 1:
            raise OptionError("Tiled sampling of latents is not built yet.")
        noise = torch.randn(1, facts.channels, *x.shape[-2:], generator=torch.Generator().manual_seed(seed))
        return noise.to(x).expand(len(x), -1, -1, -1)


def pick_device(name: str) -> str:
    """auto, cpu, cuda or mps to a device that is there. Raises OptionError where it is not."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return next(n for n in ("cuda", "mps", "cpu") if there[n])
    if name not in there:
        raise OptionError(f"The device is auto, cpu, cuda or mps, not {name!r}.")
    if not there[name]:
        raise OptionError(f"This machine (or its torch) has no {name} device; use --device cpu.")
    return name
