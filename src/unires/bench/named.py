"""The named runs: which sets, which methods, which bars."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from unires.bench import oracle
from unires.bench.measures import mean_interval
from unires.bench.peers import PEERS
from unires.bench.report import Results, Table, overview, plain, signed
from unires.bench.run import Bench, Row
from unires.bench.sets import PhotoSet, open_sets

FIVE = ("super-resolution", "motion-deblur", "defocus-deblur", "denoise", "dejpeg")
KEYS = (*FIVE, "blind", "keep")
RICHARDSON_LUCY = "richardson-lucy"
REAL = ("real-noise", "real-realsr", "real-motion", "real-defocus")


@dataclass(frozen=True)
class Bar:
    """What an expert has to reach on a set: so many dB above a method. `issue`: the one that set it."""

    set: str
    gain: float
    over: str
    issue: int


BARS = (
    Bar("noise 25", 9.0, "input", 10),
    Bar("jpeg 20", 0.8, "input", 10),
    Bar("defocus 3", 2.5, "input", 10),
    Bar("motion 12", 1.2, "input", 10),
    Bar("x3", 0.6, "input", 10),
    Bar("noise 15", 0.5, "bm3d", 11),
    Bar("noise 25", 0.5, "bm3d", 11),
    Bar("noise 50", 0.5, "bm3d", 11),
    Bar("real-noise", 1.0, "input", 11),
    Bar("real-noise", 0.0, "nlm", 11),
    Bar("jpeg 10", 1.6, "input", 11),
    Bar("jpeg 20", 1.4, "input", 11),
    Bar("jpeg 40", 1.2, "input", 11),
    Bar("motion 9", 0.7, RICHARDSON_LUCY, 11),
    Bar("motion 17", 0.7, RICHARDSON_LUCY, 11),
    Bar("defocus 2", 0.7, RICHARDSON_LUCY, 11),
    Bar("defocus 4", 0.7, RICHARDSON_LUCY, 11),
    Bar("x2", 2.3, "bicubic", 11),
    Bar("x4", 1.2, "bicubic", 11),
    Bar("real-realsr", 0.0, "bicubic", 11),
)
CLEAN_BAR = 38.0  # dB to the input, for every expert on a clean photo
MIXTURES_BAR = 1.5  # dB over the input, best fixed weights, mean of the mixtures


@dataclass(frozen=True)
class Scope:
    """Where photos are, how many of them count, and which methods (names) run besides."""

    data: Path
    photos: int = 0
    crop: int = 0
    methods: tuple[str, ...] = ()

    def open(self, *names: str) -> list[PhotoSet]:
        return [s.fewer(self.photos, self.crop) for name in names for s in open_sets(name, self.data)]

    def note(self, bench: Bench, sets: Sequence[PhotoSet]) -> str:
        photos = max((len(s.files) for s in sets), default=0)
        crop = f", centre {self.crop} x {self.crop}" if self.crop else ", whole"
        return f"Model {bench.ours.version}; at most {photos} photos a set{crop}; PSNR on sRGB values of 8-bit results."


# -- experts --------------------------------------------------------------------------------------------------


def experts(bench: Bench, scope: Scope, peers: bool = False) -> list[Table]:
    """Each expert on its own degradation, one step: gain over the input, and the bars. With `peers`, those that bars
    are measured against as well."""
    sets = scope.open("singles", *REAL)
    wanted: Callable[[PhotoSet], list[str]] = lambda s: ["input", "expert", *_rivals(s, peers), *scope.methods]  # noqa: E731
    results = Results(bench.run(sets, wanted))
    clean, clean_rows = _clean(bench, scope)
    return [experts_table(results, sets, scope.note(bench, sets)), clean,
            overview(Results([*results.rows, *clean_rows]), "All measures")]


def experts_table(results: Results, sets: Sequence[PhotoSet], note: str) -> Table:
    """Gains of each expert beside its bars."""
    table = Table("Experts, one step", ["degradation", "expert", "input dB", "result dB", "gain dB", "bars", "met"])
    for s in sets:
        failed = [f"{m}: {r}" for m in results.methods(s.name) for r in results.errors(s.name, m)]
        for reason in [*results.errors(s.name), *failed]:
            table.rows.append([s.name, reason])
        if results.values(s.name, "expert"):
            bars, met = _bars(results, s.name)
            table.rows.append([
                s.name, s.expert, plain(results.mean(s.name, "input")), plain(results.mean(s.name, "expert")),
                signed(results.gain(s.name, "expert", "input")), bars, met,
            ])
    table.notes.append(note)
    return table


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


def _clean(bench: Bench, scope: Scope) -> tuple[Table, list[Row]]:
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
    return table, list(results.rows)


# -- mixtures -------------------------------------------------------------------------------------------------

TUNING_PHOTOS, TUNING_CROP = 16, 384
BEST, ONE = "best a recipe", "one for all"


def mixtures(bench: Bench, scope: Scope, peers: bool = False) -> list[Table]:
    """Several degradations at once: each expert alone, blind, default; the best weights that a recipe, or a photo,
    could have; and one fixed list for all, chosen on the tuning recipes and on photos that no table uses."""
    everywhere = tuned_weights(bench, scope)
    sets = scope.open("mixtures")
    grams = oracle.collect_all(bench, sets, KEYS, singles=True)
    chosen = {name: oracle.best_weights(found) for name, found in grams.items()}
    one = "" if everywhere is None else oracle.text_of(KEYS, everywhere)
    texts = {name: oracle.text_of(KEYS, w) for name, w in chosen.items()}

    def wanted(s: PhotoSet) -> list[str]:
        rivals = rivals_of(s) if peers else []
        return ["input", *KEYS[:-1], "default", *rivals, *scope.methods, *filter(None, (one, texts.get(s.name)))]

    def named(row: Row) -> Row:
        names = {one: ONE, texts.get(row["set"], one): BEST}
        return {**row, "method": names.get(row["method"], row["method"])}

    results = Results([named(r) for r in bench.run(sets, wanted)])
    table = _mixtures_table(results, sets, grams, chosen)
    table.notes += [
        scope.note(bench, sets),
        "Best a recipe: the fixed weights with the highest mean PSNR, found with the truth at hand. A photo: found for "
        "each photo, in closed form (neither clipped nor rounded).",
        f"One for all, from the tuning recipes on other photos: {one or 'none, as those photos are not there'}.",
    ]
    return [table, overview(results, "All measures")]


def _mixtures_table(
    results: Results, sets: Sequence[PhotoSet], grams: oracle.Grams, chosen: dict[str, Tensor]
) -> Table:
    head = ["mixture", "input", "best single", "blind", "default", ONE, BEST, "a photo", "gain of the best", "weights"]
    table = Table("Mixtures, one step: mean PSNR", head)
    sums: list[list[float]] = []
    for s in sets:
        for reason in results.errors(s.name):
            table.rows.append([s.name, reason])
        if s.name not in chosen:
            continue
        mean = {m: results.mean(s.name, m).value for m in ("input", *KEYS[:-1], "default", ONE, BEST)}
        single = max(FIVE, key=lambda m: mean[m])
        gain = results.gain(s.name, BEST, "input")
        photo = math.fsum(oracle.psnr_of(g, oracle.best_weights([g])) for g in grams[s.name]) / len(grams[s.name])
        columns = [mean["input"], mean[single], mean["blind"], mean["default"], mean[ONE], mean[BEST], photo]
        sums.append([*columns, gain.value])
        table.rows.append([s.name, f"{columns[0]:.2f}", f"{columns[1]:.2f} {single}",
                           *(f"{c:.2f}" for c in columns[2:]), signed(gain), oracle.describe(KEYS, chosen[s.name])])
    if sums:
        means = [math.fsum(column) / len(sums) for column in zip(*sums, strict=True)]
        met = f"bar {MIXTURES_BAR:+.1f}: {'yes' if means[-1] >= MIXTURES_BAR else 'NO'}"
        table.rows.append(["mean", *(f"{m:.2f}" for m in means[:-1]), f"{means[-1]:+.2f}", met])
    return table


def tuned_weights(bench: Bench, scope: Scope) -> Tensor | None:
    """One list of weights for all mixtures, best on the tuning recipes; None if their photos aren't there."""
    photos = min(scope.photos or TUNING_PHOTOS, TUNING_PHOTOS)
    crop = min(scope.crop or TUNING_CROP, TUNING_CROP)
    found = oracle.collect_all(bench, Scope(scope.data, photos, crop).open("tuning"), KEYS, singles=False)
    grams = [g for of_set in found.values() for g in of_set]
    return oracle.best_weights(grams) if grams else None


