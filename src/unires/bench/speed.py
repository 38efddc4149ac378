"""What a pass costs, as ratios measured in one run: medians of rounds in which everything takes its turn.

The reference is a plain 3x3 convolution, 64 channels on 256 x 256, channels-last: 2.4 G multiply-adds, in the number
type that the network computes in: bf16 wherever that is fast, else float32. A pass is quoted as a multiple of its time,
and as the share of its rate (multiply-adds a second) that the pass reaches."""

from __future__ import annotations

import datetime
import functools
import json
import math
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from unires.bench.report import Table
from unires.denoise.interface import Hint
from unires.errors import UniresError

PASS_BAR = 14.0  # times the reference, for one pass on 512 x 512
MIX = ("denoise", "dejpeg", "defocus-deblur", "motion-deblur", "super-resolution", "blind", "denoise@down2",
       "super-resolution@down2")


@dataclass(frozen=True)
class Figure:
    """One row: seconds (median), as a multiple of the reference, multiply-adds (NaN: not counted)."""

    name: str
    seconds: float
    ratio: float
    multiply_adds: float = math.nan
    rate_share: float = math.nan


def reference(device: str, kind: torch.dtype = torch.bfloat16) -> tuple[Callable[[], object], float]:
    """(one run of the reference convolution, its multiply-adds)."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 64, 256, 256, generator=generator).to(device, kind, memory_format=torch.channels_last)
    w = torch.randn(64, 64, 3, 3, generator=generator).to(device, kind, memory_format=torch.channels_last)

    def run() -> Tensor:
        with torch.inference_mode():
            return torch.nn.functional.conv2d(x, w, padding=1)

    return run, 64 * 64 * 9 * 256 * 256.0


def interleaved(jobs: Sequence[Callable[[], object]], device: str, seconds: float = 20, least: int = 5) -> list[float]:
    """Median seconds of each job. They take turns, so that whatever else the machine does meets all of them alike;
    rounds go on for `seconds`, and there are at least `least`. The first round is not counted."""
    def once(job: Callable[[], object]) -> float:
        start = time.perf_counter()
        job()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    times: list[list[float]] = [[] for _ in jobs]
    for job in jobs:
        once(job)
    end = time.perf_counter() + seconds
    while len(times[0]) < least or time.perf_counter() < end:
        for job, found in zip(jobs, times, strict=True):
            found.append(once(job))
    return [statistics.median(t) for t in times]


def multiply_adds(job: Callable[[], object]) -> float:
    """Those of all convolutions and matrix products that `job` runs."""
    with FlopCounterMode(display=False) as counter:
        job()
    return float(counter.get_total_flops()) / 2


def measure(restorer: Any, *, seconds: float = 20.0, least: int = 5, large: bool = True) -> list[Figure]:
    """All figures of a Restorer: the reference, a pass, composed steps; `large`: a megapixel and twelve as well. See
    `interleaved` for `seconds` and `least`."""
    denoiser, device = restorer.denoiser, restorer.device
    conv, conv_adds = reference(device, getattr(torch, denoiser.facts.number_type))
    picture = torch.rand(1, 3, 512, 512, generator=torch.Generator().manual_seed(0))
    z = torch.zeros(1, 3, 512, 512, device=device)
    condition = denoiser.encode(picture)

    def one_pass(hint: Hint | None = None) -> object:
        return denoiser.predict(z, 1.0, condition, ["denoise"], [hint])

    def composed(count: int) -> Callable[[], object]:
        text = ",".join(f"{name}={1 / count:.6f}" for name in MIX[:count])
        return lambda: restorer.pixels(picture, weights=text)

    adds = multiply_adds(one_pass)
    told = functools.partial(one_pass, Hint(0.7))  # sees what shrinkage makes of the photo, too
    first = interleaved([conv, one_pass, told], device, seconds, least)
    out = [Figure("reference convolution", first[0], 1.0, conv_adds, 1.0)]

    def figure(name: str, time_one: float, base: float, count: float = math.nan) -> Figure:
        share = count / time_one / (conv_adds / base)
        return Figure(name, time_one, time_one / base, count, share)

    out.append(figure("one pass, 512 x 512", first[1], first[0], adds))
    out.append(figure("one pass that is told the noise, 512 x 512", first[2], first[0], multiply_adds(told)))
    counts = (1, 2, 3, 4, 6, 8)
    base, *times = interleaved([conv, *map(composed, counts)], device, seconds, least)
    out += [
        figure(f"composed step of {n} expert{'s' * (n > 1)}, 512 x 512", t, base, n * adds)
        for n, t in zip(counts, times, strict=True)
    ]
    return out + (_large(restorer, conv) if large else [])


def _large(restorer: Any, conv: Callable[[], object]) -> list[Figure]:
    """Whole photos: a megapixel in one piece and in the usual tiles, and twelve."""
    def restore(height: int, width: int, **options: int) -> Callable[[], object]:
        photo = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
        return lambda: restorer.pixels(photo, weights="blind", **options)

    jobs = {
        "restore of a megapixel, in one piece": restore(1000, 1000, tile=1024),
        "restore of a megapixel, in tiles": restore(1000, 1000),
        "restore of twelve megapixels, in tiles": restore(3000, 4000),
    }
    out = []
    for name, job in jobs.items():
        base, t = interleaved([conv, job], restorer.device, 0, 1 if "twelve" in name else 3)
        out.append(Figure(name, t, t / base))
    return out


def table(figures: Sequence[Figure], facts: dict[str, str]) -> Table:
    """As a table, the bar beside the pass."""
    out = Table("Speed", ["what", "ms", "times the reference", "G multiply-adds", "share of its rate", "bar", "met"])
    for f in figures:
        bar = f.name.startswith("one pass")
        out.rows.append([
            f.name, f"{f.seconds * 1000:.1f}", f"{f.ratio:.2f}",
            "-" if math.isnan(f.multiply_adds) else f"{f.multiply_adds / 1e9:.1f}",
            "-" if math.isnan(f.rate_share) else f"{f.rate_share:.0%}",
            f"{PASS_BAR:g}" if bar else "", ("yes" if f.ratio <= PASS_BAR else "NO") if bar else "",
        ])
    out.notes.append("; ".join(f"{k} {v}" for k, v in facts.items()))
    out.notes.append("Medians; what a row is compared with was timed in the same rounds, in turn.")
    return out


def machine(restorer: Any, version: str) -> dict[str, str]:
    """What the figures depend on."""
    return {
        "commit": commit(), "device": processor(restorer.device), "threads": str(torch.get_num_threads()),
        "number type": restorer.denoiser.facts.number_type, "torch": torch.__version__, "model": version,
        "date": datetime.date.today().isoformat(),
    }


def processor(device: str) -> str:
    """Its name, or the graphics card's."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str:
    """The commit of the code that runs, with + for changes since; "-" outside of a repository."""
    where = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(where), *words], capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", str(where.parent))
        return git("rev-parse", "--short=10", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return "-"


def remember(path: Path, figures: Sequence[Figure], facts: dict[str, str]) -> None:
    """Append to the history: one JSON line a run. Raises UniresError where that fails."""
    row = facts | {"figures": [{k: v for k, v in asdict(f).items() if v == v} for f in figures]}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
    except OSError as error:
        raise UniresError(f"The history {path} can't be written: {error.strerror}.") from error


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
