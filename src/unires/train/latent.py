"""Training of latent models, the paper's recipe, through accelerate: one process or many, with copies of the
weights (DDP) or shares of them (FSDP).

Every sample follows from (seed, step, lane) and the lane's place in the data alone, whatever process makes it: so the
loss does not depend on the number of processes, and a run that was killed goes on as if it had not been."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unires.degrade import isolated
from unires.denoise.checkpoint import load_latent, save_latent
from unires.denoise.latent import library, target
from unires.denoise.schedule import alpha_sigma
from unires.errors import UniresError, nearest, shown
from unires.train.config import build, read_values
from unires.train.shards import Lane, Place, sources
from unires.train.state import STATE

Log = Callable[[str], None]


@dataclass(frozen=True)
class LatentTraining:
    """The paper's recipe (section 4 of arXiv 2506.05599), where nothing else is said."""

    model: str = "latent"  # what `unires convert` wrote
    data: tuple[str, ...] = ()  # folders of photos, tar shards (brace ranges and globs), wherever fsspec reaches
    run: str = "runs/paper"
    tasks: dict[str, float] = field(
        default_factory=lambda: {
            "super-resolution": 0.32, "motion-deblur": 0.28, "defocus-deblur": 0.18, "denoise": 0.22,
        }
    )  # fmt: skip
    batch: int = 256  # samples a step, over all devices
    at_once: int = 8  # of them that a device holds at once; the rest is accumulated
    steps: int = 200_000
    rate: float = 8e-5
    warmup: int = 1000
    weight_decay: float = 0.01
    clip: float = 1.0
    task_dropout: float = 0.1
    condition_dropout: float = 0.1
    crop: int = 512
    margin: int = 16  # cut off after degrading
    precision: str = "bf16"  # or "no"
    checkpointing: bool = True  # trades a third more time for most of the memory
    shard: bool = False  # each process holds its share of weights, gradients and optimizer (FSDP), not a copy (DDP)
    save_steps: int = 1000
    log_steps: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if self.precision not in ("bf16", "no"):
            raise UniresError(nearest(self.precision, ("bf16", "no"), kind="precision"))
        for name in ("batch", "at_once", "steps", "warmup", "rate", "crop", "save_steps", "log_steps"):
            if not getattr(self, name) > 0:
                raise UniresError(f"The option {name} must be more than 0, not {getattr(self, name)}.")
        for task, odds in self.tasks.items():
            if task not in isolated.TASKS:
                raise UniresError(nearest(task, isolated.TASKS, kind="task"))
            if not odds > 0:
                raise UniresError(f"The odds of {task} must be more than 0, not {odds}.")

    @classmethod
    def read(cls, path: Path, changes: Sequence[str] = ()) -> LatentTraining:
        """From a TOML file; `changes`, lines in TOML, win. Raises UniresError naming the unknown option."""
        config: LatentTraining = build(cls, read_values(path, changes), "")
        return config


