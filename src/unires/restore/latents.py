"""Restoring in an autoencoder's space: whole pictures seen as latents, of any size, in tiles without seams.

One plan of tiles, in latent positions, serves for encoding, for every pass of the network and for decoding. As tiles
are blended linearly, composing experts and blending tiles may be done in either order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from unires.compose.experts import KEEP
from unires.compose.weights import Weights
from unires.denoise.interface import Facts, Hint
from unires.denoise.latent import LatentDenoiser
from unires.denoise.one_picture import Owned
from unires.photo.tiles import Axis, Blender, TilePlan, Window, cut, plan_tiles
from unires.restore.memory import memory_of, tile_for
from unires.sample.sampler import Callback, sample

Together = Callable[[Iterable[Tensor], Sequence[Owned]], list[Tensor]]
WAITING = 0.5  # of the memory there is, at most, for all tiles of a picture that wait for each other
CROPS = 4  # a side, of those that the autoencoder's statistics are taken from
SMALLEST = 32  # their least side, in latents: in smaller ones borders count too much


class TiledLatents:
    """A latent denoiser that never works on more than a tile at once; itself a `Denoiser`."""

    def __init__(self, denoiser: LatentDenoiser, plan: TilePlan, pixels: TilePlan) -> None:
        """plan, pixels: the same tiles in positions of latents and in pixels (see `plan_latents`)."""
        self.denoiser, self.plan, self.pixels = denoiser, plan, pixels

    @property
    def facts(self) -> Facts:
        return self.denoiser.facts

    def encode(self, pixels: Tensor) -> Tensor:
        d = self.denoiser
        return d.sum_up(self._as_one_picture(d.look, d.look_together, pixels, self.pixels, self.plan))

    def decode(self, latents: Tensor) -> Tensor:
        d = self.denoiser
        return self._as_one_picture(d.paint, d.paint_together, d.unfold(latents), self.plan, self.pixels)

    def predict(
        self,
        z: Tensor,
        t: float,
        condition: Tensor | None,
        tasks: Sequence[str],
        hints: Sequence[Hint | None] | None = None,
    ) -> Tensor:
        def one(window: Window) -> Tensor:
            c = None if condition is None else cut(condition, window)
            return self.denoiser.predict(cut(z, window), t, c, tasks, hints)

        return blend(self.plan, map(one, self.plan))

    def _as_one_picture(
        self, half: Callable[[Tensor], Tensor], together: Together, x: Tensor, taken: TilePlan, given: TilePlan
    ) -> Tensor:
        """One half of the autoencoder, in tiles that share the statistics of each picture: exactly where there is
        memory for all of them at once, else those of crops."""
        if len(taken) == 1:
            return half(x)
        rows, columns = self.pixels.rows.tile, self.pixels.columns.tile
        there = memory_of(self.denoiser.device.type)
        waiting = len(taken) * rows * columns * self.facts.memory / 2  # the finest layers, between two normalisations
        fits = there is not None and waiting <= WAITING * there
        results = []
        for picture in torch.split(x, 1):
            if fits:
                results.append(blend(given, together((cut(picture, window) for window in taken), self._owned())))
                continue
            with self.denoiser.one_picture() as statistics:
                half(torch.cat([cut(picture, window) for window in self._crops(taken)]))
                statistics.measured()
                results.append(blend(given, (half(cut(picture, window)) for window in taken)))
        return torch.cat(results)

    def _owned(self) -> list[Owned]:
        """What each tile counts as its own, up to the middle of what it shares with its neighbours."""
        rows, columns = (dict(_shared_out(axis)) for axis in (self.plan.rows, self.plan.columns))
        return [Owned(w.height, *rows[w.top], *columns[w.left]) for w in self.plan]

    def _crops(self, taken: TilePlan) -> list[Window]:
        """CROPS x CROPS windows spread over the picture, together about as large as a tile."""
        unit = taken.height // self.plan.height
        rows, columns = self.plan.rows, self.plan.columns
        height, width = (max(axis.tile // CROPS, min(axis.length, SMALLEST)) for axis in (rows, columns))
        places = [
            (round(y * (rows.length - height)), round(x * (columns.length - width)))
            for y in _shares(rows.length / height)
            for x in _shares(columns.length / width)
        ]
        return [Window(y * unit, x * unit, height * unit, width * unit) for y, x in places]


def _shared_out(axis: Axis) -> Iterator[tuple[int, tuple[int, int]]]:
    """(start, (first, end) of its own positions, counted from there) of each window along an axis."""
    middles = [(a + axis.tile + b) // 2 for a, b in pairwise(axis.starts)]
    for start, first, end in zip(axis.starts, (0, *middles), (*middles, axis.length), strict=True):
        yield start, (first - start, end - start)


def _shares(fit: float) -> list[float]:
    """Evenly from 0 to 1: CROPS numbers, or as many as fit side by side."""
    count = max(1, min(CROPS, round(fit)))
    return [i / max(1, count - 1) for i in range(count)]


def blend(plan: TilePlan, parts: Iterable[Tensor]) -> Tensor:
    """The picture that the parts, in the order of the plan's windows, make up."""
    whole: list[Tensor] = []

    def put(window: Window, part: Tensor) -> None:
        if not whole:
            whole.append(part.new_empty(*part.shape[:-2], plan.height, plan.width))
        cut(whole[0], window)[...] = part

    blender = Blender(plan, put)
    for window, part in zip(plan, parts, strict=True):
        blender.add(window, part)
    return whole[0]


