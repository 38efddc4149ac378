"""The runner: every method on every photo of every set, each result kept as one JSON line as soon as it is there.

Killed and started again, it goes on where it stopped: a line is known by set (and its definition), photo, method and
version. Lines are only ever appended."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unires.bench import measures
from unires.bench.interface import Answer, Method, NotApplicable
from unires.bench.methods import Ours, open_method
from unires.bench.sets import Case, PhotoSet
from unires.degrade import operators
from unires.errors import UniresError
from unires.train.lpips import Lpips

CAP = 120.0  # dB, in place of infinity for identical pictures; one 8-bit step in one pixel of a megapixel is 113
Row = dict[str, Any]
Log = Callable[[str], None]
Job = Callable[["Bench", Sequence[PhotoSet]], object]


class Store:
    """Results in a file of JSON lines, and by key in memory."""

    def __init__(self, path: Path) -> None:
        """Raises UniresError where the file can't be made or read. A last line that was cut short is left out."""
        self.path = path
        self.rows: dict[tuple[str, ...], Row] = {}
        self.read()

    def read(self) -> None:
        """Take in what the file holds by now."""
        path = self.path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            text = path.read_text() if path.exists() else ""
            if text and not text.endswith("\n"):  # the run was killed while writing
                with path.open("a") as file:
                    file.write("\n")
        except OSError as error:
            raise UniresError(f"Results can't be kept in {path}: {error.strerror}.") from error
        for line in text.splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                row = json.loads(line)
                self.rows[key_of(row)] = row

    def number_type(self, model: str) -> str:
        """What the model with that hash was computed in, "" if there is no result of it: a run that goes on has to
        go on in that."""
        for row in self.rows.values():
            parts = str(row["version"]).split("-")
            if parts[0] == model and len(parts) > 1:
                return parts[1]
        return ""

    def add(self, row: Row) -> None:
        self.rows[key_of(row)] = row
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def key_of(row: Row) -> tuple[str, ...]:
    return tuple(str(row[k]) for k in ("set", "definition", "photo", "method", "version"))