# -- everything -----------------------------------------------------------------------------------------------

DENOISERS = ("bm3d", "nlm", "wavelet", "tv")
DEBLURRERS = (RICHARDSON_LUCY, "wiener")


def rivals_of(photo_set: PhotoSet) -> list[str]:
    """The peers that are made for a set's degradation; for a mixture, all (those that aren't applicable drop out)."""
    by_expert = {
        "denoise": DENOISERS, "dejpeg": ("nlm", "wavelet", "tv"), "motion-deblur": (*DEBLURRERS, "tv"),
        "defocus-deblur": (*DEBLURRERS, "tv"), "super-resolution": ("bicubic",),
    }
    return list(by_expert.get(photo_set.expert, (*DENOISERS, *DEBLURRERS)))


def main(bench: Bench, scope: Scope) -> list[Table]:
    """Singles, real pairs, mixtures, with the default restore and every peer: ours against the best of the others."""
    sets = scope.open("singles", *REAL)
    results = Results(bench.run(sets, lambda s: ["input", "expert", "default", *rivals_of(s), *scope.methods]))
    mixed, mixed_overview = mixtures(bench, scope, peers=True)
    clean, _ = _clean(bench, scope)
    whole = overview(results, "Single degradations and real pairs: all methods and measures")
    mixed_overview.title = "Mixtures: all methods and measures"
    return [against_best(results, sets, "expert"), experts_table(results, sets, scope.note(bench, sets)), clean, mixed,
            mixed_overview, whole]


