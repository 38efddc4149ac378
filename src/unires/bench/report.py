"""Tables: from result rows to a terminal, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unires.bench.measures import Mean, mean_interval, paired_difference
from unires.bench.run import Row
from unires.errors import UniresError

MEASURES = {"psnr": "PSNR", "ssim": "SSIM", "ms_ssim": "MS-SSIM", "lpips": "LPIPS"}


@dataclass
class Table:
    """A title, a head, rows of cells (text; numbers are formatted already), and notes below it. The last cell of a row
    that is shorter than the head may be longer than its column: that is how failures are told."""

    title: str
    head: list[str]
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """For a terminal: columns aligned, numbers to the right."""
        whole = [r for r in self.rows if len(r) == len(self.head)]
        widths = [max(len(r[i]) for r in [self.head, *whole]) for i in range(len(self.head))]
        widths[0] = max([widths[0], *(len(r[0]) for r in self.rows if len(r) > 1)])
        right = self._right()

        def line(cells: Sequence[str]) -> str:
            padded = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=False))
            return "  ".join(padded).rstrip()

        rule = "  ".join("-" * w for w in widths)
        return "\n".join([self.title, "", line(self.head), rule, *map(line, self.rows), *([""] if self.notes else []),
                          *self.notes])

    def markdown(self) -> str:
        """As a Markdown section of the third level."""
        rule = ["---:" if r else "---" for r in self._right()]
        full = [[*r, *[""] * (len(self.head) - len(r))] for r in self.rows]
        lines = ["| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in [self.head, rule, *full]]
        return "\n".join([f"### {self.title}", "", *lines, "", *(f"{n}\n" for n in self.notes)])

    def _right(self) -> list[bool]:
        """Which columns hold numbers."""
        whole = [r for r in self.rows if len(r) == len(self.head)]
        return [all(_number(r[i]) for r in whole) for i in range(len(self.head))]

    def csv(self) -> str:
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows([self.head, *self.rows])
        return out.getvalue()

    def data(self) -> dict[str, Any]:
        return {"title": self.title, "head": self.head, "rows": self.rows, "notes": self.notes}


def _number(cell: str) -> bool:
    return not cell or cell.lstrip("+-")[:1].isdigit() or cell in ("-", "yes", "NO")


def signed(mean: Mean, digits: int = 2) -> str:
    """A difference with its sign and interval."""
    if math.isnan(mean.value):
        return "-"
    value = f"{mean.value:+.{digits}f}"
    return value if math.isnan(mean.half) else f"{value} ± {mean.half:.{digits}f}"


def plain(mean: Mean, digits: int = 2) -> str:
    """A mean with its interval."""
    return signed(mean, digits).removeprefix("+")


@dataclass
class Results:
    """Rows of results, by set and method."""

    rows: Sequence[Row]

    @property
    def sets(self) -> list[str]:
        return list(dict.fromkeys(r["set"] for r in self.rows))

    def methods(self, photo_set: str) -> list[str]:
        return list(dict.fromkeys(r["method"] for r in self.rows if r["set"] == photo_set and r["method"]))

    def errors(self, photo_set: str, method: str = "") -> list[str]:
        found = (r for r in self.rows if r["set"] == photo_set and r["method"] == method)
        return [r["error"] for r in found if "error" in r]

    def values(self, photo_set: str, method: str, measure: str = "psnr") -> dict[str, float]:
        """A measure by photo."""
        found = (r for r in self.rows if r["set"] == photo_set and r["method"] == method)
        return {r["photo"]: float(r[measure]) for r in found if r.get(measure) is not None}

    def mean(self, photo_set: str, method: str, measure: str = "psnr") -> Mean:
        return mean_interval(list(self.values(photo_set, method, measure).values()))

    def gain(self, photo_set: str, method: str, against: str, measure: str = "psnr") -> Mean:
        """Paired difference over the photos that both have."""
        ours, theirs = self.values(photo_set, method, measure), self.values(photo_set, against, measure)
        both = [p for p in ours if p in theirs]
        return paired_difference([ours[p] for p in both], [theirs[p] for p in both])

    def cost(self, photo_set: str, method: str) -> tuple[str, str, str]:
        """Medians as text: network passes a photo, seconds a megapixel, peak memory in MB; "-" where unknown."""
        own = [r for r in self.rows if r["set"] == photo_set and r["method"] == method]

        def middle(values: list[float], form: str) -> str:
            return format(statistics.median(values), form) if values else "-"

        passes = middle([r["passes"] for r in own if r.get("passes")], "g")
        seconds = middle([r["seconds"] / r["megapixels"] for r in own if r.get("seconds")], ".2f")
        return passes, seconds, middle([r["peak_mb"] for r in own if r.get("peak_mb")], ".0f")


def overview(results: Results, title: str, against: str = "input") -> Table:
    """Every set and method: all measures, paired difference to `against`, speed. Failures have a row of their own."""
    shown = [m for m in MEASURES if any(m in r for r in results.rows)]
    head = ["set", "method", "photos", *(MEASURES[m] for m in shown), f"PSNR against {against}", "passes", "s/MP", "MB"]
    table = Table(title, head)
    for name in results.sets:
        for reason in results.errors(name):
            table.rows.append([name, reason])
        for method in results.methods(name):
            means = [results.mean(name, method, m) for m in shown]
            counts = [m.count for m in means]
            photos = len({r["photo"] for r in results.rows
                          if r["set"] == name and r["method"] == method and "error" not in r})
            if photos:
                cells = [plain(m, 2 if k == "psnr" else 4) for k, m in zip(shown, means, strict=True)]
                gain = "-" if method == against or not any(counts) else signed(results.gain(name, method, against))
                table.rows.append([name, method, str(photos), *cells, gain, *results.cost(name, method)])
            for reason in results.errors(name, method):
                table.rows.append([name, f"{method}: {reason}"])
    table.notes.append(
        "Means over photos with 95 % confidence intervals (Student's t); differences are paired, photo by photo. "
        "Passes, seconds a megapixel and peak memory are medians; a peer's search for its best strength is in them."
    )
    return table


def write(tables: Iterable[Table], folder: Path, name: str, facts: dict[str, Any], pictures: Sequence[str] = ()
          ) -> list[Path]:
    """NAME.md, NAME.csv (all tables, an empty line between) and NAME.json, which holds `facts` and the names of
    `pictures` in the folder as well. Raises UniresError where that fails."""
    tables = list(tables)
    whole = {"facts": facts, "tables": [t.data() for t in tables], "pictures": list(pictures)}
    contents = {
        "md": "\n".join(t.markdown() for t in tables),
        "csv": "\n".join(t.csv() for t in tables),
        "json": json.dumps(whole, indent=1, ensure_ascii=False) + "\n",
    }
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for ending, text in contents.items():
            path = folder / f"{name}.{ending}"
            path.write_text(text)
            paths.append(path)
    except OSError as error:
        raise UniresError(f"The report can't be written to {folder}: {error.strerror}.") from error
    return paths