@dataclass
class Bench:
    """What is common to all runs: where results go, what is measured, whether times count."""

    ours: Ours
    store: Store
    lpips: Lpips | None = None
    cache: Path | None = None
    extra: measures.Extra = field(default_factory=measures.Extra)
    timed: bool = True
    log: Log = print
    spread: Callable[[Sequence[PhotoSet], Job], object] | None = None  # does the job in several processes beforehand
    opened: dict[tuple[str, str], Method] = field(default_factory=dict)
    seen: list[Row] = field(default_factory=list)  # all rows that runs have returned

    def run(self, sets: Sequence[PhotoSet], methods: Callable[[PhotoSet], Sequence[str]]) -> list[Row]:
        """One row for each set, photo and method; where a set is missing or a method fails for all photos, one row
        with `error` for the set."""
        if self.spread is not None:
            self.spread(sets, functools.partial(run_methods, names={s.name: tuple(methods(s)) for s in sets}))
        rows: list[Row] = []
        for photo_set in sets:
            if photo_set.missing:
                self.log(f"{photo_set.name}: {photo_set.missing}")
                rows.append(_error(photo_set, "", "", photo_set.missing))
                continue
            start = time.monotonic()
            ready, found = self._ready(photo_set, methods(photo_set))
            for index in range(len(photo_set.files)):
                found += self._photo(photo_set, index, ready)
            rows += found
            self.log(f"{photo_set.name}: {len(photo_set.files)} photos, {time.monotonic() - start:.0f} s")
        self.seen += rows
        return rows

    def lacks(self, row: Row) -> bool:
        """Whether a measure is wanted that wasn't when the row was made."""
        wanted = ["lpips"] * (self.lpips is not None and not row.get("plain"))
        return any(name not in row for name in [*wanted, *self.extra.names])

    def open(self, text: str, photo_set: PhotoSet) -> Method:
        """The method of that name for a set, made once. Raises as `open_method` does."""
        key = (text, photo_set.expert)
        if key not in self.opened:
            self.opened[key] = open_method(text, photo_set, self.ours)
        return self.opened[key]

    def _ready(self, photo_set: PhotoSet, names: Sequence[str]) -> tuple[list[Method], list[Row]]:
        """Methods that can run, and a row for each that can't."""
        ready, failed = [], []
        for text in dict.fromkeys(names):
            try:
                ready.append(self.open(text, photo_set))
            except NotApplicable:
                continue
            except UniresError as error:
                self.log(f"{photo_set.name}, {text}: {error}")
                failed.append(_error(photo_set, text, "", str(error)))
        return ready, failed

    def _photo(self, photo_set: PhotoSet, index: int, methods: list[Method]) -> list[Row]:
        """The rows of one photo. Takes out of `methods` those that failed or don't apply: they get no more photos."""
        case: Case | None = None
        rows = []
        for method in tuple(methods):
            row: Row = {
                "set": photo_set.name, "definition": photo_set.definition(index),
                "photo": photo_set.files[index].photo, "method": method.name, "version": method.version,
            }
            known = self.store.rows.get(key_of(row))
            if known is not None and not self.lacks(known):
                rows.append(known)
                continue
            try:
                if case is None:
                    case = photo_set.load(index, self.cache)
                row |= self._measure(method, case)
            except NotApplicable:
                methods.remove(method)
                continue
            except Exception as error:  # a peer may raise anything, and the run goes on
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                self.log(f"{photo_set.name}, {row['photo']}, {method.name}: {reason}")
                rows.append(_error(photo_set, method.name, method.version, reason))
                methods.remove(method)
                continue
            self.store.add(row)
            rows.append(row)
        return rows

    def _measure(self, method: Method, case: Case) -> Row:
        with memory() as peak:
            start = time.perf_counter()
            answer = method.run(case)
            if answer.pixels.is_cuda:
                torch.cuda.synchronize()
            seconds = time.perf_counter() - start
        out = operators.round8(answer.pixels.detach().float().cpu())
        if out.shape != case.lq.shape:
            raise UniresError(f"{method.name} returned {tuple(out.shape)} for {tuple(case.lq.shape)}.")
        if not bool(torch.isfinite(out).all()):
            raise UniresError(f"{method.name} returned values that are no numbers.")
        return {**self.quality(out, case.gt), **self._cost(answer, seconds, case.lq, peak)}

    def quality(self, out: Tensor, truth: Tensor | None) -> Row:
        """All measures of one result that is clipped and rounded already; {"plain": true} where there is no truth."""
        if truth is None:
            return {"plain": True, **self.extra(out, None)}
        values = {"psnr": min(CAP, float(measures.psnr(out, truth))), "ssim": float(measures.ssim(out, truth))}
        multi = float(measures.ms_ssim(out, truth))
        if not math.isnan(multi):
            values["ms_ssim"] = multi
        if self.lpips is not None:
            values["lpips"] = float(self.lpips(out, truth))
        return {k: round(v, 6) for k, v in (values | self.extra(out, truth)).items()}

    def _cost(self, answer: Answer, seconds: float, lq: Tensor, peak: list[float]) -> Row:
        row: Row = {"passes": answer.passes}
        if self.timed:
            row |= {"seconds": round(seconds, 4), "megapixels": round(lq.shape[-2] * lq.shape[-1] / 1e6, 6)}
            row |= {"peak_mb": round(peak[0], 1)} if peak else {}
        return row | ({"note": answer.note} if answer.note else {})


def run_methods(bench: Bench, sets: Sequence[PhotoSet], names: dict[str, tuple[str, ...]]) -> None:
    """A job for other processes: the methods of each set, by the set's name."""
    bench.run(sets, lambda s: names[s.name])


def _error(photo_set: PhotoSet, method: str, version: str, reason: str) -> Row:
    return {
        "set": photo_set.name, "definition": "", "photo": "", "method": method, "version": version,
        "error": reason,
    }


@contextlib.contextmanager
def memory() -> Iterator[list[float]]:
    """Yields a list that holds, afterwards, the peak memory in MB above what was in use before; it stays empty where
    the system can't tell (only Linux can, and CUDA)."""
    out: list[float] = []
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    before = _status("VmRSS") if _reset_peak() else None
    yield out
    after = _status("VmHWM")
    if cuda and torch.cuda.max_memory_allocated():
        out.append(torch.cuda.max_memory_allocated() / 1e6)
    elif before is not None and after is not None:
        out.append(max(0.0, after - before))


def _reset_peak() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the high-water mark
        return True
    except OSError:
        return False


def _status(entry: str) -> float | None:
    with contextlib.suppress(OSError, StopIteration):
        line = next(s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith(entry + ":"))
        return int(line.split()[1]) * 1024 / 1e6
    return None