def against_best(results: Results, sets: Sequence[PhotoSet], ours: str) -> Table:
    """Ours beside the best peer of each set, with the paired difference; losses are marked as plainly as wins."""
    head = ["set", "input", ours, "default", "best other", "its dB", "ours less it", "LPIPS ours", "LPIPS it", ""]
    table = Table("Ours against the best of the others (mean PSNR)", head)
    for s in sets:
        others = [m for m in results.methods(s.name) if m in PEERS and results.values(s.name, m)]
        if not others or not results.values(s.name, ours):
            continue
        best = max(others, key=lambda m: results.mean(s.name, m).value)
        gap = results.gain(s.name, ours, best)
        said = "won" if gap.value - gap.half > 0 else "LOST" if gap.value + gap.half < 0 else "undecided"
        lpips = [results.mean(s.name, m, "lpips").value for m in (ours, best)]
        told = f"{best} ({PEERS[best][2]})" if PEERS[best][2] else best
        table.rows.append([
            s.name, *(plain(results.mean(s.name, m)) for m in ("input", ours, "default")), told,
            plain(results.mean(s.name, best)), signed(gap), *("-" if v != v else f"{v:.4f}" for v in lpips), said,
        ])
    table.notes.append("What a peer is told and a user would not know stands in brackets. Won or lost: the 95 % "
                       "interval of the paired difference leaves zero out.")
    return table


def compare(bench: Bench, scope: Scope, names: Sequence[str], against: str) -> list[Table]:
    """Any methods on any sets."""
    sets = scope.open(*names)
    table = overview(Results(bench.run(sets, lambda s: scope.methods)), "Comparison", against)
    table.notes.append(scope.note(bench, sets))
    return [table]
