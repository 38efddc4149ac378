"""What `unires bench` does: opens what a named run needs, runs it, writes the reports, returns the text to print."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from unires.bench import named, report, sets, speed
from unires.bench.measures import find_lpips
from unires.bench.methods import Ours
from unires.bench.run import Bench, Store
from unires.errors import OptionError, nearest

RUNS = ("experts", "mixtures", "main", "speed", "sets")


@dataclass(frozen=True)
class Wanted:
    """The options of `unires bench`."""

    what: str
    data: str = "../shared/data"
    out: str = "runs/bench"
    photos: int = 0
    crop: int = 0
    peers: bool = False
    lpips: str | None = None
    device: str = "auto"
    model: str | None = None


def run(wanted: Wanted) -> str:
    """Run it; returns the tables as text. Raises UniresError in one sentence."""
    if wanted.what not in RUNS:
        raise OptionError(nearest(wanted.what, RUNS, kind="run"))
    if wanted.photos < 0 or wanted.crop < 0 or 0 < wanted.crop < 16:
        raise OptionError("The photos are a whole number, and a crop has at least 16 pixels a side.")
    out = Path(wanted.out)
    if wanted.what == "sets":
        return "\n".join(sets.names())
    if wanted.what == "speed":
        return _speed(wanted, out)
    bench = Bench(
        Ours(wanted.model, wanted.device), Store(out / "results.jsonl"), find_lpips(wanted.lpips), out / "inputs", log
    )
    scope = named.Scope(Path(wanted.data), wanted.photos, wanted.crop)
    log(f"Model {bench.ours.version}")  # unusable weights stop the run here, not photo by photo
    tables = (named.experts(bench, scope, wanted.peers) if wanted.what == "experts" else named.mixtures(bench, scope))
    paths = report.write(tables, out, wanted.what)
    # the last table has every measure of every method: too long for a terminal
    return "\n\n".join([*(t.text() for t in tables[:-1]), f"All measures: {', '.join(map(str, paths))}"])


def _speed(wanted: Wanted, out: Path) -> str:
    ours = Ours(wanted.model, wanted.device)
    figures = speed.measure(ours.restorer, large=not wanted.crop)
    facts = speed.machine(ours.restorer, ours.version)
    speed.remember(out / "speed.jsonl", figures, facts)
    table = speed.table(figures, facts)
    report.write([table], out, "speed")
    return table.text()


def log(line: str) -> None:
    """Progress goes to the error stream, so that the tables alone are the output."""
    print(line, file=sys.stderr, flush=True)
