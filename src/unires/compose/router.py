"""The router: from the photo to what is wrong with it, how badly and where, and to the weights W that suit it.

A small convolutional network reads the photo once, however many steps follow. Its features are local, so that a large
photo is read in tiles; all that decides is a second, tiny network on the whole map of features. It never sees an
expert's result, and experts never see it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from unires.compose.experts import Expert
from unires.compose.weights import Weights
from unires.errors import OptionError, UniresError, shown

FILE = "router.safetensors"
SURE = 0.5  # probability from which a degradation counts as there
LEAST = 0.04  # an expert that no place gives more weight than this is not worth its pass
HARM_UNIT = 10.0  # dB


@dataclass(frozen=True)
class RouterConfig:
    """`steps`: the experts that each step chooses from; what is named first is where training starts, and where the
    weights stay while nothing was learnt. Levels of `widths` work at 1/2, 1/4, ... of the resolution."""

    tasks: tuple[str, ...]
    steps: tuple[tuple[str, ...], ...]
    widths: tuple[int, ...] = (24, 48, 64, 96, 128)
    hidden: int = 128

    @property
    def cell(self) -> int:
        """Pixels a side that share one decision."""
        return int(2 ** len(self.widths))


@dataclass(frozen=True)
class Reading:
    """What the router says of one photo. `present`: the probability of each task's degradation; `severity`: its
    strength, 0 to 1 of the training range; `harm`: the mean squared change it made, in dB (pixels from 0 to 1), all of
    shape 5; `where`: the local probability, 5 x h x w; `weights`: what it would restore with."""

    tasks: tuple[str, ...]
    present: Tensor
    severity: Tensor
    harm: Tensor
    where: Tensor
    weights: Weights

    @property
    def found(self) -> list[str]:
        """The tasks whose degradation is there, the most harmful first."""
        there = [k for k in range(len(self.tasks)) if float(self.present[k]) >= SURE]
        return [self.tasks[k] for k in sorted(there, key=lambda k: -float(self.harm[k]))]

    @property
    def told(self) -> dict[str, float]:
        """The severity that each task's expert is told; an expert whose degradation isn't there is told nothing."""
        return {t: float(self.severity[self.tasks.index(t)]) for t in self.found}


class Residual(nn.Module):
    """x + conv(relu(conv(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = (nn.Conv2d(width, width, 3, padding=1, padding_mode="replicate") for _ in range(2))
        self.b.weight.data.mul_(0.2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.b(F.leaky_relu(self.a(x), 0.2))
        return out


def _weigher(width: int, hidden: int, experts: int) -> nn.Sequential:
    """Place by place; starts with all weight on the first expert."""
    last = nn.Conv2d(hidden, experts, 1)
    nn.init.zeros_(last.weight)
    last.bias = nn.Parameter(torch.eye(experts)[0])
    first, second = nn.Conv2d(width, hidden, 1), nn.Conv2d(hidden, hidden, 1)
    return nn.Sequential(first, nn.LeakyReLU(0.2), second, nn.LeakyReLU(0.2), last)


class Router(nn.Module):
    """`features` reads, `decide` judges; `reading` puts it in words' reach."""

    def __init__(self, config: RouterConfig) -> None:
        super().__init__()
        self.config = config
        widths, hidden, n = config.widths, config.hidden, len(config.tasks)
        self.enter = nn.Conv2d(12, widths[0], 3, padding=1, padding_mode="replicate")
        self.levels = nn.ModuleList(Residual(w) for w in widths)
        self.reduce = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairwise(widths))
        # for each degradation: is it here, how strong, how harmful, and how much this place has to say about it
        self.report = nn.Sequential(nn.Conv2d(widths[-1], hidden, 1), nn.LeakyReLU(0.2), nn.Conv2d(hidden, 4 * n, 1))
        self.weigh = nn.ModuleList(_weigher(2 * widths[-1] + 3 * n, hidden, len(step)) for step in config.steps)

    def features(self, pixels: Tensor) -> Tensor:
        """B x 3 x H x W in [0, 1] to B x C x H/cell x W/cell; sides are multiples of the cell."""
        x = F.pixel_unshuffle(pixels * 2 - 1, 2).contiguous(memory_format=torch.channels_last)
        x = self.levels[0](F.leaky_relu(self.enter(x), 0.2))
        for reduce, level in zip(self.reduce, list(self.levels)[1:], strict=True):
            x = level(F.leaky_relu(reduce(x), 0.2))
        out: Tensor = x
        return out

    def judge(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of the whole photo: presence (logits), severity, harm / HARM_UNIT, each B x 5; and presence by place,
        B x 5 x h x w. A place that can't tell (a flat sky says nothing of blur) has little say."""
        presence, severity, harm, say = self.report(features).float().chunk(4, dim=1)
        share = say.flatten(2).softmax(dim=2).view_as(say)
        whole = [(share * x).sum(dim=(2, 3)) for x in (presence, severity, harm)]
        return whole[0], whole[1], whole[2], presence

    def decide(self, features: Tensor, known: tuple[Tensor, Tensor, Tensor]) -> list[Tensor]:
        """W of each step, B x experts x h x w, each place's sum one; `known` is the photo's judgement."""
        presence, severity, harm = known
        facts = torch.cat((presence.sigmoid(), presence.sigmoid() * severity, harm / 5), dim=1)
        mean = features.float().mean(dim=(2, 3))
        around = torch.cat((mean, facts), dim=1)[:, :, None, None].expand(-1, -1, *features.shape[-2:])
        x = torch.cat((features.float(), around), dim=1)
        rows = [weigh(x) for weigh in self.weigh]
        return [row + (1 - row.sum(dim=1, keepdim=True)) / row.shape[1] for row in rows]

    @torch.inference_mode()
    def reading(self, features: Tensor) -> Reading:
        """Of one photo, 1 x C x h x w. Experts whose weight is nowhere more than LEAST are left out."""
        presence, severity, harm, where = self.judge(features)
        rows = self.decide(features, (presence, severity, harm))
        return Reading(
            self.config.tasks, presence[0].sigmoid(), severity[0].clamp(0, 1), harm[0] * HARM_UNIT, where[0].sigmoid(),
            self.weights([row[0] for row in rows]),
        )

    def weights(self, rows: Sequence[Tensor]) -> Weights:
        """One object from a map (experts x h x w) for each step; what is left out leaves its share to the others."""
        names = tuple(dict.fromkeys(name for step in self.config.steps for name in step))
        size = rows[0].shape[-2:]
        values = torch.zeros(len(rows), len(names), *size)
        for s, (step, row) in enumerate(zip(self.config.steps, rows, strict=True)):
            used = row.abs().flatten(1).amax(dim=1) >= LEAST
            kept = row[used] + (1 - row[used].sum(dim=0)) / int(used.sum())
            values[s, [names.index(n) for n, u in zip(step, used.tolist(), strict=True) if u]] = kept
        return Weights(tuple(Expert.parse(n, (*self.config.tasks, "blind")) for n in names), values)

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
            values |= {k: tuple(values[k]) for k in ("tasks", "widths")}
            router = cls(RouterConfig(**values | {"steps": tuple(map(tuple, values["steps"]))}))
            router.load_state_dict({k: v.float() for k, v in load_file(path).items()})
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError, OptionError) as error:
            raise UniresError(f"The router in {shown(folder)} is damaged.") from error
        return router.eval().requires_grad_(False)
