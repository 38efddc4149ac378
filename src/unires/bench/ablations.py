"""The named run about what each part of the weighted sum is worth."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from unires.bench import oracle
from unires.bench.measures import mean_by_photo
from unires.bench.named import FIVE, KEYS, Scope
from unires.bench.report import Results, Table, overview, plain, signed
from unires.bench.run import Bench, Row
from unires.bench.sets import PhotoSet

REDUCED = ("super-resolution@down2", "super-resolution@down4")
ALL = (*KEYS[:-1], *REDUCED, KEYS[-1], oracle.MEAN)
STEPS = 4
SAMPLED_PHOTOS = 4  # of each set: sampling takes all experts in each step
Choice = Callable[[list[Tensor]], Tensor]


def ablations(bench: Bench, scope: Scope) -> list[Table]:
    """The best weights a recipe on mixtures with a part taken away or added, one step; and sampled in several steps."""
    sets = [s for s in scope.open("mixtures") if not s.missing]
    grams = oracle.collect_all(bench, sets, ALL, singles=False)
    return [_one_step(bench, scope, sets, grams), *_sampled(bench, scope, sets, grams)]


def _one_step(bench: Bench, scope: Scope, sets: list[PhotoSet], grams: oracle.Grams) -> Table:
    """From the experts' products alone, in closed form (neither clipped nor rounded)."""
    places = {key: i for i, key in enumerate(ALL)}

    def best_of(*keys: str) -> Choice:
        return lambda found: oracle.subset_weights(found, [places[k] for k in keys])

    def no_negative(found: list[Tensor]) -> Tensor:
        chosen = torch.tensor([places[k] for k in KEYS])
        w = torch.zeros(len(ALL)).double()
        w[chosen] = oracle.best_of_signs([g[chosen][:, chosen] for g in found])
        return w

    def fixed(*keys: str) -> Choice:
        w = torch.zeros(len(ALL)).double()
        w[[places[k] for k in keys]] = 1 / len(keys)
        return lambda found: w

    variants: dict[str, Choice] = {"all experts, blind and keep": best_of(*KEYS)}
    variants |= {f"without {key}": best_of(*(k for k in KEYS if k != key)) for key in KEYS}
    variants |= {
        "no negative weights": no_negative,
        "with super-resolution@down2": best_of(*KEYS, REDUCED[0]),
        "with super-resolution@down4": best_of(*KEYS, REDUCED[1]),
        "weights that need not sum to one": best_of(*KEYS, oracle.MEAN),
        "the same weight for all": fixed(*KEYS),
    }
    variants |= {f"{key} alone": fixed(key) for key in KEYS}

    def scored(found: list[Tensor], choose: Choice) -> list[tuple[int, float]]:
        w = choose(found)
        return [(i, oracle.psnr_of(g, w)) for i, g in enumerate(found)]  # all recipes have the same photos

    each = best_of(*KEYS)
    scores = {name: [v for found in grams.values() for v in scored(found, c)] for name, c in variants.items()}
    scores["the best weights for each photo"] = [
        (i, oracle.psnr_of(g, each([g]))) for found in grams.values() for i, g in enumerate(found)
    ]
    table = Table("Ablations on mixtures, one step", ["weights", "mean PSNR", "less than all"])
    whole = scores[next(iter(variants))]
    for name, own in scores.items():
        gap = mean_by_photo((i, a - b) for (i, a), (_, b) in zip(own, whole, strict=True))
        table.rows.append([name, plain(mean_by_photo(own)), "-" if own is whole else signed(gap)])
    table.notes += [
        scope.note(bench, sets), "Weights are chosen for each recipe with the truth at hand.",
        "Weights that need not sum to one: what is left of one goes to the photo's mean colour, so that none gets "
        "brighter or darker.",
    ]
    return table


def _sampled(bench: Bench, scope: Scope, sets: list[PhotoSet], grams: oracle.Grams) -> list[Table]:
    """These weights in all steps of sampling, or in the first alone and falling linearly to the best single expert."""
    few = [s.fewer(SAMPLED_PHOTOS, scope.crop) for s in sets]
    texts: dict[str, dict[str, str]] = {}
    for s in few:
        found = [g[: len(KEYS) - 1, : len(KEYS) - 1] for g in grams[s.name]]  # `keep` brings back what is wrong
        w = oracle.best_weights(found)
        singles = torch.eye(len(w)).double()[: len(FIVE)]
        alone = max(singles, key=lambda one: math.fsum(oracle.psnr_of(g, one) for g in found))
        falling = [alone + (1 - i / STEPS) * (w - alone) for i in range(STEPS)]
        same = oracle.text_of(KEYS[:-1], w)
        texts[s.name] = {
            same: "1", f"{same} [steps={STEPS}]": f"{STEPS}, all with them",
            "; ".join(oracle.text_of(KEYS[:-1], v) for v in falling) + f" [steps={STEPS}]": f"{STEPS}, falling",
            f"{oracle.text_of(KEYS[:-1], alone)} [steps={STEPS}]": f"{STEPS}, the best single expert",
        }
    found_rows = bench.run(few, lambda s: list(texts[s.name]))
    rows = _by_photo([{**row, "method": texts[row["set"]].get(row["method"], row["method"])} for row in found_rows])
    results = Results(rows)
    table = Table("The best weights a recipe, sampled", ["steps", "PSNR", "less than one step", "SSIM", "LPIPS"])
    for name in dict.fromkeys(row["method"] for row in rows):
        ssim, lpips = (results.mean("mixtures", name, m).value for m in ("ssim", "lpips"))
        gap = "-" if name == "1" else signed(results.gain("mixtures", name, "1"))
        table.rows.append([name, plain(results.mean("mixtures", name)), gap, f"{ssim:.4f}",
                           "-" if lpips != lpips else f"{lpips:.4f}"])
    table.notes += [scope.note(bench, few), "Over photos, each one's mean over all mixtures; without `keep`."]
    return [table, overview(results, "All measures")]


def _by_photo(rows: Sequence[Row]) -> list[Row]:
    """For each method and photo one row with its means over all mixtures; failures as they are."""
    own: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        own.setdefault((row["method"], row["photo"]), []).append(row)
    out: list[Row] = []
    for (method, photo), some in own.items():
        good = [row for row in some if "error" not in row]
        numbers = {k for row in good for k, v in row.items() if isinstance(v, float | int)}
        means = {k: statistics.fmean(row[k] for row in good if k in row) for k in numbers}
        head = {"set": "mixtures", "photo": photo, "method": method}
        out += [{**means, **head}] if good else []
        out += [{**row, "set": "mixtures"} for row in some if "error" in row]
    return out
