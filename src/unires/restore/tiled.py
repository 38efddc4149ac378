"""Sampling a picture of any size: in one piece where there is memory for it, else in tiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unires.compose.experts import KEEP
from unires.compose.origin import Origin
from unires.compose.weights import Weights
from unires.degrade.resample import Sliced
from unires.denoise.interface import Denoiser, Hint
from unires.errors import UniresError
from unires.photo.tiles import Blender, TilePlan, Window, cut, plan_tiles
from unires.restore.lazy import Noise, Resized, Scratch, WindowConditions
from unires.restore.memory import ran_out, tile_for
from unires.sample.sampler import SOLVERS, State, composed_estimate, sample, times

Progress = Callable[[float], None]  # called with the share that is done, 0 to 1
Put = Callable[[Window, Tensor], object]  # takes a part of the result


@dataclass(frozen=True)
class Sampling:
    """How to sample. told: what a task's experts are told; tile: pixels a side of larger pictures' parts; None asks how
    much memory there is; origin: what the picture was made from."""

    denoiser: Denoiser
    device: str
    weights: Weights
    steps: int
    told: Mapping[str, Hint]
    seed: int = 0
    solver: str = "ddim"
    tile: int | None = None
    origin: Origin = field(default_factory=Origin)

    def __call__(self, picture: Sliced, put: Put, progress: Progress, relay: Sliced | None = None) -> int:
        """Hand the result to `put`, in parts; returns how many tiles it took. relay: pixels that earlier steps made, to
        go on from. Where memory runs out, everything is done again with tiles of half the side. Raises UniresError
        where they are too small for that."""
        facts = self.denoiser.facts
        count, _, height, width = picture.shape
        # of such tiles one expert after the other is run
        tile = tile_for(count * facts.memory, self.device) if self.tile is None else self.tile
        while True:
            plan = plan_tiles(height, width, max(tile, 4 * facts.reach), 3 * facts.reach, margin=facts.reach,
                              multiple=facts.multiple)
            noise = Noise(self.seed, (count, facts.channels, height, width)) if self.steps > 1 else None
            try:
                (self._in_tiles if len(plan) > 1 else self._in_one)(picture, put, noise, plan, progress, relay)
                return len(plan)
            except (MemoryError, RuntimeError) as error:
                if not ran_out(error):
                    raise
            # the error is gone here, and with it what the failed attempt held
            side = max(plan.rows.tile, plan.columns.tile)
            tile = side // 2
            if max(tile, 4 * facts.reach) >= side:
                raise UniresError(f"There is not enough memory to restore {width} x {height} pixels.")
            if self.device == "cuda":
                torch.cuda.empty_cache()

    def _in_one(
        self, picture: Sliced, put: Put, noise: Sliced | None, plan: TilePlan, progress: Progress, relay: Sliced | None
    ) -> None:
        whole = Window(0, 0, plan.height, plan.width)

        def after(state: State) -> None:
            progress((state.step + 1) / state.steps)

        z = None if noise is None else cut(noise, whole).to(self.device)
        before = None if relay is None else cut(relay, whole)
        out = sample(self.denoiser, cut(picture, whole), self.weights, steps=self.steps, noise=z, hints=self.told,
                     solver=self.solver, callback=after, relay=before, origin=self.origin)
        put(whole, out)

    def _in_tiles(
        self, picture: Sliced, put: Put, noise: Sliced | None, plan: TilePlan, progress: Progress, relay: Sliced | None
    ) -> None:
        """Every step is computed in tiles and blended to a whole before the next: what a tile gets wrong near its
        border can't grow from step to step. Between steps z and x_hat lie in scratch files."""
        weights, steps = self.weights, self.steps
        ts = times(steps)
        maps = _maps(weights, plan.height, plan.width)
        scratch = [Scratch((picture.shape[0], self.denoiser.facts.channels, plan.height, plan.width))
                   for _ in range(2 if steps > 1 else 0)]
        origin, done = self.origin, 0
        for step in range(steps):
            z, last = (noise, None) if step == 0 else (scratch[0], scratch[1])

            def settle(window: Window, x: Tensor, step: int = step, z: Any = z, last: Sliced | None = last) -> None:
                if step + 1 == steps:
                    put(window, self.denoiser.decode(x))
                    return
                before = None if last is None else cut(last, window)
                after = SOLVERS[self.solver](cut(z, window), x, before, ts, step)
                for place, values in zip(scratch, (after, x), strict=True):
                    place.put(window, values)

            first = relay if step == 0 else None
            used = weights.active(step)
            alone = [weights.experts[k] for k in used if weights.experts[k].task != KEEP]
            if len(alone) == 1 and origin.enlarges(alone[0]):
                middle = list(plan)[len(plan) // 2]
                seen, part, known = self._seen(picture, middle, z, last, first)
                one = Weights(tuple(alone), torch.ones(1, 1))
                estimate = composed_estimate(self.denoiser, seen, one, part, ts[step], 0, known, self.told)
                here = origin.at(middle.top, middle.left, plan.height, plan.width)
                origin = here.settled(estimate, seen(alone[0].condition, known))
            blender = Blender(plan, settle)
            for window in plan:
                seen, part, known = self._seen(picture, window, z, last, first)
                own = weights if maps is None else Weights(weights.experts, cut(maps, window))
                here = origin.at(window.top, window.left, plan.height, plan.width)
                out = composed_estimate(self.denoiser, seen, own, part, ts[step], step, known, self.told, here, used)
                blender.add(window, out.cpu())
                done += 1
                progress(done / (len(plan) * steps))

    def _seen(
        self, picture: Sliced, window: Window, z: Sliced | None, last: Sliced | None, relay: Sliced | None
    ) -> tuple[WindowConditions, Tensor, Tensor | None]:
        """What experts see of a window: its conditions, its part of z, and of the estimate before (or of a relay)."""
        conditions = WindowConditions(self.denoiser, picture, window)
        lq = conditions("lq", None)
        part = torch.zeros_like(lq) if z is None else cut(z, window).to(lq)
        known = None if last is None else cut(last, window).to(lq)
        return conditions, part, known if relay is None else self.denoiser.encode(cut(relay, window))


def _maps(weights: Weights, height: int, width: int) -> Sliced | None:
    """Weight maps of the picture's size: enlarged only where they are looked at."""
    values = weights.values
    if values.dim() != 4:
        return None
    if values.shape[-2] <= height and values.shape[-1] <= width:
        return Resized(values, (height, width), "bilinear", clip=False)
    return F.interpolate(values, size=(height, width), mode="bilinear", align_corners=False)
