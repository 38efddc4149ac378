"""How often the report is right: about the strongest of several degradations, and about clean photos."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unires.bench.named import Scope
from unires.bench.report import Table
from unires.bench.run import Bench
from unires.bench.sets import PhotoSet
from unires.degrade.mixtures import OPERATORS
from unires.degrade.recipe import Recipe
from unires.errors import UniresError

BAR = 0.9  # of mixtures, whose strongest degradation is named
SOURCES = ("mixtures", "singles", "clean")


def harms(clean: Tensor, recipe: Recipe) -> dict[str, float]:
    """The mean squared error that each degradation of a recipe would make alone, by the task that undoes it. (Not the
    change that its step makes: JPEG changes noise about as much as noise changed the photo.)"""
    return {OPERATORS[s[0]][0]: float((Recipe((s,))(clean) - clean).square().mean()) for s in recipe.steps}


def report(bench: Bench, scope: Scope) -> list[Table]:
    """What the router reads of each photo, beside what was done to it."""
    restorer: Any = bench.ours.restorer
    if restorer.router is None:
        raise UniresError("This model has no router, so it reads nothing.")
    table = Table("What the report says", ["set", "photos", "strongest named", "found besides", "bar", "met"])
    for source in SOURCES:
        sets = [s for s in scope.open(source) if not s.missing]
        rights: list[float] = []
        for s in sets:
            found = [_read(bench, restorer, s, i) for i in range(len(s.files))]
            rights += [right for right, _ in found]
            table.rows.append([s.name, str(len(found)), *_shares(found), "", ""])
            bench.log(f"{s.name}: {table.rows[-1][2]} right")
        if len(sets) > 1 and rights:
            mean = sum(rights) / len(rights)
            bars = [f"{BAR:.0%}", "yes" if mean >= BAR else "NO"] if source == "mixtures" else ["", ""]
            table.rows.append([f"all {source}", str(len(rights)), f"{mean:.1%}", "", *bars])
    table.notes.append(
        "Strongest: of a recipe's degradations the one that alone would change the photo most (mean squared error); of "
        "clean photos, that nothing is found. Found besides: how many that the recipe doesn't have, a photo. "
        + scope.note(bench, sets)
    )
    return [table]


def _read(bench: Bench, restorer: Any, photos: PhotoSet, index: int) -> tuple[float, int]:
    """Whether the strongest degradation is named first, and how many are named that aren't there."""
    case = photos.load(index, bench.cache)
    with torch.inference_mode():
        found = restorer.read(case.lq).found
    known = case.gt is not None and case.truth.recipe is not None
    true = harms(case.gt, case.truth.recipe) if known else {}  # type: ignore[arg-type]
    right = found[:1] == [max(true, key=lambda task: true[task])] if true else not found
    return float(right), sum(task not in true for task in found)


def _shares(found: Sequence[tuple[float, int]]) -> list[str]:
    count = max(1, len(found))
    return [f"{sum(r for r, _ in found) / count:.1%}", f"{sum(n for _, n in found) / count:.2f}"]
