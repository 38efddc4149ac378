"""Named runs about our own dials: steps and fidelity against perception, and half against full precision."""

from __future__ import annotations

import math

from unires.bench.named import Scope
from unires.bench.report import Results, Table, overview, plain, signed
from unires.bench.run import Bench
from unires.bench.sets import PhotoSet

CRISPER = {"4 steps": "expert [steps=4]", "8 steps": "expert [steps=8]", "fidelity 0": "expert [fidelity=0]"}
LPIPS_BAR, PSNR_BAR = -0.20, -2.5  # of the one-step result's LPIPS, and in dB
PRECISION_BAR = 0.02  # dB
FIDELITIES = (1.0, 0.75, 0.5, 0.25, 0.0)
SHARPENED = ("motion-deblur", "defocus-deblur", "super-resolution")


def dial(bench: Bench, scope: Scope) -> list[Table]:
    """What sampling in more steps and less fidelity buy (LPIPS) and cost (PSNR), for blur and resolution. Needs LPIPS
    weights."""
    singles = [s for s in scope.open("singles") if s.expert in SHARPENED]
    fidelity = [f"default [fidelity={f:g}]" for f in FIDELITIES]
    results = Results(bench.run(singles, lambda s: ["input", "expert", *CRISPER.values(), *fidelity, *scope.methods]))
    head = ["set", "way", "PSNR", "less than one step", "LPIPS", "of one step's", "met"]
    table = Table("Crisper than one step", head)
    for s in singles:
        one = results.mean(s.name, "expert", "lpips").value
        for way, method in CRISPER.items():
            change, lpips = results.gain(s.name, method, "expert"), results.mean(s.name, method, "lpips").value
            share = lpips / one - 1
            met = "" if math.isnan(share) else "yes" if share <= LPIPS_BAR and change.value >= PSNR_BAR else "NO"
            cells = ["-", "-"] if math.isnan(share) else [f"{lpips:.4f}", f"{share:+.0%}"]
            table.rows.append([s.name, way, plain(results.mean(s.name, method)), signed(change), *cells, met])
    table.notes += [f"Bar: for one of them LPIPS {LPIPS_BAR:+.0%} or less and PSNR {PSNR_BAR:+g} dB or more.",
                    scope.note(bench, singles)]
    if bench.lpips is None:
        table.notes.append("LPIPS was not measured, as no weights were given (--lpips FILE).")
    return [table, _fidelity(results, singles), overview(results, "All measures", "expert")]


def _fidelity(results: Results, sets: list[PhotoSet]) -> Table:
    table = Table("Fidelity", ["fidelity", "PSNR", "SSIM", "LPIPS", "sets"])
    for f in FIDELITIES:
        method = f"default [fidelity={f:g}]"
        means = [[results.mean(s.name, method, m).value for m in ("psnr", "ssim", "lpips")] for s in sets]
        means = [m for m in means if not math.isnan(m[0])]
        if means:
            psnr, ssim, lpips = (math.fsum(column) / len(means) for column in zip(*means, strict=True))
            table.rows.append([f"{f:g}", f"{psnr:.2f}", f"{ssim:.4f}", "-" if lpips != lpips else f"{lpips:.4f}",
                               str(len(means))])
    table.notes.append("Means of the sets' means: blur and resolution, one degradation each.")
    return table


def precision(bench: Bench, scope: Scope) -> list[Table]:
    """What the machine's number type costs against float32."""
    sets = scope.open("singles")
    both = ("expert", "expert [exact=1]")
    results = Results(bench.run(sets, lambda s: both))
    table = Table("Number types", ["set", "PSNR", "in float32", "difference", "met"])
    for s in sets:
        gap = results.gain(s.name, *both)
        if not math.isnan(gap.value):
            met = "yes" if abs(gap.value) <= PRECISION_BAR else "NO"
            means = (f"{results.mean(s.name, m).value:.3f}" for m in both)
            table.rows.append([s.name, *means, signed(gap, 4), met])
    table.notes += [f"Bar: {PRECISION_BAR:g} dB either way.", scope.note(bench, sets)]
    return [table, overview(results, "All measures", both[1])]
