"""One expert more for a compact model, all that it has frozen: only what is the new task's own is trained.

What the embedding says scales and shifts the channels of every block (`denoise/compact.py`). An added task moves these
numbers, and so asks old filters for something that they were not trained to do, as normalisation of each domain's own
does (Bilen and Vedaldi 2017, "Universal representations"). Filters that the network has not, it can't learn this way,
unless it gets a surface of its own as well: the outermost level, where photos come in and go out. Either way the old
experts stay what they were, bit for bit; a new one takes a few thousand numbers, or with a surface a quarter of a
million."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unires.compose.experts import KEEP
from unires.degrade.recipe import Recipe
from unires.denoise import number_type
from unires.denoise.checkpoint import (
    load_denoiser,
    load_net,
    networks,
    new_folder,
    read_config,
    save_with_network,
    save_with_task,
)
from unires.denoise.compact import CompactConfig, CompactNet
from unires.denoise.compact_denoiser import CompactDenoiser
from unires.errors import OptionError, UniresError, shown
from unires.restore.latents import psnr_of
from unires.restore.restorer import pick_device
from unires.train import objective
from unires.train.data import Atlas, load_pairs, photo_paths

Log = Callable[[str], None]
RATE = 2e-2
SURFACE_RATE = 0.03  # that of a surface's kernels, as a multiple
MEASURED = 32  # crops that p_c and the gain are measured on


@dataclass(frozen=True)
class ExpertTraining:
    """The new expert's name, what it learns from, and for how long."""

    name: str
    data: Path  # pairs NAME_lq, NAME_gt; with a degradation, clean photos
    out: Path  # the folder to write
    model: Path | None = None  # whose experts stay; None: the shipped model
    degradation: str = ""  # a recipe (`unires.degrade.recipe`), applied to each crop with its own seed
    minutes: float = 10.0
    steps: int = 1_000_000  # fewer stop sooner
    crop: int = 128  # less than networks are trained on: filters are frozen, and can't come to count on borders
    margin: int = 16  # cut off after degrading
    batch: int = 4
    rate: float = 0.0  # falls linearly to zero; 0: what suits the model
    rank: int = 0  # of a latent model's adapters; 0: the expert is an embedding alone
    surface: bool = False  # in a compact model, an outermost level of its own
    seed: int = 0
    device: str = "auto"
    lpips: Path | None = None  # weights of LPIPS: the expert learns what `crisp.py` says, from clean photos

    def __post_init__(self) -> None:
        check_name(self.name)
        if not self.minutes > 0:
            raise OptionError(f"The minutes must be more than 0, not {self.minutes}.")
        if self.lpips is not None and self.degradation:
            raise OptionError("With --lpips an expert learns from what the others leave: it takes no --degradation.")
        if self.rank < 0:
            raise OptionError(f"The rank must be at least 0, not {self.rank}.")


class Crops:
    """Random crops of clean photos and of what became of them, B x 3 x crop x crop in [-1, 1]."""

    def __init__(self, c: ExpertTraining) -> None:
        self.crop, self.recipe = c.crop, Recipe.parse(c.degradation) if c.degradation else None
        self.margin = c.margin if self.recipe else 0
        size, host = c.crop + 2 * self.margin, torch.device("cpu")
        if self.recipe:
            self.clean = Atlas.load(photo_paths(c.data), size, host)
        else:
            self.clean, self.degraded = load_pairs([str(c.data)], size, host)

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(clean, degraded); all randomness follows from the generator."""
        places = self.clean.places(count, self.crop + 2 * self.margin, generator)
        clean = self.clean.crops(places)
        if self.recipe:
            seeds = torch.randint(2**62, (count,), generator=generator).tolist()
            degraded = torch.cat([self.recipe(x[None], seed) for x, seed in zip(clean, seeds, strict=True)])
        else:
            degraded = self.degraded.crops(places)
        top, left = torch.randint(2 * self.margin + 1, (2,), generator=generator).tolist()
        window = (..., slice(top, top + self.crop), slice(left, left + self.crop))
        return clean[window] * 2 - 1, degraded[window] * 2 - 1

    def measured(self, c: ExpertTraining) -> tuple[Tensor, Tensor]:
        """Those that the expert's gain is measured on. Raises UniresError where nothing is degraded."""
        clean, degraded = self.draw(MEASURED, torch.Generator().manual_seed(c.seed))
        if torch.equal(clean, degraded):
            raise UniresError(f"Nothing is degraded in what {shown(c.data)} gives: there is nothing to learn.")
        return clean, degraded


