"""Crops at 100 % as one HTML page, worst cases first: where a method loses most, and against what."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from unires.bench.measures import psnr
from unires.bench.report import Results
from unires.bench.run import Bench
from unires.bench.sets import Case, PhotoSet
from unires.degrade import operators
from unires.errors import UniresError

SIDE = 192  # pixels of a crop
STYLE = """body{font:14px/1.4 system-ui,sans-serif;margin:2em;background:#222;color:#eee}
h2{font-size:1em;margin:2em 0 .5em}
.strip{display:flex;flex-wrap:wrap;gap:8px}figure{margin:0}figcaption{font-size:12px;max-width:192px}
.lost{color:#ff9c8a}.won{color:#9fe0a0}img{display:block;image-rendering:pixelated}"""


@dataclass(frozen=True)
class Strip:
    """One photo, one pair of methods: how much `ours` is above `other`, in dB."""

    photo_set: PhotoSet
    index: int
    ours: str
    other: str
    gain: float


def worst(
    results: Results, sets: Sequence[PhotoSet], ours: Sequence[str], against: Sequence[str], count: int
) -> list[Strip]:
    """The photos where ours (the first of `ours` that a set has) is least above the strongest method of `against` on
    that photo, worst first; from each set at most a quarter, so that one set does not fill the page."""
    strips: list[Strip] = []
    for s in sets:
        methods = [m for m in results.methods(s.name) if results.values(s.name, m)]
        mine = next((m for m in ours if m in methods), None)
        others = [m for m in methods if m in against and m not in ours]
        if mine is None or not others:
            continue
        own = []
        values = {m: results.values(s.name, m) for m in [mine, *others]}
        for index, entry in enumerate(s.files):
            rivals = [m for m in others if entry.photo in values[m]]
            if rivals and entry.photo in values[mine]:
                other = max(rivals, key=lambda m: values[m][entry.photo])
                own.append(Strip(s, index, mine, other, values[mine][entry.photo] - values[other][entry.photo]))
        strips += sorted(own, key=lambda t: t.gain)[: max(1, count // 4)]
    return sorted(strips, key=lambda t: t.gain)[:count]


def write(bench: Bench, strips: Sequence[Strip], path: Path) -> None:
    """Restore those photos again and write the page. Raises UniresError where it can't be written."""
    parts = [f"<!doctype html><meta charset=utf-8><title>Worst cases</title><style>{STYLE}</style>",
             "<h1>Worst cases first, at 100 %</h1>",
             "<p>Each crop is where the method is furthest behind the strongest other one on that photo.</p>"]
    for strip in strips:
        parts.append(_strip(bench, strip))
        bench.log(f"{strip.photo_set.name}, {strip.photo_set.files[strip.index].photo}: {strip.gain:+.2f} dB")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(parts) + "\n")
    except OSError as error:
        raise UniresError(f"The page {path} can't be written: {error.strerror}.") from error


def _strip(bench: Bench, strip: Strip) -> str:
    case = strip.photo_set.load(strip.index, bench.cache)
    pictures = {"input": case.lq}
    for name in dict.fromkeys((strip.ours, strip.other)):
        if name != "input":
            pictures[name] = _restore(bench, strip.photo_set, name, case)
    if case.gt is not None:
        pictures["truth"] = case.gt
    top, left = _place(pictures[strip.ours], pictures[strip.other], case)
    verdict = "lost" if strip.gain < 0 else "won"
    title = f"{strip.photo_set.name}, {case.photo}: {strip.ours} {strip.gain:+.2f} dB against {strip.other}"
    figures = "".join(_figure(name, x, case, top, left) for name, x in pictures.items())
    return f'<h2 class={verdict}>{html.escape(title)}</h2><div class=strip>{figures}</div>'


def _restore(bench: Bench, photo_set: PhotoSet, name: str, case: Case) -> Tensor:
    method = bench.open(name, photo_set)
    return operators.round8(method.run(case).pixels.detach().float().cpu())


def _place(ours: Tensor, other: Tensor, case: Case) -> tuple[int, int]:
    """Top left corner of the crop where ours has most more error than the other."""
    high, wide = case.lq.shape[-2:]
    if case.gt is None:
        return max(0, (high - SIDE) // 2), max(0, (wide - SIDE) // 2)
    more = ((ours - case.gt).square() - (other - case.gt).square()).mean(dim=1, keepdim=True)
    window = min(SIDE, high), min(SIDE, wide)
    sums = F.avg_pool2d(more, window, stride=8)[0, 0]
    row, column = divmod(int(sums.argmax()), sums.shape[1])
    return row * 8, column * 8


def _figure(name: str, x: Tensor, case: Case, top: int, left: int) -> str:
    from PIL import Image

    crop = x[0, :, top : top + SIDE, left : left + SIDE]
    data = (operators.round8(crop) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(data).save(buffer, "PNG")
    code = base64.b64encode(buffer.getvalue()).decode()
    value = "" if case.gt is None or name == "truth" else f", {float(psnr(operators.round8(x), case.gt)):.2f} dB"
    size = f'width={data.shape[1]} height={data.shape[0]}'
    label = html.escape(name + value)
    picture = f'<img {size} alt="{label}" src="data:image/png;base64,{code}">'
    return f"<figure>{picture}<figcaption>{label}</figcaption></figure>"
