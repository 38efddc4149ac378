"""Restorer: the one path from picture to picture."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from unires.compose import presets
from unires.compose.grid import Axis, Grid
from unires.compose.origin import Origin
from unires.compose.router import Reading, Router
from unires.compose.weights import Weights
from unires.degrade.recipe import checked_seed
from unires.degrade.resample import Sliced
from unires.denoise.checkpoint import SHIPPED, load_denoiser
from unires.denoise.ensemble import Ensembled
from unires.denoise.interface import Denoiser
from unires.denoise.latent import LatentDenoiser
from unires.errors import OptionError, UniresError
from unires.photo.tiles import Window, cut, plan_tiles
from unires.restore.latents import ceiling, restore_latents
from unires.restore.lazy import Resized, Scratch
from unires.restore.memory import TILE
from unires.restore.pictures import open_picture
from unires.restore.tiled import Progress, Sampling
from unires.sample.sampler import check_solver

LARGEST_SCALE = 4.0
MOST_STEPS = 50


class Canvas(Protocol):
    """What a result is written on."""

    def put(self, window: Window, pixels: Tensor) -> None: ...


C = TypeVar("C", bound=Canvas)


@dataclass
class _Plain:
    """A tensor as a canvas, and as a picture."""

    values: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape)

    def __getitem__(self, key: Any) -> Tensor:
        return self.values[key]

    def put(self, window: Window, pixels: Tensor) -> None:
        cut(self.values, window)[...] = pixels


@dataclass(frozen=True)
class Options:
    """How to restore: what `Restorer.__call__` documents."""

    weights: str | Weights | None = None
    steps: int | None = None
    fidelity: float | None = None
    scale: float = 1
    seed: int = 0
    solver: str = "ddim"
    tile: int | None = None
    detail: float = 0.0

    def check(self) -> None:
        """What `Restorer.plan` does not look at. Raises OptionError."""
        checked_seed(self.seed)
        check_solver(self.solver)
        if not (isinstance(self.detail, (int, float)) and 0 <= self.detail <= 1):
            raise OptionError(f"The detail is a number from 0 to 1, not {self.detail!r}.")


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
    reading: Reading | None = None  # what the router found, where there is one
    ceiling: float | None = None  # dB that a latent model's autoencoder alone leaves of the photo
    before: Report | None = None  # what was done at the photo's own size, before it was enlarged


class Restorer:
    """Restores pictures with one denoiser, and the router that was trained for it, if any. Make it once, call it
    often.

    >>> restorer = Restorer.from_pretrained()                              # doctest: +SKIP
    >>> better = restorer(photo, weights="denoise=0.7,motion-deblur=0.3")  # doctest: +SKIP
    """

    def __init__(self, denoiser: Denoiser, device: str = "cpu", router: Router | None = None) -> None:
        self.denoiser, self.device, self.router = denoiser, device, router
        self.report: Report | None = None

    @classmethod
    def from_pretrained(
        cls, folder: str | Path | None = None, device: str = "auto", number_type: torch.dtype | None = None,
        ensemble: int = 1,
    ) -> Restorer:
        """From a checkpoint folder, or with None the shipped model. number_type: what to compute in; None asks the
        machine. ensemble: 1, or 2, 4 or 8 views of each picture whose results are averaged. Raises UniresError if the
        folder is unusable."""
        where = pick_device(device)
        place = SHIPPED if folder is None else Path(folder)
        denoiser, router = load_denoiser(place, where, number_type), Router.load(place)
        if ensemble != 1 and isinstance(denoiser, LatentDenoiser):
            raise OptionError("A latent model takes no ensemble.")
        if ensemble != 1:
            denoiser = Ensembled(denoiser, ensemble)
        return cls(denoiser, where, None if router is None else router.to(where))

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
        tile: int | None = None,
        detail: float = 0.0,
        progress: Progress | None = None,
    ) -> Any:
        """Restore a PIL image, a numpy array or a torch tensor (see `open_picture`); returns the same kind, depth
        and size (times `scale`: restored at its own size, if the router chooses, then enlarged by bicubic, and again).

        weights: as `Weights.parse` reads them, a .json file of them, or an object; None lets the router choose. steps:
        1 to 50, of which the router takes no more than it has a use for. fidelity: 1 (least error) to 0 (crispest): by
        the expert `crisp`, or by sampling where a model has none or steps are given. seed: of the noise that sampling
        with several steps starts from. tile: pixels a side of the parts that larger pictures are restored in; None asks
        how much memory there is. detail: for latent models, the share (0 to 1) of what their autoencoder loses of the
        photo that is put back.
        progress: called with the share done. Raises UniresError in one sentence."""
        picture = open_picture(image)
        options = Options(weights, steps, fidelity, scale, seed, solver, tile, detail)
        canvas = self._restored(picture, picture.canvas, options, progress)
        return picture.same() if canvas is None else canvas.close()

    restore = __call__

    def read(self, image: Any, scale: float = 1) -> Reading:
        """What is wrong with one picture (of any kind that can be restored) and how it would be restored, `scale` times
        enlarged. Raises UniresError where the model has no router."""
        if self.router is None:
            raise UniresError("This model has no router, so that it can't tell what is wrong with a photo.")
        picture: Sliced = open_picture(image)
        if picture.shape[0] != 1:
            raise UniresError("Pictures are read one at a time.")
        self.plan(None, None, None, scale)
        small = picture if scale == 1 else self._at_own_size(picture, Options(), None)
        picture = _enlarged(small, scale)
        reading = self.router.read(picture, _grid(small, picture))
        if not reading.cleaning:
            return reading
        cleaned, _ = self._cleaned(picture, reading, None, _climbing(None))
        return self.router.look_again(reading, cleaned)

    def ceiling(self, image: Any) -> float:
        """PSNR, in dB, of a picture that a latent model's autoencoder alone encodes and decodes. Raises UniresError
        for a model without one."""
        if not isinstance(self.denoiser, LatentDenoiser):
            raise UniresError("This model works on pixels: it has no autoencoder that could lose something.")
        picture = open_picture(image)
        return ceiling(self.denoiser, cut(picture, Window(0, 0, picture.shape[-2], picture.shape[-1])))

    def plan(
        self, weights: str | Weights | None, steps: int | None, fidelity: float | None, scale: float,
        reading: Reading | None = None,
    ) -> tuple[Weights, int]:
        """Check the options and settle what they leave open, by what the router has read. Raises OptionError."""
        if not (isinstance(scale, (int, float)) and 1 <= scale <= LARGEST_SCALE):
            raise OptionError(f"The scale is a number from 1 to {LARGEST_SCALE:g}, not {scale!r}.")
        if fidelity is not None and not (isinstance(fidelity, (int, float)) and 0 <= fidelity <= 1):
            raise OptionError(f"The fidelity is a number from 0 to 1, not {fidelity!r}.")
        if steps is not None and not (isinstance(steps, int) and 1 <= steps <= MOST_STEPS):
            raise OptionError(f"The steps are a whole number from 1 to {MOST_STEPS}, not {steps!r}.")
        aim = 1.0 if fidelity is None else fidelity
        tasks = self.denoiser.facts.tasks
        sampled = self._samples(fidelity, steps)
        if weights is None:
            # relay steps serve least error: where detail is to be sampled, the experts of one step go on
            most = 1 if sampled else steps or MOST_STEPS
            own = presets.default_weights(scale, tasks).first(most) if reading is None else reading.within(most)
            steps = min(steps, own.steps) if steps and own.ends_afresh else steps
        elif isinstance(weights, str):
            own = Weights.load(Path(weights), tasks) if weights.endswith(".json") else Weights.parse(weights, tasks)
        else:
            own = weights
        own = presets.inventive(own, aim) if sampled else presets.crisper(own, aim)
        count = steps or (presets.default_steps(aim, own) if sampled else own.steps)
        if count < own.steps:
            raise OptionError(f"There are weights for {own.steps} steps, but only {count} to run.")
        if count > own.steps and own.ends_afresh:
            raise OptionError(f"The last of these weights' {own.steps} steps starts afresh from what the one before "
                              "left, so it does not go on by itself; write it as often as it is meant.")  # fmt: skip
        return own, count

    def _samples(self, fidelity: float | None, steps: int | None) -> bool:
        """Whether lower fidelity comes from sampling: where there is no `crisp`, or so many steps are asked for."""
        return fidelity not in (None, 1) and (steps is not None or presets.CRISP not in self.denoiser.facts.tasks)

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
        tile: int | None = None,
        detail: float = 0.0,
        progress: Progress | None = None,
    ) -> Tensor:
        """As `__call__`, for B x 3 x H x W in [0, 1]; the result is not clipped. It may be the input itself."""

        def canvas(height: int, width: int) -> _Plain:
            return _Plain(pixels.new_empty(*pixels.shape[:2], height, width, dtype=torch.float32))

        options = Options(weights, steps, fidelity, scale, seed, solver, tile, detail)
        out = self._restored(pixels, canvas, options, progress)
        return pixels if out is None else out.values

    def _restored(
        self, picture: Sliced, make: Callable[[int, int], C], options: Options, progress: Progress | None
    ) -> C | None:
        """A canvas, made by `make(height, width)`, with the result; or None where that is the picture itself."""
        o = options
        chosen, count = self.plan(o.weights, o.steps, o.fidelity, o.scale)  # refuses before anything is computed
        o.check()
        seed = checked_seed(o.seed)
        climb, before = _climbing(progress), None
        routed = o.weights is None and o.steps is None and not self._samples(o.fidelity, None)
        if self.router is not None and not chosen.only_keep:
            if picture.shape[0] > 1:
                return self._one_by_one(picture, make, options, progress)
            if routed and o.scale > 1:
                share = 1 / (1 + o.scale**2)
                picture = self._at_own_size(picture, o, lambda done: climb(done * share))
                before, climb = self.report, _after(share, climb)
        large = _enlarged(picture, o.scale)
        grid = _grid(picture, large)
        reading, cleaned, done, tiles, most = None, None, 0, 1, None
        if self.router is not None and not chosen.only_keep:
            reading = self.router.read(large, grid)
            chosen, count = self.plan(o.weights, o.steps, o.fidelity, o.scale, reading)
            if routed and reading.cleaning:
                done = reading.cleaning
                cleaned, tiles = self._cleaned(large, reading, o.tile, lambda share: climb(share * done / (done + 1)))
                reading = self.router.look_again(reading, cleaned)
                chosen, count = self.plan(o.weights, o.steps, o.fidelity, o.scale, reading)
        height, width = large.shape[-2:]
        finished = large if chosen.only_keep else cleaned if done == count else None
        passes = 0 if finished is large and cleaned is None else chosen.passes(count)
        canvas = None if finished is picture else make(height, width)
        if finished is not None and canvas is not None:
            for window in plan_tiles(height, width, TILE, 0):
                canvas.put(window, cut(finished, window))
        elif canvas is not None:
            if isinstance(self.denoiser, LatentDenoiser):
                everything = Window(0, 0, height, width)
                out, tiles, most = restore_latents(
                    self.denoiser, cut(large, everything), chosen, steps=count, seed=seed, solver=o.solver, tile=o.tile,
                    detail=o.detail, callback=lambda state: climb((state.step + 1) / state.steps),
                )
                canvas.put(everything, out)
            else:
                told, origin = ({}, Origin(grid)) if reading is None else (reading.told, reading.origin)
                rest, left = chosen.after(done), count - done
                finish = Sampling(self.denoiser, self.device, rest, left, told, seed, o.solver, o.tile, origin)
                tiles = finish(large, canvas.put, lambda share: climb((done + share * left) / count), cleaned)
        # where nothing is computed, nothing can be off by a last bit
        kind = self.denoiser.facts.number_type
        self.report = Report(chosen, count, o.scale, passes, tiles, self.device, kind, reading, most, before)
        if progress:
            progress(1.0)
        return canvas

    def _cleaned(
        self, picture: Sliced, reading: Reading, tile: int | None, progress: Progress
    ) -> tuple[Sliced, int]:
        """What the steps before a second look leave of a picture, not clipped (a large one lies in a scratch file), and
        in how many tiles they did."""
        *_, height, width = picture.shape
        steps = reading.cleaning
        clean = Sampling(self.denoiser, self.device, reading.weights.first(steps), steps, reading.told, tile=tile,
                         origin=reading.origin)  # fmt: skip
        store = _store(height, width)
        return store, clean(picture, store.put, progress)

    def _at_own_size(self, picture: Sliced, options: Options, progress: Progress | None) -> Sliced:
        """A picture that is to be enlarged, restored before: noise, blocks and blurs are only there what experts know
        them as. Not clipped; it may be the picture itself."""
        out = self._restored(picture, _store, replace(options, scale=1, fidelity=None), progress)
        return picture if out is None else out

    def _one_by_one(
        self, pictures: Sliced, make: Callable[[int, int], C], options: Options, progress: Progress | None
    ) -> C:
        """A batch, each picture read for itself and restored as it would be alone. The report is the last one's."""
        count, _, height, width = pictures.shape
        pixels, results = cut(pictures, Window(0, 0, height, width)), []
        for i in range(count):
            results.append(self.pixels(pixels[i : i + 1], **vars(options)))
            if progress:
                progress((i + 1) / count)
        together = torch.cat(results)
        canvas = make(together.shape[-2], together.shape[-1])
        canvas.put(Window(0, 0, together.shape[-2], together.shape[-1]), together)
        return canvas


def _store(height: int, width: int) -> _Plain | Scratch:
    """Room for one picture: a large one lies in a file."""
    shape = (1, 3, height, width)
    return _Plain(torch.empty(shape)) if height * width <= TILE**2 else Scratch(shape, exact=True)


def _enlarged(picture: Sliced, scale: float) -> Sliced:
    height, width = (math.floor(side * scale + 0.5) for side in picture.shape[-2:])
    return picture if scale == 1 else Resized(picture, (height, width), "bicubic")


def _grid(small: Sliced, large: Sliced) -> Grid | None:
    """Of the one enlarged from the other; None where they are the same."""
    rows, columns = (Axis(*both) for both in zip(small.shape[-2:], large.shape[-2:], strict=True))
    return None if large is small else Grid(rows, columns)


def _climbing(progress: Progress | None) -> Progress:
    """The share done, told only where it is more than before: what is repeated counts once."""
    most = 0.0

    def tell(share: float) -> None:
        nonlocal most
        if progress and share > most:
            most = share
            progress(share)

    return tell


def _after(share: float, progress: Progress) -> Progress:
    """What is left to do, where that share is done."""
    return lambda done: progress(share + done * (1 - share))


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