def add_expert(c: ExpertTraining, log: Log = print) -> None:
    """Train the expert `c.name` and write the checkpoint `c.out` that has it beside the old ones. Raises UniresError in
    one sentence for a name that is taken, a folder without photos or an `out` that is there."""
    if read_config(c.model)["kind"] == "latent":
        from unires.train.latent_expert import add_latent_expert

        if c.lpips is not None or c.surface:
            kind = "that --lpips trains" if c.lpips else "with --surface"
            raise OptionError(f"An expert {kind} is for compact models.")
        return add_latent_expert(c, log)
    if c.rank:
        raise OptionError("Adapters (--rank) are for latent models; in a compact one an expert has its own modulation.")
    old = load_net(c.model)
    again = c.lpips is not None and len(old.added) and c.name == old.config.tasks[-1]
    if c.name in (*old.config.tasks, *networks(c.model)) and not again:
        raise OptionError(f"The model has an expert {shown(c.name)} already; choose another name.")
    if c.lpips is not None:
        from unires.train.crisp import add_crisp

        return add_crisp(c, old, log)
    with new_folder(c.out) as folder:
        crops = Crops(c)
        clean, degraded = crops.measured(c)
        harm = float((degraded - clean).square().mean())
        net = with_task(old, c.name, float(f"{1 / harm:.3g}"))
        net = (with_surface(net) if c.surface else net).to(pick_device(c.device)).channels_last()
        steps, minutes = train(net, crops, c, log)
        before = psnr_of((degraded - clean) / 2)
        blind, after = (measure(net, task, clean, degraded) for task in ("blind", c.name))
        figures = (f"PSNR of the input {before:.2f}, of blind {blind:.2f}, of {c.name} {after:.2f} dB on {MEASURED} "
                   "training crops")  # fmt: skip
        save_with_task(folder, c.model, net, notes(c, crops, steps, minutes, figures))
    log(f"Added {c.name} in {steps} steps: {figures}.")


def add_network(name: str, network: Path, task: str, out: Path, model: Path | None = None) -> None:
    """Write the checkpoint `out` that has a whole compact network, asked for one of its tasks, as the expert `name`
    beside those of `model`. Raises UniresError in one sentence, as `add_expert` does."""
    check_name(name)
    if read_config(model)["kind"] == "latent":
        raise UniresError("A whole network can join compact models only: a latent one has its own autoencoder.")
    if name in load_denoiser(model, kind=torch.float32).facts.tasks:
        raise OptionError(f"The model has an expert {shown(name)} already; choose another name.")
    with new_folder(out) as folder:
        save_with_network(folder, model, name, network, task)


def check_name(name: str) -> None:
    """Raises OptionError for what `Weights.parse` and `Expert.parse` don't read as one name."""
    if not re.fullmatch(r"\w[\w-]*", name) or name == KEEP:
        raise OptionError(f"An expert's name is of letters, digits and hyphens, and not 'keep'; {shown(name)} can't be "
                          "one.")  # fmt: skip


def notes(c: ExpertTraining, crops: Crops, steps: int, minutes: float, figures: str) -> str:
    """What the model card says of the new expert."""
    by = " and what the other experts leave of them" if c.lpips else f" degraded by `{c.degradation}`"
    source = f"{len(crops.clean)} " + (f"photos{by}" if c.lpips or c.degradation else "pairs")
    return (
        f"\n## The expert `{c.name}`\n\nAdded by {steps} steps of {c.batch} crops of {crops.crop} pixels, "
        f"{minutes:.1f} minutes, on {source}; all else was frozen. One step: {figures}.\n"
    )


