"""What `unires bench` does: opens what a named run needs, runs it, writes the reports, returns the text to print."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unires.bench import dials, document, named, page, parallel, plots, profile, reading, report, sets, speed
from unires.bench.ablations import ablations
from unires.bench.composition import composition
from unires.bench.measures import Extra, find_lpips, lpips_path
from unires.bench.methods import Ours, model_hash
from unires.bench.peers import PEERS
from unires.bench.report import Results, Table
from unires.bench.run import Bench, Job, Store
from unires.bench.searching import searching
from unires.bench.sets import PhotoSet
from unires.errors import OptionError, UniresError, nearest

Quality = Callable[[Bench, named.Scope], list[Table]]
QUALITY: dict[str, Quality] = {
    "experts": named.experts, "mixtures": named.mixtures, "composition": composition, "ablations": ablations,
    "search": searching, "report": reading.report, "main": named.main, "dial": dials.dial, "precision": dials.precision,
}
RUNS = (*QUALITY, "new-experts", "compare", "speed", "profile", "scale", "sets", "docs")
WORST_CASES = 24


@dataclass(frozen=True)
class Wanted:
    """The options of `unires bench`; `words` is the command line, for the reports."""

    what: str
    sets: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    against: str = "input"
    data: str = "../shared/data"
    out: str = "runs/bench"
    photos: int = 0
    crop: int = 0
    peers: bool = False
    pages: bool = False
    lpips: str | None = None
    extra: tuple[str, ...] = ()
    device: str = "auto"
    model: str | None = None
    workers: int = 1
    minutes: float = 8
    docs: str = "docs/benchmarks.md"
    words: tuple[str, ...] = ()


def run(wanted: Wanted) -> str:
    """Run it; returns the tables as text. Raises UniresError in one sentence."""
    if not wanted.what:
        raise OptionError(f"Say what to measure: {', '.join(RUNS)} (see `unires bench --help`).")
    if wanted.what not in RUNS:
        raise OptionError(nearest(wanted.what, RUNS, kind="run"))
    if wanted.photos < 0 or wanted.crop < 0 or 0 < wanted.crop < 16 or wanted.workers < 1:
        raise OptionError("Photos and workers are whole numbers, and a crop has at least 16 pixels a side.")
    out = Path(wanted.out)
    if wanted.what == "scale":
        return _scale(wanted)
    if wanted.what == "sets":
        return _list_sets(Path(wanted.data))
    if wanted.what == "docs":
        found = document.write(out, Path(wanted.docs), "unires bench docs")
        return f"Written to {wanted.docs}: {', '.join(found)}."
    if wanted.what in ("speed", "profile"):
        return _speed(wanted, out) if wanted.what == "speed" else _profile(wanted, out)
    return _additions(wanted, out) if wanted.what == "new-experts" else _quality(wanted, out)


def _list_sets(data: Path) -> str:
    lines = []
    for name in sets.names():
        for s in sets.open_sets(name, data):
            lines.append(f"{name:16} {s.name:56} {s.missing or f'{len(s.files)} photos'}")
    return "\n".join(lines)


def _quality(wanted: Wanted, out: Path) -> str:
    if wanted.what == "compare" and not (wanted.sets and wanted.methods):
        raise OptionError("Say what to compare: --set NAME and --method NAME, each as often as needed.")
    bench = open_bench(wanted, out)
    log(f"Model {bench.ours.version}")  # unusable weights stop the run here, not photo by photo
    scope = named.Scope(Path(wanted.data), wanted.photos, wanted.crop, wanted.methods)
    if wanted.what == "compare":
        tables = named.compare(bench, scope, wanted.sets, wanted.against)
    elif wanted.what == "experts":
        tables = named.experts(bench, scope, wanted.peers)
    else:
        tables = QUALITY[wanted.what](bench, scope)
    pictures, written = _pages(bench, scope, wanted, out) if wanted.pages else ([], [])
    facts = document.facts(wanted.words, bench.ours.restorer.device)
    paths = report.write(tables, out, wanted.what, facts, pictures)
    # what has every measure of every method is too long for a terminal, but for the runs that are about that
    shown = tables if wanted.what in ("main", "compare", "report") else tables[:-1]
    return "\n\n".join([*(t.text() for t in shown), f"Written: {', '.join(map(str, [*paths, *written]))}"])


def open_bench(wanted: Wanted, out: Path) -> Bench:
    """What all quality runs share. With several workers, each run first happens in them."""
    from unires.restore.restorer import pick_device

    device = pick_device(wanted.device)
    results, cache = out / "results.jsonl", out / "inputs"
    parallel.gather(results)
    store = Store(results)
    ours = Ours(wanted.model, device, store.number_type(model_hash(wanted.model)))
    bench = Bench(
        ours, store, find_lpips(wanted.lpips, device), cache, Extra(wanted.extra, device), wanted.workers == 1, log
    )

    def spread(photo_sets: Sequence[PhotoSet], job: Job) -> None:
        number_type = ours.restorer.denoiser.facts.number_type
        plan = parallel.Plan(results, cache, wanted.model, device, number_type, lpips_path(wanted.lpips), wanted.extra)
        parallel.spread(plan, photo_sets, job, wanted.workers)
        parallel.gather(results)
        bench.store.read()

    bench.spread = spread if wanted.workers > 1 else None
    return bench


def _additions(wanted: Wanted, out: Path) -> str:
    from unires.bench import additions
    from unires.restore.restorer import pick_device

    photos, device = Path(wanted.data) / additions.TRAINING, pick_device(wanted.device)
    grown = additions.train(wanted.model, photos, out, wanted.minutes, device, log)
    bench = open_bench(replace(wanted, model=str(grown)), out)
    scope = named.Scope(Path(wanted.data), wanted.photos, wanted.crop)
    tables, pictures = additions.additions(bench, scope, wanted.model, out)
    facts = document.facts(wanted.words, bench.ours.restorer.device)
    paths = report.write(tables, out, wanted.what, facts, pictures)
    return "\n\n".join([*(t.text() for t in tables[:-1]), f"Written: {', '.join(map(str, paths))}"])


def _pages(bench: Bench, scope: named.Scope, wanted: Wanted, out: Path) -> tuple[list[str], list[Path]]:
    """The page of worst cases and the plot, from all rows that the run used: (names of pictures, what was written)."""
    photo_sets = scope.open(*(wanted.sets if wanted.what == "compare" else ("singles", *named.REAL, "mixtures")))
    results = Results(bench.seen)
    # in a comparison, the page is about the first method of our own
    own = [m for m in wanted.methods if m != "input" and m not in PEERS and ":" not in m]
    ours = own[:1] if wanted.what == "compare" else ["expert", "default"]
    others = ("input", *PEERS, *wanted.methods)
    target, picture = out / f"{wanted.what}.html", out / f"{wanted.what}.png"
    page.write(bench, page.worst(results, photo_sets, ours, others, WORST_CASES), target)
    try:
        if plots.perception(results, picture):
            return [picture.name], [target, picture]
        log("No plot: it needs LPIPS (--lpips FILE).")
    except UniresError as error:
        log(f"No plot: {error}")
    return [], [target]


def _speed(wanted: Wanted, out: Path) -> str:
    ours = Ours(wanted.model, wanted.device)
    figures = speed.measure(ours.restorer, large=not wanted.crop)
    facts = speed.machine(ours.restorer, ours.version)
    history = out / "speed.jsonl"
    speed.remember(history, figures, facts)
    table = speed.table(figures, facts)
    pictures = []
    try:
        pictures = ["speed.png"] if plots.history(history, out / "speed.png") else []
    except UniresError as error:
        log(f"No plot: {error}")
    report.write([table], out, "speed", document.facts(wanted.words, ours.restorer.device), pictures)
    return table.text()


def _profile(wanted: Wanted, out: Path) -> str:
    ours = Ours(wanted.model, wanted.device)
    facts = speed.machine(ours.restorer, ours.version)
    table = profile.table(profile.measure(wanted.model, wanted.device), facts)
    report.write([table], out, "profile", document.facts(wanted.words, ours.restorer.device))
    return table.text()


def _scale(wanted: Wanted) -> str:
    from unires.bench import scale
    from unires.restore.restorer import pick_device

    lines = []
    for line in scale.measure(pick_device(wanted.device)):
        log(line)
        lines.append(f"- {line}")
    return "\n".join([scale.table(), "", *lines])


def log(line: str) -> None:
    """Progress goes to the error stream, so that the tables alone are the output."""
    print(line, file=sys.stderr, flush=True)
