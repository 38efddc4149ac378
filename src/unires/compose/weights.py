"""W: how much each expert counts in each step. Written by hand, searched, routed or optimised, it is this object."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from unires.compose.experts import KEEP, Expert
from unires.errors import OptionError, UniresError, shown

NEGLIGIBLE = 1e-3  # a smaller weight's expert is not run
TOLERANCE = 1e-3  # how far a hand-written sum may be from one


@dataclass(frozen=True, eq=False)
class Weights:
    """`values` is step x expert, or step x expert x h x w for weight maps (any h and w; they are enlarged to the
    picture). Every step, at every place, sums to one; entries may be negative (UniRes, section 3)."""

    experts: tuple[Expert, ...]
    values: Tensor

    def __post_init__(self) -> None:
        v = self.values
        if v.dim() not in (2, 4) or v.shape[1] != len(self.experts) or not v.shape[0]:
            raise OptionError(f"Weights of shape {tuple(v.shape)} don't fit {len(self.experts)} experts.")
        if not torch.isfinite(v).all():
            raise OptionError("Weights must be finite numbers.")
        total = v.sum(dim=1)
        wrong = (total - 1).abs().flatten(1).amax(dim=1) if v.dim() == 4 else (total - 1).abs()
        off = int(wrong.argmax())
        if float(wrong[off]) > TOLERANCE:
            raise OptionError(f"The weights of step {off + 1} sum to {float(total[off].mean()):g}; they must sum to 1.")
        # what rounding left over is spread evenly, so that the sum is one to the last digit
        object.__setattr__(self, "values", v + (1 - total).unsqueeze(1) / v.shape[1])

    @classmethod
    def parse(cls, text: str, tasks: Sequence[str]) -> Weights:
        """Read `denoise=0.7,motion-deblur=0.3; denoise@relay=1`: one list a step, separated by semicolons.

        tasks: what the model offers. Raises OptionError in one sentence."""
        steps: list[dict[Expert, float]] = []
        for part in text.split(";"):
            step: dict[Expert, float] = {}
            for item in filter(None, (i.strip() for i in part.split(","))):
                name, equals, number = item.partition("=")
                expert = Expert.parse(name, tasks)
                try:
                    value = float(number) if equals else 1.0
                except ValueError as error:
                    raise OptionError(f"The weight of {expert} is {number!r}, which is no number.") from error
                if expert in step:
                    raise OptionError(f"The expert {expert} is named twice in one step.")
                step[expert] = value
            if not step:
                raise OptionError(f"The weights {text!r} leave a step without an expert.")
            steps.append(step)
        return cls.from_steps(steps)

    @classmethod
    def from_steps(cls, steps: Sequence[dict[Expert, float]]) -> Weights:
        """From one dictionary a step."""
        experts = tuple(dict.fromkeys(e for step in steps for e in step))
        rows = [[step.get(e, 0.0) for e in experts] for step in steps]
        return cls(experts, torch.tensor(rows, dtype=torch.float64).float())

    @property
    def steps(self) -> int:
        return int(self.values.shape[0])

    def first(self, count: int) -> Weights:
        """Its first `count` steps (fewer where it has fewer)."""
        return Weights(self.experts, self.values[:count])

    def after(self, count: int) -> Weights:
        """Its steps after the first `count`, of which there are some."""
        return Weights(self.experts, self.values[count:])

    def flat(self) -> Weights:
        """One weight for the whole picture: the mean of each map."""
        return Weights(self.experts, self.values.mean(dim=(2, 3)) if self.values.dim() == 4 else self.values)

    @property
    def only_keep(self) -> bool:
        """Whether the result is the photo itself: the last step keeps it whole."""
        last = self.active(self.steps - 1)
        return len(last) == 1 and self.experts[last[0]] == Expert(KEEP)

    @property
    def ends_afresh(self) -> bool:
        """Whether the last step's networks all see the relay, and so start afresh (`sample.sampler`): the last row then
        can't go on for more steps, as each would undo once more what has been undone."""
        last = [self.experts[i] for i in self.active(self.steps - 1) if self.experts[i].task != KEEP]
        return bool(last) and all(expert.condition == "relay" for expert in last)

    def active(self, step: int) -> list[int]:
        """The experts that count in a step (beyond the last row, the last row goes on)."""
        row = self.values[min(step, self.steps - 1)]
        largest = row.abs().flatten(1).amax(dim=1) if row.dim() == 3 else row.abs()
        return [i for i, w in enumerate(largest.tolist()) if w >= NEGLIGIBLE]

    def passes(self, steps: int) -> int:
        """Network passes that `steps` steps cost."""
        return sum(sum(self.experts[i].task != KEEP for i in self.active(s)) for s in range(steps))

    def at(self, step: int, expert: int, size: tuple[int, int], used: Sequence[int] | None = None) -> Tensor:
        """The weight of an expert in a step: a scalar, or a 1 x 1 x H x W map for pictures of `size`. The experts that
        are not `used` (None: left out by `active`) leave their share to the others, so that what is used sums to
        one."""
        row = self.values[min(step, self.steps - 1)]
        used = self.active(step) if used is None else list(used)
        weight = row[expert] + (1 - row[used].sum(dim=0)) / len(used)
        if row.dim() == 1:
            return weight
        return F.interpolate(weight[None, None], size=size, mode="bilinear", align_corners=False)

    def __str__(self) -> str:
        """As `parse` reads it (maps: their mean)."""

        def one(step: int, expert: int) -> str:
            value = float(self.at(step, expert, (1, 1)) if self.values.dim() == 2 else self.values[step, expert].mean())
            return f"{self.experts[expert]}={f'{value:.4f}'.rstrip('0').rstrip('.')}"

        return "; ".join(",".join(one(s, i) for i in self.active(s)) for s in range(self.steps))

    def as_json(self) -> str:
        """The experts' names and the values as nested lists, for `load`."""
        return json.dumps({"experts": [str(e) for e in self.experts], "values": self.values.tolist()}) + "\n"

    @classmethod
    def load(cls, path: Path, tasks: Sequence[str]) -> Weights:
        """From a file with what `as_json` made. Raises UniresError if it is not that."""
        if not Path(path).is_file():
            raise UniresError(f"There is no file {shown(path)}.")
        try:
            data = json.loads(Path(path).read_text())
            names, values = [str(n) for n in data["experts"]], torch.tensor(data["values"], dtype=torch.float32)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UniresError(f"{shown(path)} holds no weights.") from error
        return cls(tuple(Expert.parse(n, tasks) for n in names), values)
