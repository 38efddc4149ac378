"""The named run about composing: what the router reaches on mixtures that nothing was trained or tuned on, beside a
single expert, the blind network, a chain of experts, and weights found with the truth at hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from unires.bench import oracle
from unires.bench.measures import mean_by_photo, mean_interval
from unires.bench.named import FIVE, KEYS, Scope
from unires.bench.report import Results, Table, overview, plain, signed
from unires.bench.run import Bench, Row
from unires.bench.sets import PhotoSet
from unires.degrade.mixtures import OPERATORS
from unires.degrade.recipe import Recipe

TWICE = "chain:blind>blind"
EQUAL = ",".join(f"{e}={1 / len(FIVE)}" for e in FIVE)
SEARCHED = {"search:grid": "grid", "search:frequent": "frequent sets", "search:climb": "climbed"}
MIXED = "trained on mixtures"
ROUTED = {"default [steps=1 maps=0]": "scalars", "default [steps=1]": "maps", "default": "maps and relay"}


def chains(recipe: str) -> list[str]:
    """The experts of a recipe's degradations, one after the other, in every order."""
    tasks = [OPERATORS[name][0] for name, _ in Recipe.parse(recipe).steps if name in OPERATORS]
    return ["chain:" + ">".join(order) for order in itertools.permutations(tasks)] if len(tasks) > 1 else []


def composition(bench: Bench, scope: Scope) -> list[Table]:
    """Router against everything: means over photos of the test mixtures, and paired differences over all of them."""
    sets = [s for s in scope.open("mixtures") if not s.missing]
    grams = oracle.collect_all(bench, sets, KEYS, singles=True)
    best = {name: oracle.text_of(KEYS, oracle.best_weights(found)) for name, found in grams.items()}

    def wanted(s: PhotoSet) -> list[str]:
        return ["input", *FIVE, "blind", TWICE, *chains(s.recipe), EQUAL, *ROUTED, best[s.name], *scope.methods]

    rows = [_renamed(row, best) for row in bench.run(sets, wanted)]
    for s in sets:
        for label, candidates in (("best single", FIVE), ("best chain", chains(s.recipe))):
            rows += _best(Results(rows), s.name, label, candidates)
    results = Results(rows)
    searched = [label for name, label in SEARCHED.items() if name in scope.methods]  # the grid takes its time
    searched += [MIXED for name in scope.methods if name.startswith("mixed:")]
    columns = ["input", "best single", "blind", "blind twice", "best chain", "equal", *searched, *ROUTED.values(),
               "best a recipe"]
    table = Table("Composition: mean PSNR", ["mixture", *columns, "passes"])
    sums: list[list[float]] = []
    for s in sets:
        means = [results.mean(s.name, column).value for column in columns]
        passes = mean_interval(list(results.values(s.name, "maps and relay", "passes").values())).value
        sums.append([*means, passes])
        table.rows.append([s.name, *(f"{m:.2f}" for m in means), f"{passes:.1f}"])
    if sums:
        total = [math.fsum(column) / len(sums) for column in zip(*sums, strict=True)]
        table.rows.append(["mean", *(f"{m:.2f}" for m in total[:-1]), f"{total[-1]:.1f}"])
    table.notes += [
        scope.note(bench, sets),
        "Best single, best chain and best a recipe are chosen for each recipe with the truth at hand; the router's "
        "three columns are told nothing. Passes: of the last of them, a photo.",
    ]
    return [table, _differences(results, sets, searched), _alone(bench, scope), overview(results, "All measures")]


def _renamed(row: Row, best: dict[str, str]) -> Row:
    """Under the name of its column."""
    names = {**ROUTED, **SEARCHED, TWICE: "blind twice", EQUAL: "equal", best.get(row["set"], ""): "best a recipe"}
    label = MIXED if row["method"].startswith("mixed:") else row["method"]
    return {**row, "method": names.get(row["method"], label)}


def _best(results: Results, photo_set: str, label: str, candidates: Sequence[str]) -> list[Row]:
    """The rows of the candidate with the highest mean, under another name."""
    best = max(candidates, key=lambda m: results.mean(photo_set, m).value)
    return [{**r, "method": label} for r in results.rows if r["set"] == photo_set and r["method"] == best]


def _differences(results: Results, sets: Sequence[PhotoSet], searched: Sequence[str]) -> Table:
    """Over all photos, each one's mean over all recipes, so that the interval says how sure the mean is; and the worst
    recipe."""
    table = Table("Router with maps and relay, less ...", ["method", "mean dB", "worst recipe", "there"])
    for against in ("input", "best single", "blind", "best chain", *searched, "scalars", "maps", "best a recipe"):
        gaps: list[tuple[str, float]] = []
        worst = (math.inf, "")
        for s in sets:
            gain = results.gain(s.name, "maps and relay", against)
            ours, theirs = results.values(s.name, "maps and relay"), results.values(s.name, against)
            gaps += [(p, ours[p] - theirs[p]) for p in ours if p in theirs]
            worst = min(worst, (gain.value, s.name))
        table.rows.append([against, signed(mean_by_photo(gaps)), f"{worst[0]:+.2f}", worst[1]])
    return table


def _alone(bench: Bench, scope: Scope) -> Table:
    """Single degradations, where the right expert is the mark, and clean photos, which should stay as they are."""
    sets = [s for s in scope.open("singles", "clean") if not s.missing]
    results = Results(bench.run(sets, lambda s: ["input", *(["expert"] if s.expert else []), "default"]))
    head = ["set", "right expert", "router", "difference", "passes"]
    table = Table("Router on single degradations and clean photos", head)
    for s in sets:
        passes = mean_interval(list(results.values(s.name, "default", "passes").values())).value
        expert = (plain(results.mean(s.name, "expert")), signed(results.gain(s.name, "default", "expert")))
        right, gap = expert if s.expert else ("-", "-")
        table.rows.append([s.name, right, plain(results.mean(s.name, "default")), gap, f"{passes:.1f}"])
    return table
