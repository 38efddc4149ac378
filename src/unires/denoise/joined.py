"""Several networks of one sample space as one denoiser: a whole network of one's own as an expert beside the others."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from unires.denoise.interface import Denoiser, Facts, Hint
from unires.errors import OptionError, nearest


class Joined:
    """`base`, and experts that are other denoisers' tasks (name: denoiser, task); itself a `Denoiser`. Samples are the
    base's, so the others must have the same: all compact models do."""

    def __init__(self, base: Denoiser, experts: Mapping[str, tuple[Denoiser, str]]) -> None:
        self.base = base
        self.owners = {task: (base, task) for task in base.facts.tasks} | dict(experts)

    @property
    def facts(self) -> Facts:
        one, *others = {id(owner): owner.facts for owner, _ in self.owners.values()}.values()
        return dataclasses.replace(
            one,
            tasks=tuple(self.owners),
            multiple=math.lcm(one.multiple, *(f.multiple for f in others)),
            reach=max(one.reach, *(f.reach for f in others)),
            parameters=one.parameters + sum(f.parameters for f in others),
            memory=max(one.memory, *(f.memory for f in others)),
        )

    def encode(self, pixels: Tensor) -> Tensor:
        return self.base.encode(pixels)

    def decode(self, sample: Tensor) -> Tensor:
        return self.base.decode(sample)

    def predict(
        self,
        z: Tensor,
        t: float,
        condition: Tensor | None,
        tasks: Sequence[str],
        hints: Sequence[Hint | None] | None = None,
    ) -> Tensor:
        """Each network gets its samples as one batch (see the interface). Raises OptionError for an unknown task."""
        for task in tasks:
            if task not in self.owners:
                raise OptionError(nearest(task, self.owners, kind="task"))
        chosen = [self.owners[task] for task in tasks]
        rows: dict[int, Tensor] = {}
        for owner in dict.fromkeys(owner for owner, _ in chosen):
            mine = [i for i, (other, _) in enumerate(chosen) if other is owner]
            c = None if condition is None else condition[mine]
            told = None if hints is None else [hints[i] for i in mine]
            out = owner.predict(z[mine], t, c, [chosen[i][1] for i in mine], told)
            rows |= dict(zip(mine, out, strict=True))
        return torch.stack([rows[i] for i in range(len(rows))])
