"""The router: from the photo to what is wrong with it, how badly and where, and to the weights W that suit it.

It reads the photo's power spectra once (`spectrum.py`), however many steps follow. These are local, so that a large
photo is read in tiles; what decides is a small network on the whole map of them. It never sees an expert's result, nor
they it; the report depends on no expert at all, only the weights do."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from unires.compose import spectrum
from unires.compose.blur import Fit
from unires.compose.experts import KEEP, Expert
from unires.compose.weights import Weights
from unires.degrade.resample import Sliced
from unires.denoise.deconvolve import EXTENTS
from unires.denoise.interface import Hint
from unires.errors import OptionError, UniresError, shown

FILE = "router.safetensors"
SURE = 0.5  # probability from which a degradation counts as there
GATE_HEAT = 2 / 3
COVERS = ("denoise", "dejpeg")  # what hides the zeros that a blur leaves in a spectrum
POSSIBLE = 0.05  # probability from which an expert is told how strong its degradation seems
LIKELY = 0.2  # probability from which a second degradation is reckoned with
LEAST = 0.25  # an expert that no place gives more weight is not worth its pass: 6.0 passes became 4.4, for 0.01 dB
HARM_UNIT = 10.0  # dB
TILE = 1024  # pixels a side that are read at once; a multiple of every cell


Plan = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class RouterConfig:
    """`plans`: ways to restore, of which each photo gets the one that seems best; each a number of steps, and each step
    the experts that it chooses from. What is named first is where training starts, and where the weights stay while
    nothing was learnt."""

    tasks: tuple[str, ...]
    plans: tuple[Plan, ...]
    report_width: int = 128
    weigh_width: int = 96
    choice_width: int = 48

    def place(self, plan: int, step: int) -> int:
        """The number of a plan's step among all plans' steps."""
        return sum(map(len, self.plans[:plan])) + step


@dataclass(frozen=True)
class Reading:
    """What the router says of one photo. `present`: the probability of each task's degradation; `severity`: its
    strength, 0 to 1 of the training range; `harm`: the mean squared error that it would make alone, in dB (pixels from
    0 to 1), all of shape 5; `where`: the local probability, 5 x h x w; `weights`: what it would restore with; `told`:
    what each task's expert is told, where its degradation is possible at all; `others`: the weights of its other
    plans, best first."""

    tasks: tuple[str, ...]
    present: Tensor
    severity: Tensor
    harm: Tensor
    where: Tensor
    weights: Weights
    told: Mapping[str, Hint] = field(default_factory=dict)
    others: tuple[Weights, ...] = ()

    def within(self, steps: int) -> Weights:
        """The weights of the best plan that takes no more than so many steps (or of the shortest's first steps)."""
        plans = (self.weights, *self.others)
        fitting = [w for w in plans if w.steps <= steps]
        return fitting[0] if fitting else min(plans, key=lambda w: w.steps).first(steps)

    @property
    def found(self) -> list[str]:
        """The tasks whose degradation is there, the most harmful first."""
        there = [k for k in range(len(self.tasks)) if float(self.present[k]) >= SURE]
        return [self.tasks[k] for k in sorted(there, key=lambda k: -float(self.harm[k]))]


def _sorted_blocks(spectra: Tensor) -> Tensor:
    """... x FEATURES, with the steps between a block's columns and its rows (the last) in falling order: a photo
    that was cut has its blocks anywhere."""
    n = spectrum.BLOCK
    columns, rows = spectra[..., -2 * n : -n], spectra[..., -n:]
    steps = [v.sort(dim=-1, descending=True)[0] for v in (columns, rows)]
    return torch.cat((spectra[..., : -2 * n], *steps), dim=-1)


class Weigher(nn.Module):
    """W of one step, from local features and from what is known of the photo; starts with all weight on one expert.

    A network's weight passes a gate that is open or shut for the whole photo, so that what is not worth a pass costs
    none: the hard concrete gate (Louizos et al. 2018, "Learning sparse neural networks through L0 regularization",
    eq. 10 to 12)."""

    free: Tensor

    def __init__(self, features: int, known: int, width: int, experts: Sequence[str]) -> None:
        super().__init__()
        self.enter = nn.Conv2d(features, width, 1)
        self.gate = nn.Linear(width + known, len(experts))
        self.inner = nn.Conv2d(2 * width + known, width, 1)
        self.leave = nn.Conv2d(width, len(experts), 1)
        nn.init.zeros_(self.gate.weight)
        nn.init.constant_(self.gate.bias, 2.0)
        nn.init.zeros_(self.leave.weight)
        self.leave.bias = nn.Parameter(torch.eye(len(experts))[0])
        free = torch.tensor([name.partition("@")[0] == KEEP for name in experts])
        self.register_buffer("free", free, persistent=False)

    def forward(self, x: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """x: B x FEATURES x h x w, as `Router.look` makes them; known: B x n. Returns B x experts x h x w, each place's
        sum one, and the probability that each gate is open, B x experts (0 for what runs no network)."""
        x = F.leaky_relu(self.enter(F.dropout(x, 0.1, self.training)), 0.2)
        photo = torch.cat((x.mean(dim=(2, 3)), known), dim=1)
        around = photo[:, :, None, None].expand(-1, -1, *x.shape[-2:])
        row: Tensor = self.leave(F.leaky_relu(self.inner(torch.cat((x, around), dim=1)), 0.2))
        logits: Tensor = self.gate(photo)
        noise = torch.zeros_like(logits)
        if self.training:
            u = torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)
            noise = u.log() - (1 - u).log()
        opening = (1.2 * ((logits + noise) / GATE_HEAT).sigmoid() - 0.1).clamp(0, 1)
        gate = torch.where(self.free, 1.0, opening)[:, :, None, None]
        row = row * gate
        row = row + gate * (1 - row.sum(dim=1, keepdim=True)) / gate.sum(dim=1, keepdim=True)
        return row, torch.where(self.free, 0.0, (logits - GATE_HEAT * math.log(0.1 / 1.1)).sigmoid())


class Router(nn.Module):
    """`look` reduces what is seen place by place; `judge` and `decide` take it from there."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: RouterConfig) -> None:
        super().__init__()
        self.config = config
        width, tasks, seen = config.report_width, len(config.tasks), spectrum.FEATURES
        self.register_buffer("mean", torch.zeros(seen))  # of the features, over training photos
        self.register_buffer("deviation", torch.ones(seen))
        self.enter = nn.Conv2d(seen, width, 1)
        self.inner = nn.Conv2d(width, width, 1)
        # for each degradation: is it here, how strong, how harmful, and how much this place has to say about it;
        # then how much it has to say in the mean spectrum, twice
        self.report = nn.Conv2d(width, 4 * tasks + 2, 1)
        self.photo = nn.Sequential(
            nn.Linear(3 * spectrum.FEATURES + width + 3 * tasks, 2 * width), nn.LeakyReLU(0.2),
            nn.Linear(2 * width, width), nn.LeakyReLU(0.2), nn.Linear(width, 3 * tasks),
        )  # fmt: skip
        known = 3 * tasks + len(EXTENTS)
        self.weigh = nn.ModuleList(
            Weigher(seen, known, config.weigh_width, pool) for plan in config.plans for pool in plan
        )
        self.choice = nn.Sequential(
            nn.Dropout(0.1), nn.Linear(seen + known, config.choice_width), nn.LeakyReLU(0.2),
            nn.Linear(config.choice_width, len(config.plans)),
        ) if len(config.plans) > 1 else None  # fmt: skip

    def look(self, spectra: Tensor) -> Tensor:
        """Spectra of B photos, B x FEATURES x h x w, in units that the rest works with."""
        return ((spectra - self.mean[:, None, None]) / self.deviation[:, None, None]).clamp(-8, 8)

    def judge(self, look: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of the whole photo: presence (logits), severity, harm / HARM_UNIT, each B x 5; and presence by place,
        B x 5 x h x w. A place that can't tell (a flat sky says nothing of blur) has little say."""
        x = F.leaky_relu(self.enter(F.dropout(look, 0.1, self.training)), 0.2)
        x = F.leaky_relu(self.inner(F.dropout(x, 0.1, self.training)), 0.2)
        n = len(self.config.tasks)
        here, say, weight = self.report(x).split((3 * n, n, 2), dim=1)
        share = say.flatten(2).softmax(dim=2).view_as(say).repeat(1, 3, 1, 1)
        first = (share * here).sum(dim=(2, 3))
        weight = weight.flatten(2).softmax(dim=2)
        even = torch.full_like(weight[:, :1], 1 / weight.shape[2])
        means = _sorted_blocks(torch.cat((weight, even), dim=1) @ look.flatten(2).mT)
        whole = first + self.photo(torch.cat((means.flatten(1), x.mean(dim=(2, 3)), first), dim=1))
        presence, severity, harm = whole.chunk(3, dim=1)
        return presence, severity, harm, here[:, :n]

    def known(self, presence: Tensor, severity: Tensor, harm: Tensor, plane: Tensor) -> tuple[Tensor, dict[str, Hint]]:
        """All that is known of one photo, from what `judge` says of it and from its mean log power: for `decide`, and
        for the experts. Each is told how strong its degradation is, where that is possible at all; blurs are looked at
        more closely, and the evidence for one tells `decide` whether its expert can be relied on."""
        sure = presence.sigmoid()
        covered = [k for k, task in enumerate(self.config.tasks) if task in COVERS and float(sure[k]) >= SURE]
        fit = Fit(plane, clean=not covered)
        told: dict[str, Hint] = {}
        evidence = dict.fromkeys(EXTENTS, 0.0)
        for k, task in enumerate(self.config.tasks):
            if float(sure[k]) >= POSSIBLE:
                told[task] = Hint(float(severity[k].clamp(0, 1)))
                if task in EXTENTS:
                    told[task], evidence[task] = fit.hint(task, told[task].severity)
        found = torch.tensor(list(evidence.values())).to(sure).clamp(-1, 1)
        return torch.cat((sure, sure * severity, harm / 5, 2 * found)), told

    def decide(self, look: Tensor, known: Tensor, plan: int, step: int) -> tuple[Tensor, Tensor]:
        """W of a plan's step, B x experts x h x w, and how likely each expert's pass is, B x experts; known: B x n."""
        weights, passes = self.weigh[self.config.place(plan, step)](look, known)
        return weights, passes

    def choose(self, look: Tensor, known: Tensor) -> Tensor:
        """How good each plan seems for B photos: logits, B x plans."""
        if self.choice is None:
            return look.new_zeros(len(look), 1)
        logits: Tensor = self.choice(torch.cat((look.mean(dim=(2, 3)), known), dim=1))
        return logits

    @torch.inference_mode()
    def read(self, picture: Sliced) -> Reading:
        """Of a picture of any size, 1 x 3 x H x W, in tiles."""
        _, _, height, width = picture.shape
        cell, rows, total = spectrum.CELL, [], torch.zeros(())
        for top in range(0, height, TILE):
            row = []
            for left in range(0, width, TILE):
                y, x = max(0, top - cell), max(0, left - cell)
                part = picture[..., y : min(height, top + TILE + cell), x : min(width, left + TILE + cell)]
                down, right = (top - y) // cell, (left - x) // cell
                spectra, power = spectrum.spectra(part.to(self.mean))
                own = slice(down, down + TILE // cell), slice(right, right + TILE // cell)
                row.append(self.look(spectra)[..., *own])
                total = total + power[0][own].sum(dim=(0, 1))
            rows.append(torch.cat(row, dim=3))
        look = torch.cat(rows, dim=2)
        return self.reading(look, total / look[0, 0].numel())

    @torch.inference_mode()
    def reading(self, look: Tensor, plane: Tensor) -> Reading:
        """Of one photo: 1 x C x h x w, and its mean log power. Experts whose weight is nowhere more than LEAST are left
        out."""
        presence, severity, harm, where = self.judge(look)
        known, told = self.known(presence[0], severity[0], harm[0], plane)
        plans = [
            self.weights([self.decide(look, known[None], p, s)[0][0] for s in range(len(plan))], plan, told)
            for p, plan in enumerate(self.config.plans)
        ]
        order = [plans[i] for i in self.choose(look, known[None])[0].argsort(descending=True).tolist()]
        sure = presence[0].sigmoid()
        reported = {"blind", KEEP, *self.config.tasks}  # of what experts were added for the report knows nothing
        if (int((sure >= LIKELY).sum()) == 1 and float(sure.max()) >= SURE
                and reported.issuperset(self.config.plans[0][0])):  # nothing to compose  # fmt: skip
            right = Expert(self.config.tasks[int(sure.argmax())])
            order.insert(0, Weights((right,), torch.ones(1, 1)))
        strength = [told[task].severity if task in told else float(severity[0, k].clamp(0, 1))
                    for k, task in enumerate(self.config.tasks)]
        return Reading(
            self.config.tasks, sure, torch.tensor(strength), harm[0] * HARM_UNIT, where[0].sigmoid(), order[0], told,
            tuple(order[1:]),
        )

    def weights(self, rows: Sequence[Tensor], plan: Plan, told: Mapping[str, Hint] | None = None) -> Weights:
        """One object from a map (experts x h x w) for each step; what is left out leaves its share to the others, and a
        later step that would only keep what there is is left out. So is, before the last step, whoever isn't `told`
        anything (None: nobody): to clean what is clean gains little there, and costs those who come after detail."""
        names = tuple(dict.fromkeys(name for step in plan for name in step))
        values: list[Tensor] = []
        for number, (step, row) in enumerate(zip(plan, rows, strict=True), start=1):
            most = row.abs().flatten(1).amax(dim=1)
            if told is not None and number < len(plan):
                idle = [(task := name.partition("@")[0]) in self.config.tasks and task not in told for name in step]
                most = torch.where(torch.tensor(idle, device=most.device) & (not all(idle)), 0.0, most)
            used = most >= min(LEAST, float(most.max()))  # where all are small, the largest stays
            kept = row[used] + (1 - row[used].sum(dim=0)) / int(used.sum())
            own = [name for name, u in zip(step, used.tolist(), strict=True) if u]
            if values and own == ["keep@relay"]:
                continue
            values.append(torch.zeros(len(names), *row.shape[-2:]))
            values[-1][[names.index(name) for name in own]] = kept.cpu()
        return Weights(tuple(Expert.parse(n, [n.partition("@")[0]]) for n in names), torch.stack(values))

    def with_expert(self, name: str) -> Router:
        """The same with one column more in each step, as yet without weight: an expert that was added to the model; on
        the photo in a plan's first step, on the estimate before in the others."""
        plans = tuple(
            tuple((*pool, name if s == 0 else f"{name}@relay") for s, pool in enumerate(plan))
            for plan in self.config.plans
        )
        router = Router(replace(self.config, plans=plans))
        old, state = self.state_dict(), router.state_dict()
        for key, value in state.items():
            value.zero_()
            value[: len(old[key])] = old[key]
        router.load_state_dict(state)
        return router.eval().requires_grad_(False)

    def save(self, folder: Path) -> None:
        """Beside the denoiser that it was trained for, in half precision."""
        tensors = {k: v.half().contiguous() for k, v in self.state_dict().items()}
        (folder / FILE).write_bytes(save(tensors, {"config": json.dumps(asdict(self.config))}))

    @classmethod
    def load(cls, folder: Path) -> Router | None:
        """The router of a checkpoint folder; None where there is none. Raises UniresError if it is damaged."""
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                values: dict[str, Any] = json.loads(file.metadata()["config"])
            steps = values.pop("steps", None)  # of a router from before there were plans
            plans = [steps] if steps else values["plans"]
            values |= {"tasks": tuple(values["tasks"]), "plans": tuple(tuple(map(tuple, plan)) for plan in plans)}
            router = cls(RouterConfig(**values))
            router.load_state_dict({k: v.float() for k, v in load_file(path).items()})
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError, OptionError) as error:
            raise UniresError(f"The router in {shown(folder)} is damaged.") from error
        return router.eval().requires_grad_(False)
