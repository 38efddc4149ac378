"""The paper's search for weights: which sets of the grid win most often on tuning mixtures, and what a search costs."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from unires.bench.named import Scope
from unires.bench.oracle import text_of
from unires.bench.report import Table
from unires.bench.run import Bench, Row, key_of
from unires.bench.sets import PhotoSet
from unires.compose import quality, search


def searching(bench: Bench, scope: Scope) -> list[Table]:
    """On the tuning mixtures (training photos): the grid's winner for every photo by what harm the router sees left,
    the sets that win most often, and, where that can be timed, seconds a photo of each way to weights."""
    sets = [s for s in scope.open("tuning") if not s.missing]
    if bench.spread is not None:
        bench.spread(sets, functools.partial(_winners))
    rows = _winners(bench, sets)
    winners = [torch.tensor(row["winner"]) for row in rows]
    counts = Counter(tuple(w.tolist()) for w in winners)
    frequent = Table("Sets that win most often", ["weights", "photos"])
    for row in search.most_frequent(winners):
        same = next(n for w, n in counts.items() if torch.allclose(torch.tensor(w), row, atol=1e-3))
        frequent.rows.append([text_of(search.EXPERTS, row.double()), str(same)])
    frequent.notes.append(f"Of {len(winners)} photos; {scope.note(bench, sets)}")
    if not all("seconds" in row for row in rows):  # processes that share a machine can't be timed
        return [frequent]
    cost = Table("What a search costs", ["way", "candidates", "seconds a photo"])
    for name, count in (("reading the photo (router)", 1), ("passes that all share", 5), ("grid", len(search.grid()))):
        seconds = [row["seconds"][name] for row in rows]
        cost.rows.append([name, f"{count:,}", f"{sum(seconds) / max(1, len(seconds)):.2f}"])
    return [frequent, cost]


def _winners(bench: Bench, sets: Sequence[PhotoSet]) -> list[Row]:
    """One row a photo; what is known already is not searched again."""
    restorer: Any = bench.ours.restorer
    found: list[Row] = []
    for s in sets:
        for index, entry in enumerate(s.files):
            key: Row = {"set": s.name, "definition": s.definition(index), "photo": entry.photo,
                        "method": "search winner", "version": bench.ours.version}  # fmt: skip
            row = bench.store.rows.get(key_of(key))
            if row is None or (bench.timed and "seconds" not in row):
                case = s.load(index, bench.cache)
                times = [time.perf_counter()]
                restorer.read(case.lq)
                times.append(time.perf_counter())
                parts = torch.cat([restorer.pixels(case.lq, weights=e) for e in search.EXPERTS]).cpu()
                times.append(time.perf_counter())
                best = search.best_of(parts, search.grid(), quality.remaining_harm(restorer.router))
                times.append(time.perf_counter())
                names = ("reading the photo (router)", "passes that all share", "grid")
                spent = {name: b - a for name, a, b in zip(names, times, times[1:], strict=False)}
                row = {**key, "winner": [round(v, 1) for v in best.tolist()]}
                row |= {"seconds": spent} if bench.timed else {}
                bench.store.add(row)
            found.append(row)
        bench.log(f"{s.name}: searched on {len(s.files)} photos")
    return found
