"""Weights by search, as in the paper (UniRes, section 3.3 and its ablations): a grid of candidates, each restored and
judged by a quality function; the sets that win most often; and climbing the quality for one photo.

With a shared start (t = 1) the experts' predictions are the same for all candidates: K passes serve them all."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor

from unires.compose.quality import Quality

EXPERTS = ("super-resolution", "motion-deblur", "defocus-deblur", "denoise", "dejpeg", "keep")
LOWEST, HIGHEST, STEP = -0.2, 1.2, 0.2
AT_ONCE = 1 << 19  # pixels of candidates that are judged together: more no longer stay in the processor's cache


def grid(experts: int = len(EXPERTS), negative: int = 1) -> Tensor:
    """All rows of `experts` weights in steps of .2 from -.2 to 1.2 that sum to one, at most `negative` of them below
    zero: N x experts (1,512 for six experts and one, as in the paper)."""
    steps = range(round(LOWEST / STEP), round(HIGHEST / STEP) + 1)
    total = round(1 / STEP)
    rows = [
        (*head, total - sum(head)) for head in itertools.product(steps, repeat=experts - 1)
        if total - sum(head) in steps
    ]  # fmt: skip
    return torch.tensor([r for r in rows if sum(v < 0 for v in r) <= negative]) * STEP


def judged(predictions: Tensor, candidates: Tensor, quality: Quality) -> Tensor:
    """The quality of each candidate's result: N, from predictions K x 3 x H x W in [0, 1] and weights N x K."""
    each = predictions[0, 0].numel()
    some = max(1, AT_ONCE // each)
    with torch.inference_mode():
        parts = [quality(_mixed(predictions, c)) for c in torch.split(candidates, some)]
    return torch.cat(parts)


def best_of(predictions: Tensor, candidates: Tensor, quality: Quality) -> Tensor:
    """The row of `candidates` (N x K) whose result is best: K."""
    return candidates[int(judged(predictions, candidates, quality).argmax())]


def most_frequent(winners: Iterable[Tensor], count: int = 8) -> Tensor:
    """The rows that won most often, `count` x K (fewer if there are fewer): the paper's default sets."""
    seen = Counter(tuple(round(v / STEP) for v in row.tolist()) for row in winners)
    return torch.tensor([row for row, _ in seen.most_common(count)]) * STEP


def optimised(predictions: Tensor, quality: Quality, start: Tensor, rounds: int = 80, rate: float = 0.03) -> Tensor:
    """Weights (K, summing to one, signs free) that a differentiable quality function likes better than `start` (K),
    climbed by Adam; the best of all rounds."""
    free = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([free], lr=rate)
    best, score = start, -float("inf")
    for _ in range(rounds):
        row = free + (1 - free.sum()) / len(free)
        value = quality(_mixed(predictions, row[None]))[0]
        if float(value.detach()) > score:
            best, score = row.detach().clone(), float(value.detach())
        optimizer.zero_grad()
        torch.autograd.backward(-value)
        optimizer.step()
    return best


def _mixed(predictions: Tensor, candidates: Tensor) -> Tensor:
    return torch.einsum("nk,kchw->nchw", candidates.to(predictions), predictions).clamp(0, 1)
