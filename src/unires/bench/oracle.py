"""The best weights there are for a known truth: the ceiling for every way of choosing them.

A step's result is linear in the weights, and these sum to one; so its error is the weighted sum of the experts' errors
e_k, and its mean squared error w G w with G[k, l] = mean(e_k e_l): a K x K matrix a photo is all that has to be kept.
The best weights of one photo solve G w = 1, scaled. The best fixed weights for many maximise their mean PSNR; found by
reweighted least squares, as the gradient of the mean PSNR is that of the sum of errors, each divided by itself."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unires.bench.run import Bench, Row, key_of
from unires.bench.sets import Case, PhotoSet
from unires.compose.experts import KEEP
from unires.degrade import operators

Grams = dict[str, list[Tensor]]
MEAN = "mean"  # the degraded photo's mean colour everywhere: with it the weights of the others need not sum to one


def gram(results: Sequence[Tensor], truth: Tensor) -> Tensor:
    """G: K x K, float64, from the K experts' results and the truth, tensors of one shape."""
    errors = torch.stack([r.flatten().double() - truth.flatten().double() for r in results])
    return errors @ errors.T / truth.numel()


def psnr_of(g: Tensor, w: Tensor) -> float:
    """PSNR of weights w (K, float64, summing to one) on a photo with the matrix g; neither clipped nor rounded."""
    return -10 * math.log10(max(1e-12, float(w @ g @ w)))


def best_weights(grams: Sequence[Tensor], rounds: int = 30, ridge: float = 1e-7) -> Tensor:
    """Weights (K, float64, summing to one, signs free) of the highest mean PSNR over the photos. ridge: a squared
    error that a weight of 1 costs, so that experts that say the same share their weight evenly."""
    k = len(grams[0])
    ones = torch.ones(k).double()
    w = ones / k
    best, score = w, -math.inf
    for _ in range(rounds):
        total = torch.zeros(k, k).double()
        for g in grams:
            damped = g + ridge * torch.eye(k).double()
            total += damped / float(w @ damped @ w)
        w = torch.linalg.solve(total, ones)
        w = w / w.sum()
        now = math.fsum(psnr_of(g, w) for g in grams) / len(grams)
        if now <= score + 1e-6:
            break
        best, score = w, now
    return best


def best_of_signs(grams: Sequence[Tensor]) -> Tensor:
    """As `best_weights`, but none negative: the best subset of experts whose own best weights are all positive (there
    are 2^K, and the best non-negative weights are the best weights of their support)."""
    k = len(grams[0])
    best, score = torch.eye(k).double()[0], -math.inf
    for members in range(1, 2**k):
        chosen = [i for i in range(k) if members >> i & 1]
        w = subset_weights(grams, chosen)
        if float(w.min()) >= 0:
            now = math.fsum(psnr_of(g, w) for g in grams)
            best, score = (w, now) if now > score else (best, score)
    return best


def subset_weights(grams: Sequence[Tensor], chosen: Sequence[int]) -> Tensor:
    """The best weights of some of the experts; the others' are zero."""
    w = torch.zeros(len(grams[0])).double()
    index = torch.tensor(list(chosen))
    w[index] = best_weights([g[index][:, index] for g in grams])
    return w


def text_of(experts: Sequence[str], w: Tensor) -> str:
    """As `--weights` takes them; what is under two thousandths is left out, the rest sums to one."""
    kept = [(e, v) for e, v in zip(experts, w.tolist(), strict=True) if abs(v) >= 2e-3]
    rest = 1 - math.fsum(v for _, v in kept)
    return ",".join(f"{e}={v + rest / len(kept):.5f}" for e, v in kept)


def describe(experts: Sequence[str], w: Tensor) -> str:
    """For people: the weights that count, largest first."""
    order = sorted(zip(experts, w.tolist(), strict=True), key=lambda p: -abs(p[1]))
    return ", ".join(f"{e} {v:+.2f}" for e, v in order if abs(v) >= 0.02)


def collect(bench: Bench, photo_set: PhotoSet, experts: Sequence[str], singles: bool) -> list[Tensor]:
    """Every photo's matrix for the experts, one step, in this order, but KEEP and MEAN, if wanted, last; and with
    `singles`, the result row of each of them alone goes to the store, since the passes are there anyhow."""
    grams = []
    names = [e for e in experts if e not in (KEEP, MEAN)]
    for index, entry in enumerate(photo_set.files):
        base: Row = {"set": photo_set.name, "definition": photo_set.definition(index), "photo": entry.photo}
        key: Row = {**base, "method": f"oracle {','.join(experts)}", "version": bench.ours.version}
        own: list[Row] = [{**base, "method": e, "version": bench.ours.version} for e in names if singles]
        known = bench.store.rows.get(key_of(key))
        done = [bench.store.rows.get(key_of(r)) for r in own]
        if known is None or any(d is None or bench.lacks(d) for d in done):
            case = photo_set.load(index, bench.cache)
            assert case.gt is not None
            results = _passes(bench, case, names)
            mean = case.lq.mean(dim=(2, 3), keepdim=True).expand_as(case.lq)
            matrix = gram([*results, *[case.lq] * (KEEP in experts), *[mean] * (MEAN in experts)], case.gt)
            known = {**key, "gram": matrix.tolist()}
            bench.store.add(known)
            for row, result in zip(own, results, strict=False):
                bench.store.add(row | bench.quality(operators.round8(result), case.gt))
        grams.append(torch.tensor(known["gram"]).double())
    return grams


def collect_all(bench: Bench, sets: Sequence[PhotoSet], experts: Sequence[str], singles: bool) -> Grams:
    """`collect` for every set that is there, by its name."""
    if bench.spread is not None:
        bench.spread(sets, functools.partial(collect_all, experts=tuple(experts), singles=singles))
    grams: Grams = {}
    for s in sets:
        if not s.missing:
            grams[s.name] = collect(bench, s, experts, singles)
            bench.log(f"{s.name}: experts' results on {len(s.files)} photos")
    return grams


def _passes(bench: Bench, case: Case, names: Sequence[str]) -> list[Tensor]:
    restorer: Any = bench.ours.restorer
    return [restorer.pixels(case.lq, weights=name).float().cpu() for name in names]
