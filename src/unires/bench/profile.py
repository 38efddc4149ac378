"""Where the time of one `unires restore` goes, from a cold shell: fresh processes, their phases timed inside."""

from __future__ import annotations

import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unires.bench.report import Table
from unires.errors import UniresError

COLD_BAR = 4.0  # seconds for 512 x 512 on two cores
PHASES = ("start of Python", "import of torch", "other imports", "read the photo", "load the model",
          "self-test of number types", "see what is wrong", "network", "write the photo", "rest")


# what a fresh process runs: the command line itself, with a clock in the functions that it calls
PROGRAM = """
import gc, sys, time
python = time.time() - float(sys.argv[1])
begun = time.perf_counter()
gc.disable()
import torch
gc.enable()
torch_seconds = time.perf_counter() - begun
from unires.bench import profile
spent = profile.clock(python, torch_seconds)
from unires.doors.cli import main
status = main(sys.argv[2:])
profile.tell(spent, float(sys.argv[1]))
sys.exit(status)
"""


def clock(python: float, torch: float) -> dict[str, float]:
    """In the fresh process: imports what a restore needs and puts a clock into it. Returns where the phases' seconds
    will be. python, torch: seconds until Python ran, and that importing torch took."""
    spent: dict[str, float] = {"start of Python": python, "import of torch": torch}
    begun = time.perf_counter()
    files = importlib.import_module("unires.photo.files")
    restorer = importlib.import_module("unires.restore.restorer")
    number_type = importlib.import_module("unires.denoise.number_type")
    spent["other imports"] = time.perf_counter() - begun

    def timed(place: Any, name: str, phase: str, inner: str = "") -> None:
        """Replace a function by itself with its time taken, less that of the phase inside it."""
        plain: Callable[..., Any] = getattr(place, name)

        def run(*args: Any, **options: Any) -> Any:
            start, nested = time.perf_counter(), spent.get(inner, 0.0)
            result = plain(*args, **options)
            seconds = time.perf_counter() - start - (spent.get(inner, 0.0) - nested)
            spent[phase] = spent.get(phase, 0.0) + seconds
            return result

        setattr(place, name, run)

    timed(files, "read_photo", "read the photo")
    timed(files, "write_photo", "write the photo")
    timed(number_type, "choose", "self-test of number types")
    timed(restorer, "load_denoiser", "load the model", "self-test of number types")
    timed(restorer.Router, "read", "see what is wrong")
    timed(restorer.Sampling, "__call__", "network")
    return spent


def tell(spent: dict[str, float], started: float) -> None:
    """Print the phases as JSON, on a line of its own."""
    print(json.dumps(spent | {"total": time.time() - started}))


def measure(model: str | None, device: str, rounds: int = 5) -> dict[str, float]:
    """Median seconds of each phase, of the total (`total`), and of the plain command line without a clock inside
    (`plain`). Raises UniresError if a restore fails."""
    import numpy as np
    from PIL import Image

    with tempfile.TemporaryDirectory(prefix="unires-") as folder:
        photo, out = Path(folder) / "photo.png", Path(folder) / "out.png"
        ramp = np.linspace(0, 255, 512)[:, None, None] * np.ones((1, 512, 3))
        noise = np.random.default_rng(0).normal(0, 20, (512, 512, 3))
        Image.fromarray((ramp + noise).clip(0, 255).astype(np.uint8)).save(photo)
        runs, plain = [], []
        for _ in range(rounds):
            words = ["restore", str(photo), "-o", str(out), "--overwrite", "--device", device]
            words += ["--model", model] if model else []
            runs.append(json.loads(_fresh(["-c", PROGRAM, repr(time.time()), *words]).splitlines()[-1]))
            start = time.perf_counter()
            _fresh(["-m", "unires", *words])
            plain.append(time.perf_counter() - start)
    spent = {p: statistics.median(r.get(p, 0.0) for r in runs) for p in (*PHASES[:-1], "total")}
    spent["rest"] = max(0.0, spent["total"] - sum(spent[p] for p in PHASES[:-1]))
    return spent | {"plain": statistics.median(plain)}


def _fresh(words: list[str]) -> str:
    source = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": path})
    if done.returncode:
        raise UniresError(f"A restore failed: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")
    return done.stdout


def table(spent: dict[str, float], facts: dict[str, str]) -> Table:
    """Phases, their shares, the total and the bar."""
    out = Table("One `unires restore` of 512 x 512 from a cold shell", ["phase", "s", "share", "bar", "met"])
    for phase in PHASES:
        out.rows.append([phase, f"{spent[phase]:.2f}", f"{spent[phase] / spent['total']:.0%}", "", ""])
    out.rows.append(["total, with the clock inside", f"{spent['total']:.2f}", "100%", "", ""])
    met = "yes" if spent["plain"] <= COLD_BAR else "NO"
    out.rows.append(["total, as a user runs it", f"{spent['plain']:.2f}", "", f"{COLD_BAR:g}", met])
    out.notes.append("; ".join(f"{k} {v}" for k, v in facts.items()))
    out.notes.append("Medians of fresh processes in turn; the files are in the system's cache.")
    return out
