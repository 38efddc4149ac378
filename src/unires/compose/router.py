"""The router: from the photo to what is wrong with it, how badly and where, and to the weights W that suit it.

It reads the photo (`report.py`) before any expert runs, and where the first steps clean it, what they left as well
(`second.py`), before the last step's weights are settled. What it sees is local, so that a large photo is read in
tiles; what decides is a small network on the whole map. The report depends on no expert at all, only the second look
and the weights do."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from unires.compose import cells
from unires.compose.blur import Fit
from unires.compose.cells import COMPRESSED, Cells
from unires.compose.consistency import well_told
from unires.compose.experts import KEEP, Expert
from unires.compose.grid import ENLARGED, Grid, find
from unires.compose.origin import Origin
from unires.compose.report import LEAK, REACH, SEEN, Judgement, Report
from unires.compose.second import SecondLook
from unires.compose.spectrum import CELL, light
from unires.compose.weights import Weights
from unires.degrade.isolated import severity_of, strength_of
from unires.degrade.operators import round8
from unires.degrade.resample import Sliced
from unires.denoise.deconvolve import EXTENTS
from unires.denoise.interface import Hint
from unires.errors import OptionError, UniresError, shown

FILE = "router.safetensors"
SURE = 0.5  # probability from which a degradation counts as there
DECIDED = 1.5  # the odds of each, to this power, are what weights are chosen by: fewer passes, less done in vain
GATE_HEAT = 2 / 3
COVERS = ("denoise", "dejpeg")  # what hides the zeros that a blur leaves in a spectrum, and where that ends
SHARP = 0.8  # the same for a blur alone: what is in focus but for its background shall not be deblurred all over
POSSIBLE = 0.05  # probability from which an expert is told how strong its degradation seems
LIKELY = 0.2  # probability from which a second degradation is reckoned with
CERTAIN = 6.0  # log odds of what needs no guess
SOFT = "defocus-deblur"  # the degradation that few pixels are taken for
IN_FOCUS = 0.1  # probability below which the small photo shows none of it
LEAST = 0.25  # an expert that no place gives more weight is not worth its pass: 6.0 passes became 4.4, for 0.01 dB
HARM_UNIT = 10.0  # dB
TILE = 1024  # pixels a side that are read at once; a multiple of every cell
LARGE = 512  # pixels a side from which every other place each way tells enough of the light


Plan = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class RouterConfig:
    """`plans`: ways to restore, each a number of steps, and each step the experts that it chooses from. The last is the
    default; those before it are for who wants fewer steps. What is named first is where training starts, and where the
    weights stay while nothing was learnt."""

    tasks: tuple[str, ...]
    plans: tuple[Plan, ...]
    report_width: int = 128
    weigh_width: int = 96

    def place(self, plan: int, step: int) -> int:
        """The number of a plan's step among all plans' steps."""
        return sum(map(len, self.plans[:plan])) + step


class Seen(NamedTuple):
    """What a second look starts from: what was seen of the photo, 1 x SEEN x h x w; the mean log power of its light;
    what was said of it; and the weight maps of the steps that clean, experts x h x w each."""

    look: Tensor
    plane: Tensor
    judged: Judgement
    rows: Sequence[Tensor]


@dataclass(frozen=True)
class Reading:
    """What the router says of one photo. `present`: the probability of each task's degradation; `severity`: its
    strength, 0 to 1 of the training range; `harm`: the mean squared error that it would make alone, in dB (pixels from
    0 to 1), all of shape 5; `where`: the local probability, 5 x h x w; `weights`: what it would restore with; `told`:
    what each task's expert is told, where its degradation is possible at all; `others`: the weights of the router's
    other plans, the longest first. `grid`: what the photo was enlarged from, and `cells`: what JPEG has rounded it to,
    if known. `cleaning`: after so many of the weights' first steps `Router.look_again` would tell more, from `seen`;
    0: no second look is due."""

    tasks: tuple[str, ...]
    present: Tensor
    severity: Tensor
    harm: Tensor
    where: Tensor
    weights: Weights
    told: Mapping[str, Hint] = field(default_factory=dict)
    others: tuple[Weights, ...] = ()
    grid: Grid | None = None
    cells: Cells | None = None
    cleaning: int = 0
    seen: Seen | None = None

    def within(self, steps: int) -> Weights:
        """The weights of the longest plan that takes no more than so many steps (or of the shortest's first steps)."""
        plans = (self.weights, *self.others)
        fitting = [w for w in plans if w.steps <= steps]
        return fitting[0] if fitting else min(plans, key=lambda w: w.steps).first(steps)

    @property
    def origin(self) -> Origin:
        """What estimates are kept to. Where noise was compressed with the photo, the cells are the noisy photo's."""
        noise = self.tasks.index("denoise") if "denoise" in self.tasks else None
        quiet = noise is None or float(self.present[noise]) < LIKELY
        return Origin(self.grid, self.cells if quiet else None)

    @property
    def found(self) -> list[str]:
        """The tasks whose degradation is there, the most harmful first."""
        there = [k for k in range(len(self.tasks)) if float(self.present[k]) >= SURE]
        return [self.tasks[k] for k in sorted(there, key=lambda k: -float(self.harm[k]))]


class Weigher(nn.Module):
    """W of one step, from local features and from what is known of the photo; starts with all weight on one expert.

    A network's weight passes a gate that is open or shut for the whole photo, so that what is not worth a pass costs
    none: the hard concrete gate (Louizos et al. 2018, "Learning sparse neural networks through L0 regularization",
    eq. 10 to 12). It is shut for whose degradation is not even possible: to clean what is clean gains nothing, and
    costs detail."""

    free: Tensor
    place: Tensor

    def __init__(self, known: int, width: int, tasks: Sequence[str], experts: Sequence[str]) -> None:
        super().__init__()
        self.enter = nn.Conv2d(SEEN, width, 1)
        self.gate = nn.Linear(width + known, len(experts))
        self.inner = nn.Conv2d(2 * width + known, width, 1)
        self.leave = nn.Conv2d(width, len(experts), 1)
        nn.init.zeros_(self.gate.weight)
        nn.init.constant_(self.gate.bias, 2.0)
        nn.init.zeros_(self.leave.weight)
        self.leave.bias = nn.Parameter(torch.eye(len(experts))[0])
        own = [name.partition("@")[0] for name in experts]
        self.register_buffer("free", torch.tensor([task == KEEP for task in own]), persistent=False)
        # of each expert's degradation among the reported ones; -1: it is none of them
        place = torch.tensor([tasks.index(task) if task in tasks else -1 for task in own])
        self.register_buffer("place", place, persistent=False)

    def forward(self, x: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """x: B x SEEN x h x w; known: B x n, first how likely each degradation is. Returns B x experts x h x w, each
        place's sum one, and the probability that each gate is open, B x experts (0 for what runs no network)."""
        x = F.leaky_relu(self.enter(F.dropout(x, 0.1, self.training)), LEAK)
        photo = torch.cat((x.mean(dim=(2, 3)), known), dim=1)
        around = photo[:, :, None, None].expand(-1, -1, *x.shape[-2:])
        row: Tensor = self.leave(F.leaky_relu(self.inner(torch.cat((x, around), dim=1)), LEAK))
        logits: Tensor = self.gate(photo)
        noise = torch.zeros_like(logits)
        if self.training:
            u = torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)
            noise = u.log() - (1 - u).log()
        shut = (self.place >= 0) & (known[:, self.place] < POSSIBLE)
        shut = shut & ~shut.all(dim=1, keepdim=True)
        opening = (1.2 * ((logits + noise) / GATE_HEAT).sigmoid() - 0.1).clamp(0, 1)
        gate = torch.where(self.free, 1.0, opening).masked_fill(shut, 0.0)[:, :, None, None]
        row = row * gate
        row = row + gate * (1 - row.sum(dim=1, keepdim=True)) / gate.sum(dim=1, keepdim=True).clamp(min=1e-6)
        passes = (logits - GATE_HEAT * math.log(0.1 / 1.1)).sigmoid().masked_fill(self.free | shut, 0.0)
        return row, passes


class Router(nn.Module):
    """The report, and what weighs experts by it."""

    def __init__(self, config: RouterConfig) -> None:
        super().__init__()
        self.config = config
        tasks = len(config.tasks)
        self.report = Report(tasks, config.report_width)
        self.second = SecondLook(self.report)
        known = 3 * tasks + len(EXTENTS) + 1
        self.weigh = nn.ModuleList(
            Weigher(known, config.weigh_width, config.tasks, pool) for plan in config.plans for pool in plan
        )

    def known(
        self, judged: Judgement, plane: Tensor | None, cleaned: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Hint]]:
        """All that is known of one photo, from what the report says of it and from the mean log power of its light
        (plane) and of the light of what the first steps left (cleaned): for `decide`, and for the experts. Each is told
        how strong its degradation is, where that is possible at all; blurs are looked at more closely (without a plane
        they aren't), in the light that shows them better, and the evidence for one tells `decide` whether its expert
        can be relied on."""
        sure, possible = _decided(judged), judged.presence.sigmoid() >= POSSIBLE
        covered = [k for k, task in enumerate(self.config.tasks) if task in COVERS and float(sure[k]) >= SURE]
        fits = [] if plane is None else [Fit(plane, clean=not covered)]
        if cleaned is not None:
            fits.append(Fit(cleaned, clean=False))
        told: dict[str, Hint] = {}
        evidence = dict.fromkeys(EXTENTS, 0.0)
        for k, task in enumerate(self.config.tasks):
            if possible[k]:
                told[task] = Hint(float(judged.severity[k].clamp(0, 1)))
                if task in EXTENTS and fits:
                    turn, read = (float(judged.turn[0]), float(judged.turn[1])), told[task].severity
                    told[task], evidence[task] = max((fit.hint(task, read, turn) for fit in fits), key=lambda f: f[1])
        covers = torch.tensor([task in COVERS for task in self.config.tasks], device=sure.device)
        if bool((sure[covers] >= LIKELY).all()) and bool((sure[~covers] < SURE).all()):
            # as in every camera's file: noise and JPEG, and under both a softness that may be the lens's own
            sure = sure.masked_fill(~covers, 0.0)
        found = torch.tensor(list(evidence.values())).to(sure).clamp(-1, 1)
        pointed = judged.turn.norm()[None] / 10
        return torch.cat((sure, sure * judged.severity, judged.harm / 5, 2 * found, pointed)), told

    def decide(self, look: Tensor, known: Tensor, plan: int, step: int) -> tuple[Tensor, Tensor]:
        """W of a plan's step, B x experts x h x w, and how likely each expert's pass is, B x experts; known: B x n."""
        weights, passes = self.weigh[self.config.place(plan, step)](look, known)
        return weights, passes

    @torch.inference_mode()
    def read(self, picture: Sliced, grid: Grid | None = None) -> Reading:
        """Of a picture of any size, 1 x 3 x H x W, in tiles. grid: what it was enlarged from, where that is known; else
        it is looked for."""
        look, plane = self._look(picture, self.report.see)
        judged = self.report(look).of(0)
        grid = grid or self._grid(picture, judged)
        return self.reading(look, plane, grid, self._cells(picture, judged), self._soft(picture, grid))

    def _cells(self, picture: Sliced, judged: Judgement) -> Cells | None:
        """What JPEG has rounded a picture to, if it seems to have been compressed and that shows."""
        likely = dict(zip(self.config.tasks, judged.presence.sigmoid().tolist(), strict=True))
        return cells.find(picture) if likely.get(COMPRESSED, 0.0) >= POSSIBLE else None

    def _grid(self, picture: Sliced, judged: Judgement) -> Grid | None:
        """What a picture was made from, if it seems to have been enlarged and that shows."""
        likely = dict(zip(self.config.tasks, judged.presence.sigmoid().tolist(), strict=True))
        covered = any(likely.get(task, 0.0) >= SURE for task in COVERS)
        if likely.get(ENLARGED, 0.0) < (POSSIBLE if covered else LIKELY):
            return None  # an expert has nothing to undo there, whatever the photo was made from
        read = float(judged.severity[self.config.tasks.index(ENLARGED)].clamp(0, 1))
        compressed = likely.get("dejpeg", 0.0) >= POSSIBLE
        return find(picture, strength_of(ENLARGED, read), compressed, likely[ENLARGED] >= SURE)

    def _soft(self, picture: Sliced, grid: Grid | None) -> float | None:
        """How likely the small photo is out of focus that a picture was made from (its centre); None where there is
        none."""
        if grid is None or SOFT not in self.config.tasks:
            return None
        height, width = picture.shape[-2:]
        top, left = max(0, height - TILE) // 2, max(0, width - TILE) // 2
        part = picture[..., top : top + TILE, left : left + TILE].to(self.report.mean)
        axes = zip(grid.at(top, left)[:2], part.shape[-2:], strict=True)
        down, across = (well_told(axis, length, grid.kernel).to(part) for axis, length in axes)
        small = round8(down @ part @ across.T)
        judged = self.report(self.report.see(small)).of(0)
        return float(judged.presence[self.config.tasks.index(SOFT)].sigmoid())

    def certain(
        self, judged: Judgement, grid: Grid | None, cells: Cells | None, soft: float | None = None
    ) -> Judgement:
        """Judged by what is known for certain: that a photo was enlarged, and how much; how much it was compressed; and
        that few pixels are all that is soft about it, where that is doubtful and the small photo doesn't look so."""
        presence, severity = judged.presence.clone(), judged.severity.clone()
        if soft is not None and soft < IN_FOCUS:
            k = self.config.tasks.index(SOFT)
            presence[k] = -CERTAIN if float(presence[k].sigmoid()) < SURE else presence[k]
        if grid is not None and ENLARGED in self.config.tasks:
            k = self.config.tasks.index(ENLARGED)
            presence[k], severity[k] = CERTAIN, severity_of(ENLARGED, torch.tensor(grid.scale))
        if cells is not None:
            k = self.config.tasks.index(COMPRESSED)
            severity[k] = severity_of(COMPRESSED, torch.tensor(101.0 - cells.quality))
        return judged._replace(presence=presence, severity=severity)

    def _look(self, picture: Sliced, see: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """What is seen of a picture of any size, 1 x SEEN x h x w, and the mean log power of its light."""
        *_, height, width = picture.shape
        every = 2 if min(height, width) > LARGE else 1
        looks, total, count = [], torch.zeros(()), 0
        for part, rows, columns in self._tiles(picture):
            looks.append(see(part)[..., rows, columns])
            own = slice(rows.start, rows.stop, every), slice(columns.start, columns.stop, every)
            power = light(part, own)[0].flatten(0, 1)
            total, count = total + power.sum(dim=0), count + len(power)
        return _together(looks, width), total / count

    def _tiles(self, picture: Sliced) -> Iterator[tuple[Tensor, slice, slice]]:
        """Parts of a picture, from left to right and down, each with the rows and columns of it (places) that count."""
        *_, height, width = picture.shape
        for top in range(0, height, TILE):
            for left in range(0, width, TILE):
                y, x = max(0, top - REACH), max(0, left - REACH)
                part = picture[..., y : min(height, top + TILE + REACH), x : min(width, left + TILE + REACH)]
                down, right = (top - y) // CELL, (left - x) // CELL
                rows, columns = (slice(first, first + TILE // CELL) for first in (down, right))
                yield part.to(self.report.mean), rows, columns

    @torch.inference_mode()
    def reading(
        self, look: Tensor, plane: Tensor, grid: Grid | None = None, cells: Cells | None = None,
        soft: float | None = None,
    ) -> Reading:
        """Of one photo: 1 x SEEN x h x w, the mean log power of its light, what it was enlarged from, what JPEG has
        rounded it to, and how likely the small one is out of focus. Experts whose weight is nowhere more than LEAST are
        left out."""
        before = self.report(look).of(0)
        judged = self.certain(before, grid, cells, soft)
        known, told = self.known(judged, plane)
        plans = self.config.plans
        rows = [self.rows(look, known, p, len(plan)) for p, plan in enumerate(plans)]
        order = [self.weights(*both) for both in zip(reversed(rows), reversed(plans), strict=True)]
        if (lone := self.lone(judged)) is not None:
            return self._reading(judged, told, [lone, *order], grid, cells)
        seen = Seen(look, plane, before, rows[-1][:-1])
        return self._reading(judged, told, order, grid, cells, self.cleaning(seen.rows), seen)

    @torch.inference_mode()
    def look_again(self, reading: Reading, cleaned: Sliced) -> Reading:
        """What is known after the first `reading.cleaning` steps: cleaned, 1 x 3 x H x W in [0, 1], is the photo as
        they left it. Those steps stay as they were."""
        assert reading.seen is not None
        look, plane, before, rows = reading.seen
        reader = self.second.reader(self.report)
        left, light_left = self._look(cleaned, lambda part: reader.see(round8(part)))
        settled = self.settled(before, reader(left).of(0))
        judged = self.certain(settled, reading.grid, reading.cells, self._soft(cleaned, reading.grid))
        known, told = self.known(judged, plane, light_left)
        last = len(self.config.plans) - 1
        weights, _ = self.decide(look, known[None], last, len(rows))
        order = [self.weights([*rows, weights[0]], self.config.plans[last]), *reading.others]
        return self._reading(judged, told, order, reading.grid, reading.cells)

    def settled(self, photo: Judgement, cleaned: Judgement) -> Judgement:
        """One judgement from those of one photo and of what the first steps left of it."""
        both = (Judgement(*(v[None] for v in judged)) for judged in (photo, cleaned))
        return self.second.settle(*both).of(0)

    def rows(self, look: Tensor, known: Tensor, plan: int, steps: int) -> list[Tensor]:
        """Weight maps of a plan's first steps for one photo, experts x h x w each."""
        return [self.decide(look, known[None], plan, step)[0][0] for step in range(steps)]

    def cleaning(self, rows: Sequence[Tensor]) -> int:
        """How many of the last plan's steps before its last, whose maps these are, do something."""
        if not rows:
            return 0
        weights = self.weights(rows, self.config.plans[-1][:-1])
        return 0 if weights.only_keep else weights.steps

    def lone(self, judged: Judgement) -> Weights | None:
        """The right expert alone, where only one degradation is likely: nothing to compose. `keep` where none is: who
        weighs experts would choose one of them all the same."""
        sure = _decided(judged)
        reported = {"blind", KEEP, *self.config.tasks}  # of what experts were added for the report knows nothing
        if not reported.issuperset(self.config.plans[0][0]):
            return None
        if not bool((sure >= LIKELY).any()):
            return Weights((Expert(KEEP),), torch.ones(1, 1))
        k = int(sure.argmax())
        enough = SHARP if self.config.tasks[k] in EXTENTS else SURE
        if int((sure >= LIKELY).sum()) == 1 and float(judged.presence[k].sigmoid()) >= enough:
            return Weights((Expert(self.config.tasks[k]),), torch.ones(1, 1))
        return None

    def _reading(
        self, judged: Judgement, told: dict[str, Hint], order: Sequence[Weights], grid: Grid | None,
        cells: Cells | None, cleaning: int = 0, seen: Seen | None = None,
    ) -> Reading:
        strength = [told[task].severity if task in told else float(judged.severity[k].clamp(0, 1))
                    for k, task in enumerate(self.config.tasks)]  # fmt: skip
        return Reading(
            self.config.tasks, judged.presence.sigmoid(), torch.tensor(strength), judged.harm * HARM_UNIT,
            judged.where.sigmoid(), order[0], told, tuple(order[1:]), grid, cells, cleaning, seen,
        )

    def weights(self, rows: Sequence[Tensor], plan: Plan) -> Weights:
        """One object from a map (experts x h x w) for each step. What is left out leaves its share to the others; a
        step that would only keep what there is is left out, and who sees the relay before anything was done sees the
        photo."""
        steps: list[dict[str, Tensor]] = []
        for step, row in zip(plan, rows, strict=True):
            most = row.abs().flatten(1).amax(dim=1)
            used = most >= min(LEAST, float(most.max()))  # where all are small, the largest stays
            share = (1 - row[used].sum(dim=0)) / int(used.sum())
            own: dict[str, Tensor] = {}
            for name, weight in [(n, w + share) for n, w, u in zip(step, row, used.tolist(), strict=True) if u]:
                name = name if steps else name.removesuffix("@relay")
                own[name] = own[name] + weight if name in own else weight
            if own.keys() != {"keep@relay" if steps else KEEP}:
                steps.append(own)
        steps = steps or [{KEEP: torch.ones_like(rows[0][0])}]
        names = tuple(dict.fromkeys(name for own in steps for name in own))
        nothing = torch.zeros_like(rows[0][0])
        values = torch.stack([torch.stack([own.get(name, nothing) for name in names]) for own in steps])
        return Weights(tuple(Expert.parse(n, [n.partition("@")[0]]) for n in names), values.cpu())

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
            plans = tuple(tuple(map(tuple, plan)) for plan in values["plans"])
            values |= {"tasks": tuple(values["tasks"]), "plans": plans}
            router = cls(RouterConfig(**values))
            router.load_state_dict({k: v.float() for k, v in load_file(path).items()})
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError, OptionError) as error:
            raise UniresError(f"The router in {shown(folder)} is damaged.") from error
        return router.eval().requires_grad_(False)


def _decided(judged: Judgement) -> Tensor:
    """How likely each degradation is, as far as weights are concerned."""
    return (DECIDED * judged.presence).sigmoid()


def _together(looks: Sequence[Tensor], width: int) -> Tensor:
    """One map from those of tiles, line by line, of a picture so wide."""
    across = -(-width // TILE)
    lines = [torch.cat([*looks[i : i + across]], dim=3) for i in range(0, len(looks), across)]
    return torch.cat(lines, dim=2)