def with_task(old: CompactNet, name: str, precision: float) -> CompactNet:
    """The same network with one task more, that starts as the blind one but for p_c."""
    tasks, precisions = (*old.config.tasks, name), (*old.config.precision, precision)
    config: CompactConfig = dataclasses.replace(old.config, tasks=tasks, precision=precisions)
    net = CompactNet(config)
    net.load_state_dict(old.state_dict() | {f"added.{len(net.added) - 1}": torch.zeros_like(net.modulate.bias)})
    return net


def with_surface(old: CompactNet) -> CompactNet:
    """The same network whose last task has a surface of its own, that starts as the shared one. Raises OptionError."""
    name = old.config.tasks[-1]
    if name in old.config.own:
        return old
    if hasattr(old.own, name):
        raise OptionError(f"An expert with a surface can't be called {shown(name)}.")
    net = CompactNet(dataclasses.replace(old.config, own=(*old.config.own, name)))
    net.load_state_dict(old.state_dict(), strict=False)
    net.own[name].load_state_dict(nn.ModuleDict(net.surfaces()[0]._asdict()).state_dict())
    return net


def own_parameters(net: CompactNet, rate: float) -> list[dict[str, Any]]:
    """What the last task of `net` has for itself, in groups with their learning rates; all else is frozen."""
    net.requires_grad_(False)
    name, parts = net.config.tasks[-1], [([net.added[-1]], rate)]
    if name in net.config.own:
        parts.append((list(net.own[name].parameters()), rate * SURFACE_RATE))
    return [{"params": [p.requires_grad_() for p in some], "lr": own} for some, own in parts]


def train(net: CompactNet, crops: Crops, c: ExpertTraining, log: Log) -> tuple[int, float]:
    """Train what the last task adds, and nothing else of the network. Returns steps and minutes."""
    torch.manual_seed(c.seed)
    own = own_parameters(net, c.rate or RATE)
    device, tasks = net.modulate.bias.device, len(net.config.tasks)
    kind = number_type.choose(net, device)  # bf16 only where it is faster: some processors emulate it
    uncertainty = objective.Uncertainty(tasks).to(device)
    optimizer = torch.optim.Adam([*own, {"params": uncertainty.parameters()}], lr=c.rate or RATE, betas=(0.9, 0.99))
    host, noise = torch.Generator().manual_seed(c.seed + 1), torch.Generator(device).manual_seed(c.seed + 2)
    # nobody says how strong a new degradation is, in training or later
    task, unknown = torch.full((c.batch,), tasks - 1, device=device), torch.zeros(c.batch, device=device)

    def loss() -> Tensor:
        clean, degraded = (x.to(device) for x in crops.draw(c.batch, host))
        with torch.autocast(device.type, kind, enabled=kind != torch.float32):
            value, _ = objective.loss(net, uncertainty, clean, degraded, task, unknown, unknown, noise, task_dropout=0,
                                      severity_dropout=1)  # fmt: skip
        return value

    return descend(optimizer, loss, c, log)


def descend(optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor], c: ExpertTraining, log: Log
            ) -> tuple[int, float]:  # fmt: skip
    """Steps at a rate that falls linearly to zero, until the steps or the minutes are over. Returns both."""
    started, step, window = time.monotonic(), 0, list[float]()
    rates = [group["lr"] for group in optimizer.param_groups]
    while (left := 1 - max(step / c.steps, (time.monotonic() - started) / 60 / c.minutes)) > 0:
        value = loss()
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * left
        optimizer.zero_grad()
        torch.autograd.backward(value)
        optimizer.step()
        step += 1
        window.append(float(value.detach()))
        if step % 50 == 0:
            log(f"step {step}  loss {sum(window) / len(window):.4f}  {left:.0%} left")
            window.clear()
    return step, (time.monotonic() - started) / 60


def measure(net: CompactNet, task: str, clean: Tensor, degraded: Tensor) -> float:
    """PSNR in dB, all crops together, of one step at t = 1 with one expert."""
    denoiser = CompactDenoiser(net, net.modulate.bias.device, torch.float32)
    crops = degraded.to(denoiser.device)[:, None]
    restored = torch.cat([denoiser.predict(torch.zeros_like(x), 1.0, x, [task]) for x in crops])
    return psnr_of((restored.cpu().clamp(-1, 1) - clean) / 2)