def shard(unet: nn.Module, device: torch.device, world: int) -> None:
    """Spread the weights over all processes, level by level: each is gathered only while it computes (FSDP's second
    version, Zhao et al. 2023, "PyTorch FSDP"). By torch itself, as accelerate's way leaves processors out."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (world,))
    for name in ("down_blocks", "mid_block", "up_blocks"):
        part = unet.get_submodule(name)
        for level in part.children() if isinstance(part, nn.ModuleList) else [part]:
            fully_shard(level, mesh=mesh)
    fully_shard(unet, mesh=mesh)


class LatentTrainer:
    """One training run: `LatentTrainer(config).run()`; state lives in the folder `config.run`."""

    def __init__(self, config: LatentTraining, log: Log = print) -> None:
        accelerate = library("accelerate")
        self.config, self.log, self.folder = config, log, Path(config.run)
        self.names = sources(config.data)
        world = int(os.environ.get("WORLD_SIZE", 1))
        if config.batch % (config.at_once * world):
            raise UniresError(
                f"A batch of {config.batch} does not divide into {world} processes of {config.at_once} samples at once."
            )
        self.turns = config.batch // (config.at_once * world)
        self.accelerator = accelerate.Accelerator(
            mixed_precision=config.precision, gradient_accumulation_steps=self.turns
        )
        self.device = self.accelerator.device
        self.net = load_latent(Path(config.model)).to(self.device)
        self.net.vae.float().requires_grad_(False)
        unet = self.net.unet.float()
        if config.checkpointing:
            unet.enable_gradient_checkpointing()
        unet.train()
        share = config.shard and world > 1
        if share:
            shard(unet, self.device, world)
        adam = torch.optim.AdamW(unet.parameters(), lr=config.rate, weight_decay=config.weight_decay)
        # for evaluation, which it is not: so that it gets its number types, but not DDP's wrapping
        self.net.unet = self.accelerator.prepare_model(unet, evaluation_mode=share)
        self.optimizer = self.accelerator.prepare_optimizer(adam)
        self.step, self.told = 0, set[str]()
        places: list[Place] = [(0, 0)] * config.batch
        if (self.folder / STATE).exists():
            places = self._resume()
        mine = [j for turn in range(self.turns) for j in self._lanes_of(turn)]
        size = config.crop + 2 * config.margin
        stride = -(-config.batch // len(self.names))
        self.lanes = {j: Lane(self.names, config.seed, j, size, self._skipped, places[j], stride) for j in mine}
        self.streams = {j: iter(lane) for j, lane in self.lanes.items()}

    def _lanes_of(self, turn: int) -> range:
        """Those whose samples this process takes at once: all processes together take a turn's in order."""
        first = (turn * self.accelerator.num_processes + self.accelerator.process_index) * self.config.at_once
        return range(first, first + self.config.at_once)

    def _skipped(self, line: str) -> None:
        """Once for each thing that is skipped: lanes come by again and again."""
        if line not in self.told:
            self.told.add(line)
            self.log(line)

    # -- samples --------------------------------------------------------------------------------------------

    def samples(self, turn: int) -> dict[str, Tensor]:
        """Clean and degraded pixels, noise, level (an index), task and whether the condition is seen."""
        rows = [self._sample(j) for j in self._lanes_of(turn)]
        return {k: torch.stack([row[k] for row in rows]).to(self.device) for k in rows[0]}

    def _sample(self, j: int) -> dict[str, Tensor]:
        c, net = self.config, self.net
        photo, self.lanes[j].place = next(self.streams[j])
        g = torch.Generator().manual_seed(((c.seed * 1_000_003 + self.step) * 65_537 + j) % 2**63)
        size = c.crop + 2 * c.margin
        top, left = (int(torch.randint(0, side - size + 1, (1,), generator=g)) for side in photo.shape[1:])
        whole = photo[None, :, top : top + size, left : left + size]
        whole = whole.flip(-1) if torch.rand(1, generator=g) < 0.5 else whole
        names = list(c.tasks)
        name = names[int(torch.multinomial(torch.tensor(list(c.tasks.values())), 1, generator=g))]
        degraded = isolated.pairs(whole, name, g, g).pixels
        y, x = torch.randint(0, 2 * c.margin + 1, (2,), generator=g).tolist()
        drop_task, drop_condition = torch.rand(2, generator=g).tolist()
        side = c.crop // net.reduction
        return {
            "clean": whole[0, :, y : y + c.crop, x : x + c.crop],
            "degraded": degraded[0, :, y : y + c.crop, x : x + c.crop],
            "noise": torch.randn(net.channels, side, side, generator=g),
            "level": torch.randint(0, len(net.times), (1,), generator=g)[0],
            "task": torch.tensor(net.config.tasks.index("blind" if drop_task < c.task_dropout else name)),
            "seen": torch.tensor(float(drop_condition >= c.condition_dropout)),
        }

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Mean squared error of what the network itself says (Ho et al. 2020, eq. 14, for noise prediction)."""
        net = self.net
        with torch.no_grad():
            x, c = (net.sum_up(net.look(batch[name])) for name in ("clean", "degraded"))
        t = net.times[batch["level"]]
        alpha, sigma = (v.view(-1, 1, 1, 1) for v in alpha_sigma(t))
        z = alpha * x + sigma * batch["noise"]
        said = net.out(z, t, c * batch["seen"].view(-1, 1, 1, 1), batch["task"])
        return F.mse_loss(said, target(net.config.prediction, x, batch["noise"], alpha, sigma))

    # -- the loop -------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to the last step; saves on the way and at the end."""
        c = self.config
        while self.step < c.steps:
            value = self.train_step()
            if self.accelerator.is_main_process and (self.step % c.log_steps == 0 or self.step == c.steps):
                self.log(f"step {self.step}  loss {value:.6f}")
            if self.step % c.save_steps == 0 or self.step == c.steps:
                self.save()
        self.accelerator.wait_for_everyone()  # who leaves first would leave others talking to nobody
        self.accelerator.end_training()

    def train_step(self) -> float:
        """One update; returns the mean loss of the whole batch."""
        c, total = self.config, torch.zeros((), device=self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = c.rate * min(1.0, (self.step + 1) / c.warmup)
        for turn in range(self.turns):
            with self.accelerator.accumulate(self.net.unet):
                value = self.loss(self.samples(turn))
                self.accelerator.backward(value)
                if self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self.net.unet.parameters(), c.clip)
                self.optimizer.step()
                self.optimizer.zero_grad()
            total += value.detach() / self.turns
        self.step += 1
        return float(self.accelerator.reduce(total, "mean"))

    # -- state ----------------------------------------------------------------------------------------------

    def save(self) -> None:
        """All that a continuation needs, then the checkpoint to use; each file is there whole or as it was."""
        from torch.distributed.checkpoint import state_dict as dcp

        whole = dcp.StateDictOptions(full_state_dict=True, cpu_offload=True)
        unet: dict[str, Any] = dcp.get_model_state_dict(self.net.unet, options=whole)
        adam: dict[str, Any] = dcp.get_optimizer_state_dict(self.net.unet, self._plain_optimizer(), options=whole)
        own = {str(j): lane.place for j, lane in self.lanes.items()}
        parts = library("accelerate").utils.gather_object([own])
        if not self.accelerator.is_main_process:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"unet.{k}": v.contiguous() for k, v in unet.items()}
        tensors |= {f"adam.{k}|{name}": v for k, slots in adam["state"].items() for name, v in slots.items()}
        notes = {
            "step": self.step,
            "places": {k: v for part in parts for k, v in part.items()},
            "groups": adam["param_groups"],
            "config": dataclasses.asdict(self.config),
            "names": self.names,
        }
        save_file(tensors, self.folder / f"{STATE}.tmp", {"state": json.dumps(notes)})
        os.replace(self.folder / f"{STATE}.tmp", self.folder / STATE)
        save_latent(self.net, self.folder, {k: v.half() for k, v in unet.items()})
        (self.folder / "README.md").write_text(self._card())

    def _plain_optimizer(self) -> torch.optim.Optimizer:
        plain: torch.optim.Optimizer = self.optimizer.optimizer
        return plain

    def _resume(self) -> list[Place]:
        """Weights, optimizer and step of the run in the folder; returns the lanes' places."""
        from torch.distributed.checkpoint import state_dict as dcp

        whole = dcp.StateDictOptions(full_state_dict=True, cpu_offload=True)
        try:
            with safe_open(self.folder / STATE, "pt") as file:
                notes = json.loads(file.metadata()["state"])
            tensors = load_file(self.folder / STATE)
            for name in ("batch", "seed", "model", "crop", "margin"):
                if notes["config"][name] != getattr(self.config, name):
                    raise UniresError(f"The run in {shown(self.folder)} was begun with another {name}.")
            if notes["names"] != self.names:
                raise UniresError(f"The run in {shown(self.folder)} was begun with other data.")

            def part(prefix: str) -> dict[str, Any]:
                return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

            dcp.set_model_state_dict(self.net.unet, part("unet."), options=whole)
            slots: dict[str, dict[str, Tensor]] = {}
            for key, value in part("adam.").items():
                weight, _, name = key.partition("|")
                slots.setdefault(weight, {})[name] = value
            adam = {"state": slots, "param_groups": notes["groups"]}
            dcp.set_optimizer_state_dict(self.net.unet, self._plain_optimizer(), adam, options=whole)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise UniresError(f"The run in {shown(self.folder)} can't be continued: it is damaged.") from error
        self.step = notes["step"]
        return [(int(a), int(b)) for a, b in (notes["places"][str(j)] for j in range(self.config.batch))]

    def _card(self) -> str:
        c = self.config
        odds = ", ".join(f"{name} {share:g}" for name, share in c.tasks.items())
        return (
            f"# UniRes latent\n\nTrained from `{Path(c.model).name}`, whose licence goes on to hold, for {self.step} "
            f"steps of {c.batch} crops of {c.crop} pixels from {len(self.names)} sources.\n\nTasks and odds: {odds}.\n"
        )
