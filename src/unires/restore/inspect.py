"""What a router has read of a photo, in words, as JSON, as a map and as a plot of the weights."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch.nn.functional as F

from unires.compose.grid import ENLARGED
from unires.compose.router import SURE, Reading
from unires.degrade.isolated import strength_of
from unires.errors import UniresError

WORDS: dict[str, tuple[str, Callable[[float], str]]] = {
    "super-resolution": ("too few pixels", lambda v: f"as if reduced {v:.1f} times"),
    "motion-deblur": ("motion blur", lambda v: f"about {v:.0f} pixels long"),
    "defocus-deblur": ("defocus blur", lambda v: f"radius about {v:.1f} pixels"),
    "denoise": ("noise", lambda v: f"sigma about {v:.0f} of 255"),
    "dejpeg": ("JPEG compression", lambda v: f"quality about {min(95, max(1, 101 - v)):.0f}"),
}
COLOURS = {  # of the map, sRGB
    "super-resolution": (86, 180, 233), "motion-deblur": (213, 94, 0), "defocus-deblur": (230, 159, 0),
    "denoise": (204, 121, 167), "dejpeg": (0, 158, 115),
}  # fmt: skip


def describe(reading: Reading) -> list[str]:
    """A sentence for each degradation, the most harmful first; then one for what would be done about it."""
    lines = []
    for task in reading.found:
        k = reading.tasks.index(task)
        name, strength = WORDS[task]
        said = strength(strength_of(task, float(reading.severity[k])))
        if task == ENLARGED and reading.grid is not None:
            said = f"enlarged from {reading.grid.columns.small} x {reading.grid.rows.small}"
        told = reading.told.get(task)
        if told is not None and told.angle is not None:
            said += f" at {math.degrees(told.angle):.0f} degrees"
        share = float((reading.where[k] >= SURE).float().mean())
        place = "everywhere" if share > 0.9 else f"in {share:.0%} of the photo"
        sure = float(reading.present[k])
        lines.append(f"{name[:1].upper()}{name[1:]}, {said}, {place} ({sure:.0%} sure).")
    return [*(lines or ["Nothing wrong was found."]), f"Weights: {reading.weights}."]


def as_dict(reading: Reading) -> dict[str, Any]:
    """For programs: `degradations` (the most harmful first, then those that are not there), `enlarged_from` (width and
    height, where known), `weights`, `experts` and `values` (step x expert, x h x w for maps)."""
    order = [*reading.found, *(t for t in reading.tasks if t not in reading.found)]
    rows = []
    for task in order:
        k = reading.tasks.index(task)
        severity, told = float(reading.severity[k]), reading.told.get(task)
        rows.append({
            "task": task, "there": task in reading.found, "probability": round(float(reading.present[k]), 4),
            "severity": round(severity, 4), "strength": round(strength_of(task, severity), 3),
            "harm_db": round(float(reading.harm[k]), 2),
            "angle": None if told is None or told.angle is None else round(math.degrees(told.angle), 1),
        })  # fmt: skip
    w, grid = reading.weights, reading.grid
    return {
        "degradations": rows, "enlarged_from": grid and [grid.columns.small, grid.rows.small], "weights": str(w),
        "experts": [str(e) for e in w.experts], "values": w.values.double().round(decimals=4).tolist(),
    }  # fmt: skip


def draw_map(reading: Reading, pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Where: the photo (H x W x 3, floats from 0 to 1) in grey, coloured by what is most surely wrong at each place."""
    height, width = pixels.shape[:2]
    where = F.interpolate(reading.where[None].cpu(), size=(height, width), mode="bilinear", align_corners=False)[0]
    there = np.array([t in reading.found for t in reading.tasks])
    sure = where.numpy() * there[:, None, None]
    best, colours = sure.argmax(axis=0), np.array([COLOURS[t] for t in reading.tasks], np.float32)
    strength = 0.6 * sure.max(axis=0)[..., None]
    grey = 255 * pixels.mean(axis=2, keepdims=True)
    mixed: np.ndarray[Any, Any] = np.rint(grey * (1 - strength) + colours[best] * strength)
    return mixed.astype(np.uint8)


def plot_weights(reading: Reading) -> bytes:
    """W as bars, a PNG: the mean over the photo, and from least to most, for each step. Raises UniresError without
    matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UniresError("Plots need matplotlib: pip install unires[bench].") from error
    w = reading.weights
    used = [i for i in range(len(w.experts)) if any(i in w.active(s) for s in range(w.steps))]
    figure = Figure(figsize=(1.2 + 1.1 * len(used), 3.2), layout="constrained")
    axes = figure.subplots()
    for step in range(w.steps):
        values = w.values[step, used].reshape(len(used), -1)
        mean = values.mean(dim=1)
        spread = (mean - values.amin(dim=1)).clamp(min=0), (values.amax(dim=1) - mean).clamp(min=0)
        places = np.arange(len(used)) + (step - (w.steps - 1) / 2) * 0.8 / w.steps
        axes.bar(places, mean.numpy(), 0.75 / w.steps, yerr=[s.numpy() for s in spread], capsize=3,
                 label=f"step {step + 1}")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(used)), [str(w.experts[i]) for i in used], rotation=30, ha="right")
    axes.set_ylabel("weight")
    axes.legend(frameon=False)
    memory = io.BytesIO()
    figure.savefig(memory, dpi=120, format="png")
    return memory.getvalue()
