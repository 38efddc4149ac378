"""The same run in several processes, for quality only: whoever shares a machine can't be timed.

Each process takes every n-th photo of every set and keeps its results in a file of its own, which are then taken into
the common one. What a killed run left in them is not lost either."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from unires.bench.measures import Extra
from unires.bench.methods import Ours
from unires.bench.run import Bench, Job, Store
from unires.bench.sets import PhotoSet
from unires.train.lpips import Lpips


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a process needs to make a Bench of its own."""

    results: Path
    cache: Path | None
    model: str | None
    device: str
    number_type: str
    lpips: Path | None
    extra: tuple[str, ...]

    def bench(self, part: int, parts: int) -> Bench:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // parts))
        store = Store(_part(self.results, part))
        store.rows = Store(self.results).rows | store.rows
        lpips = None if self.lpips is None else Lpips(self.lpips, self.device)
        ours, extra = Ours(self.model, self.device, self.number_type), Extra(self.extra, self.device)
        return Bench(ours, store, lpips, self.cache, extra, False, lambda line: None)


def spread(plan: Plan, sets: Sequence[PhotoSet], job: Job, parts: int) -> None:
    """Run `job(bench, sets)` in `parts` processes, the photos dealt out among them; then take over their results.
    `job` has to be picklable: a function of a module, or a `functools.partial` of one."""
    context = multiprocessing.get_context("spawn")
    dealt = [[dataclasses.replace(s, files=s.files[i::parts]) for s in sets] for i in range(parts)]
    processes = [
        context.Process(target=_run, args=(plan, i, parts, own, job), daemon=True) for i, own in enumerate(dealt)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def _run(plan: Plan, part: int, parts: int, sets: Sequence[PhotoSet], job: Job) -> None:
    job(plan.bench(part, parts), sets)


def gather(results: Path) -> None:
    """Append the parts' results to `results`, and remove the parts."""
    parts = sorted(results.parent.glob(f"{results.stem}.part*{results.suffix}"))
    if not parts:
        return
    store = Store(results)
    for path in parts:
        for key, row in Store(path).rows.items():
            if store.rows.get(key) != row:
                store.add(row)
        path.unlink()


def _part(results: Path, part: int) -> Path:
    return results.with_name(f"{results.stem}.part{part}{results.suffix}")
