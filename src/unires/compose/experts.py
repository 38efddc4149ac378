"""Experts: a task with a condition, written `task` or `task@condition`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unires.errors import OptionError, nearest

CONDITIONS = ("lq", "down2", "down4", "relay")
KEEP = "keep"


@dataclass(frozen=True)
class Expert:
    """`task` under `condition`: lq, the photo; down2 and down4, it reduced and enlarged
    again; relay, the estimate of the step before (the photo itself in the first step). `keep` is no network: the
    photo as it is; `keep@relay`, the estimate of the step before as it is."""

    task: str
    condition: str = "lq"

    @classmethod
    def parse(cls, text: str, tasks: Sequence[str]) -> Expert:
        """Read `denoise` or `denoise@relay`. Raises OptionError with the nearest right name."""
        task, at, condition = text.strip().partition("@")
        if task != KEEP and task not in tasks:
            raise OptionError(nearest(task, [*tasks, KEEP], kind="expert"))
        if at and condition not in CONDITIONS:
            raise OptionError(nearest(condition, CONDITIONS, kind="condition"))
        if task == KEEP and condition.startswith("down"):
            raise OptionError("'keep' stands for the photo as it is, or with @relay for the step before; not reduced.")
        return cls(task, condition or "lq")

    def __str__(self) -> str:
        return self.task if self.condition == "lq" else f"{self.task}@{self.condition}"
