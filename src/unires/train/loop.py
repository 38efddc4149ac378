"""The training loop. Each step's samples follow from (seed, step, rank) alone, so that a run that was killed
goes on with exactly the sample it would have seen. Several processes (torchrun) average their gradients."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from unires.compose.grid import ENLARGED, Axis, Grid
from unires.degrade import isolated, operators, resample
from unires.denoise import number_type
from unires.denoise.checkpoint import load_net
from unires.denoise.compact import TASKS, CompactNet
from unires.errors import UniresError, nearest, shown
from unires.restore.restorer import pick_device
from unires.train import objective, relay
from unires.train.ahead import ahead
from unires.train.config import TrainConfig
from unires.train.data import Atlas, load_pairs, load_rgb, photo_paths
from unires.train.optim import Muon
from unires.train.reshape import reshaped
from unires.train.state import STATE, as_bytes, read_state, write

Log = Callable[[str], None]
LOG = "validation.jsonl"
LOOKED_AT = 8  # crops of each task, by which channels are judged
ENDS = ("enter", "leave", "leave_gates")  # a network's first and last layers, which Muon is not for


class Batch(NamedTuple):
    """A step's samples: clean, degraded: B x 3 x H x W in [-1, 1]; task, severity, angle: B; relayed, B: severity
    of what another expert has cleaned before (0: nothing); the generator for the objective; grids, B: see there."""

    clean: Tensor
    degraded: Tensor
    task: Tensor
    severity: Tensor
    angle: Tensor
    relayed: Tensor
    generator: torch.Generator
    grids: tuple[Grid | None, ...]


class Trainer:
    """One training run: `Trainer(config).run()`; state lives in the folder `config.run`."""

    def __init__(self, config: TrainConfig, log: Log = print) -> None:
        self.config, self.log = config, log
        self.rank, self.world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if config.threads:
            torch.set_num_threads(config.threads)
        if self.world > 1 and config.device == "cuda":  # a GPU for each process of a machine
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        torch.backends.cudnn.allow_tf32 = False  # degradations are exact to float32
        if self.world > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if config.device == "cuda" else "gloo")
        self.device = torch.device(pick_device(config.device))
        self.folder = Path(config.run)
        torch.manual_seed(config.seed)
        self.net = CompactNet(config.model).to(self.device).channels_last()
        self.ema = CompactNet(config.model).to(self.device).channels_last().requires_grad_(False)
        self.uncertainty = objective.Uncertainty().to(self.device)
        # bf16 where it is faster: a processor without it computes such convolutions fifty times slower
        self.kind = number_type.choose(self.net, self.device)
        self.optimizers = self._optimizers()
        self._check_tasks()
        self.photos = self._load(config.clean)
        self.step = 0
        self.seconds = 0.0  # trained so far, over all continuations
        self.before = 0.0  # of these, in a decay that was interrupted
        if (self.folder / STATE).exists():
            self._resume()
        elif config.start_from:
            start = load_net(Path(config.start_from))
            if start.config != config.model:
                start = reshaped(start, config.model, self._look)
            self.net.load_state_dict(start.state_dict())
            self.ema.load_state_dict(self.net.state_dict())
        else:
            self.ema.load_state_dict(self.net.state_dict())
        if self.world > 1:  # what was drawn or made here may differ between them
            for p in (*self.net.parameters(), *self.ema.parameters()):
                dist.broadcast(p.data, 0)
        size = config.crop + 2 * config.margin
        self.paired = {k: load_pairs(v, size, self.device) for k, v in config.paired.items()}

    # -- parts ----------------------------------------------------------------------------------------------

    def _check_tasks(self) -> None:
        for task in [*self.config.tasks, *self.config.paired]:
            if task not in isolated.TASKS:
                raise UniresError(nearest(task, isolated.TASKS, kind="task"))

    def _load(self, folders: tuple[str, ...]) -> Atlas:
        if not folders:
            raise UniresError("The configuration names no folder of clean photos.")
        paths = [p for folder in folders for p in photo_paths(Path(folder))]
        return Atlas.load(paths, self.config.crop + 2 * self.config.margin, self.device)

    def _look(self, net: CompactNet) -> None:
        """Show a network what a few crops of each task look like."""
        host, device = self._generators(0)
        for name in self.config.tasks:
            clean = self.photos.crops(self.photos.places(LOOKED_AT, self.config.crop, host))
            task = torch.full((LOOKED_AT,), TASKS.index(name))
            relay.expert(net.to(self.device), isolated.pairs(clean, name, host, device), task)

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        """Muon for the kernels between hidden layers; AdamW for all the rest."""
        c = self.config
        if c.surfaces_only:
            free = {id(p) for own in self.net.own.values() for p in own.parameters()}
            for p in self.net.parameters():
                p.requires_grad_(id(p) in free)
        named = [*self.net.named_parameters(), *self.uncertainty.named_parameters()]
        hidden = [
            p
            for n, p in named
            if c.optimizer == "muon" and p.dim() == 4 and p.shape[1] > 1 and n.split(".")[-2] not in ENDS
        ]
        ids = {id(p) for p in hidden}
        rest = [p for _, p in named if id(p) not in ids]
        adam = torch.optim.AdamW(rest, lr=c.rate, betas=(0.9, 0.99), weight_decay=0.0)
        return ([Muon(hidden, lr=c.rate)] if hidden else []) + [adam]

    def _generators(self, step: int) -> tuple[torch.Generator, torch.Generator]:
        seed = (self.config.seed * 1_000_003 + step) * 4099 + self.rank
        host = torch.Generator().manual_seed(seed)
        device = torch.Generator(self.device).manual_seed(seed + 1) if self.device.type != "cpu" else host
        return host, device

    def batch(self, step: int) -> Batch:
        """The samples of a step."""
        c = self.config
        host, device = self._generators(step)
        names = list(c.tasks)
        odds = torch.tensor([c.tasks[n] for n in names])
        counts = torch.bincount(torch.multinomial(odds, c.batch, True, generator=host), minlength=len(names))
        size = c.crop + 2 * c.margin
        clean, degraded, task, severity, angle, relayed = [], [], [], [], [], []
        twice: dict[str, int] = {}

        def add(name: str, good: Tensor, bad: isolated.Degraded, cleaned: Tensor | None = None) -> None:
            clean.append(good)
            degraded.append(bad.pixels)
            severity.append(bad.severity)
            angle.append(bad.angle)
            task.append(torch.full((len(good),), TASKS.index(name)))
            relayed.append(torch.zeros(len(good)) if cleaned is None else cleaned)

        def share(count: int, odds: float) -> int:
            return int((torch.rand(count, generator=host) < odds).sum()) if odds else 0

        def photos(name: str, count: int) -> Tensor:
            whole = self.photos.crops(self.photos.places(count, size, host))
            soft = share(count, 0.0 if name in isolated.BLURS else c.soft_share)
            if soft:
                whole[:soft] = isolated.softened(whole[:soft], isolated.Draw(soft, host, device))
            return whole

        for name, count in zip(names, counts.tolist(), strict=True):
            real = share(count, c.paired_share if name in self.paired else 0)
            if real:
                good, bad = self.paired[name]
                places = good.places(real, size, host)
                unknown = torch.full((real,), -1.0), torch.full((real,), math.nan)
                add(name, good.crops(places), isolated.Degraded(bad.crops(places), *unknown))
            second = share(count - real, c.relay_share if name in relay.AFTER else 0)
            if second:
                twice[name] = second
            if count > real + second:
                whole = photos(name, count - real - second)
                add(name, whole, isolated.pairs(whole, name, host, device))
        if twice:
            whole = torch.cat([photos(name, count) for name, count in twice.items()])
            twofold, cleaned = self._relayed(whole, twice, host, device)
            end = 0
            for name, count in twice.items():
                own, end = slice(end, end + count), end + count
                add(name, whole[own], isolated.Degraded(*(v[own] for v in twofold)), cleaned[own])
        tasks, severities, angles, marks = (torch.cat(v) for v in (task, severity, angle, relayed))
        return self._cut(torch.cat(clean), torch.cat(degraded), (tasks, severities, angles, marks), host, device)

    def _cut(
        self, clean: Tensor, degraded: Tensor, known: tuple[Tensor, ...], host: torch.Generator, device: torch.Generator
    ) -> Batch:
        """The samples without their margin, at a random offset. known: task, severity, angle and relayed of `Batch`."""
        c = self.config
        top, left = torch.randint(0, 2 * c.margin + 1, (2,), generator=host).tolist() if c.margin else (0, 0)
        window = (..., slice(top, top + c.crop), slice(left, left + c.crop))
        good, bad = (x[window].contiguous(memory_format=torch.channels_last) * 2 - 1 for x in (clean, degraded))
        task, severity, angle, relayed = (v.to(self.device) for v in known)
        grids = self._grids(known[0], known[1], top, left, host)
        return Batch(good, bad, task, severity, angle, relayed, device, grids)

    def _grids(
        self, tasks: Tensor, severities: Tensor, top: int, left: int, host: torch.Generator
    ) -> tuple[Grid | None, ...]:
        """Of a share of the samples that were enlarged from what. top, left: of their first pixel."""
        c, out = self.config, list[Grid | None]()
        size = c.crop + 2 * c.margin
        for task, severity in zip(tasks.tolist(), severities.tolist(), strict=True):
            out.append(None)
            enlarged = TASKS[task] == ENLARGED and severity > 0
            if c.kept_share and enlarged and torch.rand((), generator=host) < c.kept_share:
                height, width = resample.reduced_size(size, size, isolated.strength_of(ENLARGED, severity))
                out[-1] = Grid(Axis(height, size, top), Axis(width, size, left))
        return tuple(out)

    def _relayed(
        self, clean: Tensor, counts: dict[str, int], host: torch.Generator, device: torch.Generator
    ) -> tuple[isolated.Degraded, Tensor]:
        return relay.pairs(self.ema, clean, counts, host, device, kind=self.kind, jitter=self.config.severity_jitter)

    def rate(self) -> float:
        """The learning rate now: warm-up, then constant, then (for a release) a linear decay to zero."""
        c = self.config
        warm = min(1.0, (self.step + 1) / c.warmup)
        if not (c.decay_minutes and c.minutes):
            return c.rate * warm
        left = (c.minutes * 60 - self.spent()) / (c.decay_minutes * 60)
        return c.rate * warm * max(0.0, min(1.0, left))

    def seconds_now(self) -> float:
        return time.monotonic() - self.started

    def spent(self) -> float:
        """Seconds of `minutes`; where the rate decays, those before a kill count as well."""
        return self.before + self.seconds_now()

    # -- the loop -------------------------------------------------------------------------------------------

    def run(self) -> None:
        c = self.config
        self.started = time.monotonic()
        first, last_save, last_look = self.step, self.started, self.started
        window: list[Tensor] = []
        batches = ahead(self.batch, self.step, self.device)
        while self.step < c.steps and not (c.minutes and self._first(float(self.spent() > c.minutes * 60))):
            window.append(self.train_step(next(batches)))
            now = time.monotonic()
            if self.step % 100 == 0 and self.rank == 0:
                pace = (self.step - first) / (now - self.started)
                mean = float(torch.stack(window).mean())
                window.clear()
                crops = pace * c.batch * self.world
                self.log(f"step {self.step}  loss {mean:.4f}  rate {self.rate():.2e}  {crops:.1f} crops/s")
            if now - last_save > c.save_minutes * 60:
                last_save = now
                self.save()
            if c.validation and now - last_look > c.validate_minutes * 60:
                last_look = now
                self.validate()
        self.seconds += self.seconds_now()
        self.started, self.before = time.monotonic(), 0.0  # the next one begins anew
        self.save()
        self.validate()

    def _first(self, value: float) -> float:
        """What the first process says: its clock counts for all."""
        if self.world == 1:
            return value
        said = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.broadcast(said, 0)
        return float(said.item())

    def train_step(self, batch: Batch) -> Tensor:
        """One step; returns its loss."""
        c = self.config
        rate = self._first(self.rate())
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        clean, degraded, task, severity, angle, relayed, generator, grids = batch
        # the blind expert sees isolated degradations alone
        second = relayed > 0
        dropout = torch.where(second, 0.0, c.task_dropout)
        with torch.autocast(self.device.type, self.kind, enabled=self.kind != torch.float32):
            value, _ = objective.loss(
                self.net, self.uncertainty, clean, degraded, task, severity, angle, generator,
                first_step_share=c.first_step_share, task_dropout=dropout, relayed=relayed,
                condition_dropout=c.condition_dropout, severity_dropout=c.severity_dropout,
                severity_jitter=torch.where(second, c.relay_jitter, c.severity_jitter), angle_jitter=c.angle_jitter,
                angle_dropout=torch.where(second, c.relay_angle_dropout, c.angle_dropout), grids=grids,
            )
        torch.autograd.backward(value)
        parameters = [*self.net.parameters(), *self.uncertainty.parameters()]
        if self.world > 1:
            for p in parameters:  # one without a gradient here may have one elsewhere
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            gradients = [p.grad for p in parameters if p.grad is not None]
            flat = torch.cat([g.flatten() for g in gradients])
            dist.all_reduce(flat)
            flat /= self.world
            for g, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
                g.copy_(mean.view(g.shape))
        norm = torch.nn.utils.clip_grad_norm_(parameters, c.clip)
        if torch.isfinite(norm):
            for optimizer in self.optimizers:
                optimizer.step()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        keep = min(c.ema, 1 - 1 / (1 + self.step / 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.parameters()), list(self.net.parameters()), 1 - keep)
        return value.detach()

    # -- state ----------------------------------------------------------------------------------------------

    def save(self) -> None:
        """All that a continuation needs, in one file that is there whole or as it was; then the checkpoint to use:
        averaged weights, configuration, model card."""
        if self.rank:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"net.{k}": v for k, v in self.net.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.state_dict().items()}
        tensors |= {f"uncertainty.{k}": v for k, v in self.uncertainty.state_dict().items()}
        for i, optimizer in enumerate(self.optimizers):
            for j, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{i}.{j}.{k}": v for k, v in state.items()}
        seconds = self.seconds + self.seconds_now()
        state = {"step": self.step, "seconds": seconds, "spent": self.spent(),
                 "config": dataclasses.asdict(self.config)}  # fmt: skip
        model = {"kind": "compact", **dataclasses.asdict(self.config.model)}
        write(self.folder, {
            STATE: as_bytes(tensors, {"state": json.dumps(state)}),
            "model.safetensors": as_bytes(dict(self.ema.state_dict())),
            "config.json": json.dumps(model, indent=2).encode(),
            "README.md": self._card(seconds).encode(),
        })

    def _card(self, seconds: float) -> str:
        """What a run can say about its model by itself; whoever releases it adds licences, uses and failures."""
        c = self.config
        count = sum(p.numel() for p in self.net.parameters())
        tasks = ", ".join(f"{name} {odds:g}" for name, odds in c.tasks.items())
        folder = self.folder / LOG
        rows = folder.read_text().splitlines() if folder.exists() else []
        pairs = sum(len(p[0]) for p in self.paired.values())
        photos = f"{len(self.photos)} clean photos ({', '.join(Path(f).name for f in c.clean)}) and {pairs} pairs"
        return (
            f"# UniRes compact, {count / 1e6:.1f} M parameters\n\n"
            f"Trained for {self.step} steps of {c.batch * self.world} crops of {c.crop} pixels, "
            f"{seconds / 60:.0f} minutes in all, on {photos}. Tasks and their odds: {tasks}.\n\n"
            f"Last validation, gain in PSNR over the input at t = 1: {rows[-1] if rows else 'none yet'}\n"
        )

    def _resume(self) -> None:
        try:
            self._load_state()
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise UniresError(
                f"The run in {shown(self.folder)} can't be continued: it is damaged, or of another model or optimizer."
            ) from error

    def _load_state(self) -> None:
        state = read_state(self.folder)
        self.step, self.seconds = state["step"], state["seconds"]
        c, old = self.config, state["config"]
        spent = state.get("spent", 0.0)
        if c.decay_minutes and (c.minutes, c.decay_minutes) == (old["minutes"], old["decay_minutes"]):
            self.before = spent if spent < c.minutes * 60 else 0.0  # a run that came to its end begins anew
        tensors = load_file(self.folder / STATE, device=str(self.device))

        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        self.net.load_state_dict(part("net."))
        self.uncertainty.load_state_dict(part("uncertainty."))
        self.ema.load_state_dict(part("ema."))
        for i, optimizer in enumerate(self.optimizers):
            slots: dict[int, dict[str, Any]] = {}
            for key, value in part(f"optimizer.{i}.").items():
                j, name = key.split(".")
                slots.setdefault(int(j), {})[name] = value
            whole = optimizer.state_dict()
            optimizer.load_state_dict({"state": slots, "param_groups": whole["param_groups"]})

    # -- validation -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def validate(self, count: int = 10, size: int = 256) -> dict[str, float]:
        """Mean gain in PSNR over the input at t = 1, per task, on central crops with fixed degradations."""
        if self.rank or not self.config.validation:
            return {}
        paths = [p for folder in self.config.validation for p in photo_paths(Path(folder))]
        crops = []
        for path in paths[:: max(1, len(paths) // count)][:count]:
            x = torch.from_numpy(load_rgb(path)).permute(2, 0, 1).float() / 255
            multiple = self.config.model.multiple
            high, wide = (min(size, side) // multiple * multiple for side in x.shape[1:])
            top, left = (x.shape[1] - high) // 2, (x.shape[2] - wide) // 2
            crops.append(x[None, :, top : top + high, left : left + wide])
        gains: dict[str, float] = {}

        def look(label: str, task: str, degrade: Callable[[Tensor, torch.Generator], isolated.Degraded]) -> None:
            gain = []
            for i, x in enumerate(crops):
                bad = degrade(x, torch.Generator().manual_seed(i))
                if not torch.equal(bad.pixels, x):
                    gain.append(_psnr(self.predict(bad, task).cpu(), x) - _psnr(bad.pixels, x))
            gains[label] = sum(gain) / max(1, len(gain))

        for name in isolated.TASKS:
            look(name, name, lambda x, g, name=name: isolated.pairs(x, name, g, g))  # type: ignore[misc]
        for name in relay.AFTER if self.config.relay_share else ():
            look(f"{name}@relay", name, lambda x, g, name=name: self._relayed(x, {name: 1}, g, g)[0])  # type: ignore[misc]
        minutes = (self.seconds + self.seconds_now()) / 60
        row = {"step": self.step, "minutes": round(minutes, 1)} | {k: round(v, 3) for k, v in gains.items()}
        self.log("validation " + json.dumps(row))
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / LOG).open("a") as file:
            file.write(json.dumps(row) + "\n")
        return gains

    def predict(self, bad: isolated.Degraded, task: str) -> Tensor:
        """One step of the task's expert, told how bad it is; 8-bit values."""
        index = torch.full((len(bad.pixels),), TASKS.index(task))
        return operators.round8(relay.expert(self.ema, bad, index, self.kind))


def _psnr(a: Tensor, b: Tensor) -> float:
    return -10 * math.log10(max(1e-10, float((a - b).square().mean())))