def plan_latents(facts: Facts, height: int, width: int, tile: int) -> tuple[TilePlan, TilePlan]:
    """The tiles of a picture (sides multiples of `facts.multiple`) in positions of latents, and in pixels."""
    side = max(tile // facts.multiple * facts.multiple, 4 * facts.reach)
    latents, pixels = (
        plan_tiles(height // k, width // k, side // k, 3 * facts.reach // k, margin=facts.reach // k,
                   multiple=facts.multiple // k)
        for k in (facts.reduction, 1)
    )
    return latents, pixels


def restore_latents(
    denoiser: LatentDenoiser,
    pixels: Tensor,
    weights: Weights,
    *,
    steps: int,
    seed: int,
    solver: str,
    tile: int | None = None,
    detail: float = 0.0,
    callback: Callback | None = None,
) -> tuple[Tensor, int, float]:
    """(restored pixels, tiles, ceiling) of B x 3 x H x W in [0, 1], any size; tile: pixels; None asks the memory.

    The autoencoder alone loses something: the ceiling is the PSNR, in dB, of the photo that was only encoded and
    decoded. `detail`, from 0 to 1, is the share of what it loses of the photo that is put back into the result."""
    facts = denoiser.facts
    whole, tiled = prepare(denoiser, pixels, tile, sum(e.task != KEEP for e in weights.experts))
    size = tiled.plan.height, tiled.plan.width
    # one noise for all, so that each picture of a batch becomes what it would have become alone
    noise = torch.randn(1, facts.channels, *size, generator=torch.Generator().manual_seed(seed))
    noise = noise.to(denoiser.device).expand(len(pixels), -1, -1, -1)
    restored = sample(tiled, whole, weights, steps=steps, noise=noise, solver=solver, callback=callback)
    lost = whole.to(restored) - tiled.decode(tiled.encode(whole))
    height, width = pixels.shape[-2:]
    out = (restored + detail * lost)[..., :height, :width]
    return out.to(pixels.device), len(tiled.plan), psnr_of(lost[..., :height, :width])


def ceiling(denoiser: LatentDenoiser, pixels: Tensor) -> float:
    """PSNR, in dB, of pixels that were only encoded and decoded: no result comes closer to a clean photo."""
    whole, tiled = prepare(denoiser, pixels, None, 1)
    height, width = pixels.shape[-2:]
    return psnr_of((whole.to(denoiser.device) - tiled.decode(tiled.encode(whole)))[..., :height, :width])


def prepare(
    denoiser: LatentDenoiser, pixels: Tensor, tile: int | None, experts: int
) -> tuple[Tensor, TiledLatents]:
    """(pixels, mirrored at the right and lower edge to a size that the network takes; the denoiser in tiles for it)."""
    facts = denoiser.facts
    if tile is None:
        tile = tile_for(max(experts, 1) * len(pixels) * facts.memory, denoiser.device.type)
    height, width = (-(-side // facts.multiple) * facts.multiple for side in pixels.shape[-2:])
    whole: Tensor = cut(pixels, Window(0, 0, height, width))
    return whole, TiledLatents(denoiser, *plan_latents(facts, height, width, tile))


def psnr_of(error: Tensor) -> float:
    """In dB, of pixels in [0, 1]; at most 100."""
    return -10 * math.log10(max(1e-10, float(error.square().mean())))
