"""The runner: every method on every photo of every set, each result kept as one JSON line as soon as it is there.

Killed and started again, it goes on where it stopped: a line is known by set (and its definition), photo, method and
version. Lines are only ever appended."""

from __future__ import annotations

import contextlib
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
from unires.bench.methods import Answer, Method, NotApplicable, Ours, open_method
from unires.bench.sets import Case, PhotoSet
from unires.degrade import operators
from unires.errors import UniresError

CAP = 120.0  # dB, in place of infinity for identical pictures; one 8-bit step in one pixel of a megapixel is 113
Row = dict[str, Any]
Log = Callable[[str], None]


class Store:
    """Results in a file of JSON lines, and by key in memory."""

    def __init__(self, path: Path) -> None:
        """Raises UniresError where the file can't be made or read. A last line that was cut short is left out."""
        self.path = path
        self.rows: dict[tuple[str, ...], Row] = {}
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
    lpips: measures.Lpips | None = None
    cache: Path | None = None
    log: Log = print
    opened: dict[tuple[str, str], Method] = field(default_factory=dict)

    def run(self, sets: Sequence[PhotoSet], methods: Callable[[PhotoSet], Sequence[str]]) -> list[Row]:
        """One row for each set, photo and method; where a set is missing or a method fails for all photos, one row
        with `error` for the set."""
        rows: list[Row] = []
        for photo_set in sets:
            if photo_set.missing:
                self.log(f"{photo_set.name}: {photo_set.missing}")
                rows.append(_error(photo_set, "", "", photo_set.missing))
                continue
            start, found = time.monotonic(), []
            ready = []
            for text in methods(photo_set):
                method, failure = self._open(text, photo_set)
                if method is None:
                    rows += [] if failure is None else [_error(photo_set, text, "", failure)]
                else:
                    ready.append(method)
            failed: set[str] = set()
            for index, photo in enumerate(photo_set.photos):
                found += self._photo(photo_set, index, photo, [m for m in ready if m.name not in failed])
                failed = {r["method"] for r in found if "error" in r}
            rows += found
            self.log(f"{photo_set.name}: {len(photo_set.files)} photos, {time.monotonic() - start:.0f} s")
        return rows

    def lacks(self, row: Row) -> bool:
        """Whether a measure is wanted that wasn't when the row was made."""
        return self.lpips is not None and "lpips" not in row and not row.get("plain")

    def _open(self, text: str, photo_set: PhotoSet) -> tuple[Method | None, str | None]:
        key = (text, photo_set.expert)
        try:
            if key not in self.opened:
                self.opened[key] = open_method(text, photo_set, self.ours)
            return self.opened[key], None
        except NotApplicable:
            return None, None
        except UniresError as error:
            self.log(f"{photo_set.name}, {text}: {error}")
            return None, str(error)

    def _photo(self, photo_set: PhotoSet, index: int, photo: str, methods: Sequence[Method]) -> list[Row]:
        case: Case | None = None
        rows = []
        for method in methods:
            row: Row = {
                "set": photo_set.name, "definition": photo_set.definition, "photo": photo, "method": method.name,
                "version": method.version,
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
                continue
            except Exception as error:  # a peer may raise anything, and the run goes on
                reason = str(error).strip() or type(error).__name__
                self.log(f"{photo_set.name}, {photo}, {method.name}: {reason}")
                rows.append(_error(photo_set, method.name, method.version, reason.splitlines()[0]))
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
        return {**self.quality(out, case.gt), **_cost(answer, seconds, case.lq, peak)}

    def quality(self, out: Tensor, truth: Tensor | None) -> Row:
        """All measures of one result that is clipped and rounded already; {"plain": true} where there is no truth."""
        if truth is None:
            return {"plain": True}
        values = {"psnr": min(CAP, float(measures.psnr(out, truth))), "ssim": float(measures.ssim(out, truth))}
        multi = float(measures.ms_ssim(out, truth))
        if not math.isnan(multi):
            values["ms_ssim"] = multi
        if self.lpips is not None:
            values["lpips"] = float(self.lpips(out, truth))
        return {k: round(v, 6) for k, v in values.items()}


def _cost(answer: Answer, seconds: float, lq: Tensor, peak: list[float]) -> Row:
    megapixels = lq.shape[-2] * lq.shape[-1] / 1e6
    row: Row = {"seconds": round(seconds, 4), "megapixels": round(megapixels, 6), "passes": answer.passes}
    if peak:
        row["peak_mb"] = round(peak[0], 1)
    if answer.note:
        row["note"] = answer.note
    return row


def _error(photo_set: PhotoSet, method: str, version: str, reason: str) -> Row:
    return {
        "set": photo_set.name, "definition": photo_set.definition, "photo": "", "method": method, "version": version,
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
