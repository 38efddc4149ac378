"""The named runs: which sets, which methods, which bars. `unires bench experts`, `mixtures`, `main`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from unires.bench import oracle
from unires.bench.measures import mean_interval
from unires.bench.report import Results, Table, overview, plain, signed
from unires.bench.run import Bench, Row
from unires.bench.sets import PhotoSet, open_sets

FIVE = ("super-resolution", "motion-deblur", "defocus-deblur", "denoise", "dejpeg")
RICHARDSON_LUCY = "richardson-lucy"


@dataclass(frozen=True)
class Bar:
    """What an expert has to reach on a set: so many dB above a method."""

    set: str
    gain: float
    over: str
    source: str


BARS = (
    Bar("noise 25", 9.0, "input", "10"),
    Bar("jpeg 20", 0.8, "input", "10"),
    Bar("defocus 3", 2.5, "input", "10"),
    Bar("motion 12", 1.2, "input", "10"),
    Bar("x3", 0.6, "input", "10"),
    Bar("noise 15", 0.5, "bm3d", "11"),
    Bar("noise 25", 0.5, "bm3d", "11"),
    Bar("noise 50", 0.5, "bm3d", "11"),
    Bar("real-noise", 1.0, "input", "11"),
    Bar("real-noise", 0.0, "nlm", "11"),
    Bar("jpeg 10", 1.6, "input", "11"),
    Bar("jpeg 20", 1.4, "input", "11"),
    Bar("jpeg 40", 1.2, "input", "11"),
    Bar("motion 9", 0.7, RICHARDSON_LUCY, "11"),
    Bar("motion 17", 0.7, RICHARDSON_LUCY, "11"),
    Bar("defocus 2", 0.7, RICHARDSON_LUCY, "11"),
    Bar("defocus 4", 0.7, RICHARDSON_LUCY, "11"),
    Bar("x2", 2.3, "bicubic", "11"),
    Bar("x4", 1.2, "bicubic", "11"),
    Bar("real-realsr", 0.0, "bicubic", "11"),
)
"""The bars that the project set itself (the issue that did is the last entry)."""
CLEAN_BAR = 38.0  # dB to the input, for every expert on a clean photo
MIXTURES_BAR = 1.5  # dB over the input, best fixed weights, mean of the mixtures


@dataclass(frozen=True)
class Scope:
    """Where photos are and how many of them count."""

    data: Path
    photos: int = 0
    crop: int = 0

    def open(self, *names: str) -> list[PhotoSet]:
        return [s.fewer(self.photos, self.crop) for name in names for s in open_sets(name, self.data)]


def experts(bench: Bench, scope: Scope, peers: bool = False, extra: Sequence[str] = ()) -> list[Table]:
    """Each expert on its own degradation, one step: gain over the input, and the bars. With `peers`, those that bars
    are measured against as well."""
    sets = scope.open("singles", "real-noise", "real-realsr", "real-motion", "real-defocus")
    wanted: Callable[[PhotoSet], list[str]] = lambda s: ["input", "expert", *_rivals(s, peers), *extra]  # noqa: E731
    results = Results(bench.run(sets, wanted))
    table = Table("Experts, one step", ["degradation", "expert", "input dB", "result dB", "gain dB", "bars", "met"])
    for s in sets:
        for reason in [*results.errors(s.name), *(r for m in wanted(s) for r in results.errors(s.name, m))]:
            table.rows.append([s.name, reason, "", "", "", "", ""])
        if results.values(s.name, "expert"):
            bars, met = _bars(results, s.name)
            table.rows.append([
                s.name, s.expert, plain(results.mean(s.name, "input")), plain(results.mean(s.name, "expert")),
                signed(results.gain(s.name, "expert", "input")), bars, met,
            ])
    table.notes.append(_scope_note(bench, scope, sets))
    clean, clean_results = _clean(bench, scope)
    return [table, clean, overview(Results([*results.rows, *clean_results.rows]), "All measures")]


def _rivals(photo_set: PhotoSet, peers: bool) -> list[str]:
    """The methods that the bars of a set name. Bicubic costs nothing: it is there always."""
    named = dict.fromkeys(b.over for b in BARS if b.set == photo_set.name and b.over != "input")
    return [n for n in named if peers or n == "bicubic"]


def _bars(results: Results, name: str) -> tuple[str, str]:
    texts, met = [], []
    for bar in (b for b in BARS if b.set == name):
        gain = results.gain(name, "expert", bar.over)
        if math.isnan(gain.value):
            texts.append(f"{bar.over} {bar.gain:+.1f} (not run)")
            continue
        seen = "" if bar.over == "input" else f" ({gain.value:+.2f})"
        texts.append(f"{bar.over} {bar.gain:+.1f}{seen}")
        met.append(gain.value >= bar.gain)
    return ", ".join(texts), "" if not met else "yes" if all(met) else "NO"


def _clean(bench: Bench, scope: Scope) -> tuple[Table, Results]:
    """What experts do to photos that need nothing."""
    sets = scope.open("clean")
    results = Results(bench.run(sets, lambda s: [*FIVE, "blind", "default"]))
    table = Table("Clean photos: what is left of them", ["expert", "mean dB", "lowest dB", "bar", "met"])
    for s in sets:
        for method in results.methods(s.name):
            values = results.values(s.name, method)
            mean = mean_interval(list(values.values()))
            if values:
                met = "yes" if mean.value >= CLEAN_BAR else "NO"
                table.rows.append([method, plain(mean), f"{min(values.values()):.2f}", f"{CLEAN_BAR:g}", met])
    return table, results


def _scope_note(bench: Bench, scope: Scope, sets: Sequence[PhotoSet]) -> str:
    photos = max((len(s.files) for s in sets), default=0)
    crop = f", centre {scope.crop} x {scope.crop}" if scope.crop else ", whole"
    return f"Model {bench.ours.version}; at most {photos} photos a set{crop}; PSNR on sRGB values of 8-bit results."


KEYS = (*FIVE, "blind", "keep")
TUNING_PHOTOS, TUNING_CROP = 16, 384


def mixtures(bench: Bench, scope: Scope, extra: Sequence[str] = ()) -> list[Table]:
    """Several degradations at once: each expert alone, blind, default; the best weights that a recipe, or a photo,
    could have; and one fixed list for all, chosen on the tuning recipes and photos that no table uses."""
    everywhere = tuned_weights(bench, scope)
    sets = scope.open("mixtures")
    rows: list[Row] = []
    grams: dict[str, list[Tensor]] = {}
    chosen: dict[str, Tensor] = {}
    for s in sets:
        if not s.missing:
            grams[s.name], found = oracle.collect(bench, s, KEYS, singles=True)
            chosen[s.name] = oracle.best_weights(grams[s.name])
            rows += found
    one = "" if everywhere is None else oracle.text_of(KEYS, everywhere)
    texts = {name: oracle.text_of(KEYS, w) for name, w in chosen.items()}

    def wanted(s: PhotoSet) -> list[str]:
        return ["input", *KEYS[:-1], "default", *extra, *filter(None, (one, texts.get(s.name)))]

    results = Results(bench.run(sets, wanted))
    named_rows = [{**r, "method": BEST if r["method"] == texts.get(r["set"]) else ONE if r["method"] == one else
                   r["method"]} for r in results.rows]
    results = Results(named_rows)
    head = ["mixture", "input", "best single", "blind", "default", "one for all", "best a recipe", "a photo",
            "gain of the best", "weights"]
    table = Table("Mixtures, one step: mean PSNR", head)
    gains: list[list[float]] = []
    for s in sets:
        for reason in results.errors(s.name):
            table.rows.append([s.name, reason, *[""] * 8])
        if s.name not in chosen:
            continue
        mean = {m: results.mean(s.name, m).value for m in ("input", *KEYS[:-1], "default", ONE, BEST)}
        single = max(FIVE, key=lambda m: mean[m])
        gain = results.gain(s.name, BEST, "input")
        photo = math.fsum(oracle.psnr_of(g, oracle.best_weights([g])) for g in grams[s.name]) / len(grams[s.name])
        columns = [mean["input"], mean[single], mean["blind"], mean["default"], mean[ONE], mean[BEST], photo]
        gains.append([*columns, gain.value])
        table.rows.append([s.name, f"{columns[0]:.2f}", f"{columns[1]:.2f} {single}",
                           *(f"{c:.2f}" for c in columns[2:]), signed(gain), oracle.describe(KEYS, chosen[s.name])])
    if gains:
        means = [math.fsum(column) / len(gains) for column in zip(*gains, strict=True)]
        met = f"bar {MIXTURES_BAR:+.1f}: {'yes' if means[-1] >= MIXTURES_BAR else 'NO'}"
        table.rows.append(["mean", *(f"{m:.2f}" for m in means[:-1]), f"{means[-1]:+.2f}", met])
    table.notes += [_scope_note(bench, scope, sets),
                    "Best a recipe: the fixed weights with the highest mean PSNR, found with the truth at hand. A "
                    "photo: found for each photo, in closed form (neither clipped nor rounded). One for all: "
                    f"{one or 'no tuning photos there'}, from the tuning recipes on other photos."]
    return [table, overview(results, "All measures")]


BEST, ONE = "best a recipe", "one for all"


def tuned_weights(bench: Bench, scope: Scope) -> Tensor | None:
    """One list of weights for all mixtures, best on the tuning recipes; None if their photos aren't there."""
    photos = min(scope.photos or TUNING_PHOTOS, TUNING_PHOTOS)
    crop = min(scope.crop or TUNING_CROP, TUNING_CROP)
    sets = Scope(scope.data, photos, crop).open("tuning")
    grams = [g for s in sets if not s.missing for g in oracle.collect(bench, s, KEYS, singles=False)[0]]
    return oracle.best_weights(grams) if grams else None
