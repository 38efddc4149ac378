"""docs/benchmarks.md, written by a command from the reports that the runs left: each table beside its command, with the
commit, machine and package versions of its run."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from unires.bench.report import Table
from unires.bench.speed import commit, processor
from unires.errors import UniresError

PACKAGES = ("torch", "numpy", "pillow", "scikit-image", "scipy", "PyWavelets", "opencv-python-headless", "bm3d",
            "spandrel", "onnxruntime", "pyiqa")
ORDER = ("main", "experts", "mixtures", "composition", "search", "ablations", "dial", "precision", "new-experts",
         "report", "compare", "speed", "profile")
INTRO = """\
# Benchmarks

Written by `{command}`; the figures are from the runs named below each heading, losses and wins alike. How to read them:

- PSNR and SSIM on sRGB values of results rounded to 8 bits, whole pictures, no border cut. SSIM has the Gaussian window
  of Wang et al. 2004 (11 x 11, sigma 1.5) and is the mean of the channels.
- Means over photos with 95 % confidence intervals (Student's t). Differences are paired, photo by photo.
- A peer that has a strength gets the one that is best on that very photo, and the true noise level or kernel: more than
  any user could know.
- No photo of these was trained on, and choices were made on other figures. Three were settled by some of these, and
  are told where they were made (`docs/training.md`, `docs/method.md`): the camera noise trained on, after the real
  noise pairs; how the router takes what is soft in camera files, after these too and once after the table of mixtures;
  and by which kernels a photo may have been reduced, after the real zoom pairs. Their tables are no test of these.
- Where weights were chosen with the truth at hand ("best a recipe", "a photo"), the table says so: those are ceilings,
  not results.
"""


def facts(words: Sequence[str], device: str) -> dict[str, Any]:
    """What the figures of a run depend on: the command, commit, machine, threads, versions, date."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "command": shlex.join(words), "commit": commit(), "machine": processor(device), "cores": os.cpu_count(),
        "threads": torch.get_num_threads(), "python": platform.python_version(), "packages": versions,
        "date": datetime.date.today().isoformat(),
    }


def write(folder: Path, target: Path, command: str) -> list[str]:
    """Write `target` from the reports (NAME.json) in `folder`, their pictures beside it; what `target` says of runs
    without a report stays. Returns the names of the runs with one. Raises UniresError if there is none, or where it
    can't be written."""
    reports = {}
    for name in ORDER:
        path = folder / f"{name}.json"
        try:
            if path.is_file():
                reports[name] = json.loads(path.read_text())
        except ValueError as error:
            raise UniresError(f"The report {path} can't be read: {error}.") from error
    if not reports:
        raise UniresError(f"There is no report in {folder}; run `unires bench main` and `unires bench speed` first.")
    before = _sections(target)
    parts = [INTRO.format(command=command)]
    for name in ORDER:
        if name not in reports:
            parts += [before[name]] if name in before else []
            continue
        report = reports[name]
        parts += [f"## {name.capitalize()}\n", _source(report["facts"])]
        parts += [Table(t["title"], t["head"], t["rows"], t["notes"]).markdown() for t in report["tables"]]
        parts += [f"![{name}]({target.stem}-{picture})\n" for picture in report["pictures"]]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for report in reports.values():
            for picture in report["pictures"]:
                shutil.copyfile(folder / picture, target.parent / f"{target.stem}-{picture}")
        target.write_text("\n".join(parts))
    except OSError as error:
        raise UniresError(f"{target} can't be written: {error.strerror}.") from error
    return list(reports)


def _sections(target: Path) -> dict[str, str]:
    """What an earlier document says, run by run."""
    if not target.is_file():
        return {}
    found = (part.rstrip() + "\n" for part in f"\n{target.read_text()}".split("\n## ")[1:])
    return {part.partition("\n")[0].lower(): f"## {part}" for part in found}


def _source(facts: dict[str, Any]) -> str:
    versions = ", ".join(f"{k} {v}" for k, v in facts["packages"].items())
    return (
        f"    {facts['command']}\n\n"
        f"Commit {facts['commit']}, {facts['date']}, {facts['machine']} ({facts['cores']} cores, {facts['threads']} "
        f"threads used), Python {facts['python']}; {versions}.\n"
    )
