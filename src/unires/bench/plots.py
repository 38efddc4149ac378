"""Plots, with matplotlib (optional): fidelity against perception, and speed over commits."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from unires.bench.peers import need
from unires.bench.report import Results


def _pyplot() -> Any:
    need("matplotlib", "matplotlib", "pip install matplotlib").use("Agg")
    return need("matplotlib.pyplot", "matplotlib", "pip install matplotlib")


def perception(results: Results, path: Path, most: int = 12) -> bool:
    """A panel a set: PSNR (further right is truer) against LPIPS (further up is crisper), a point a method. Only sets
    with two methods or more that have both. Returns whether there was anything to draw. Raises UniresError without
    matplotlib."""
    points = {}
    for name in results.sets:
        both = {m: (results.mean(name, m).value, results.mean(name, m, "lpips").value) for m in results.methods(name)}
        both = {m: p for m, p in both.items() if not any(map(math.isnan, p))}
        if len(both) > 1:
            points[name] = both
    if not points:
        return False
    plt = _pyplot()
    shown = list(points.items())[:most]
    columns = min(3, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(5 * columns, 4 * rows), squeeze=False)
    for axis in axes.flat[len(shown) :]:
        axis.set_visible(False)
    methods = list(dict.fromkeys(m for _, both in shown for m in both))
    colours = plt.get_cmap("tab20")(range(len(methods)))
    marks = "os^vDP*Xph"
    handles: dict[str, Any] = {}
    for axis, (name, both) in zip(axes.flat, shown, strict=False):
        for method, (x, y) in both.items():
            i = methods.index(method)
            (handles[method],) = axis.plot(x, y, marks[i % len(marks)], color=colours[i], label=_short(method))
        axis.set_title(name, fontsize=9)
        axis.invert_yaxis()
        axis.set_xlabel("PSNR, dB")
        axis.set_ylabel("LPIPS (up is better)")
        axis.margins(0.15)
    ordered = [handles[m] for m in methods]
    figure.legend(ordered, [_short(m) for m in methods], loc="upper center", ncols=min(4, len(methods)), fontsize=8)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.22 * math.ceil(len(methods) / 4) / (4 * rows) - 0.01))
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True


def history(path: Path, picture: Path) -> bool:
    """A line a figure over the runs of a history file (`unires.bench.speed.remember`). Returns whether there were two
    runs or more. Raises UniresError without matplotlib."""
    runs = [json.loads(line) for line in path.read_text().splitlines() if line.strip()] if path.is_file() else []
    if len(runs) < 2:
        return False
    plt = _pyplot()
    figure, axis = plt.subplots(figsize=(9, 5))
    names = dict.fromkeys(f["name"] for r in runs for f in r["figures"] if f["ratio"] != 1)
    for name in names:
        found = [(i, f["ratio"]) for i, r in enumerate(runs) for f in r["figures"] if f["name"] == name]
        axis.plot(*zip(*found, strict=True), "o-", label=name)
    axis.set_yscale("log")
    axis.set_xticks(range(len(runs)), [r["commit"] for r in runs], rotation=60, fontsize=7)
    axis.set_ylabel("times the reference convolution")
    axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(picture, dpi=110)
    plt.close(figure)
    return True


def _short(method: str) -> str:
    return method if len(method) <= 28 else method[:25] + "..."


