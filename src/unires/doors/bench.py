"""`unires bench`: measures our methods and other people's, and prints tables."""

from __future__ import annotations

import argparse
import sys
from typing import Any

BENCH_HELP = """\
Measures restorers on photos whose truth is known, and prints tables.

  unires bench experts             each expert on its own degradation, beside the bars it has to reach
  unires bench mixtures            several degradations at once: best weights, blind, default
  unires bench composition         what the router reaches there: beside one expert, blind, chains, and the truth's best
                                   (--method search:grid, search:frequent, search:climb: and searches)
  unires bench ablations           what each expert is worth in a mixture
  unires bench report              how often the strongest degradation is named, and clean photos found clean
  unires bench search              the paper's grid of weights: which sets win most often, and what a search costs
  unires bench main                experts, mixtures, real photos, and other people's restorers
  unires bench dial                more steps and less fidelity: what they cost and buy
  unires bench precision           half against full precision
  unires bench new-experts         trains experts for haze and low light, and measures them, alone and beside old ones
  unires bench compare --set real-noise --method input --method blind --method "cmd:prog {input} {output}"
                                   any methods on any sets
  unires bench speed               what a pass costs, as multiples of a reference convolution
  unires bench profile             where the time of one restore goes
  unires bench scale               the paper's network: memory and time on paper, and measured with random weights
  unires bench sets                the sets, and which of them are there
  unires bench docs                writes docs/benchmarks.md from what the other runs left in --out

Stopped and started again, a run goes on where it was.
"""
METHODS_HELP = """\
one more method (may be repeated): input, expert, default; blind, denoise or any weights, with dials in brackets after
them, such as "expert [steps=8]" or "default [fidelity=0.3]"; peers: bm3d, nlm, wavelet, tv, richardson-lucy, wiener,
bicubic; spandrel:FILE, onnx:FILE, "cmd:PROGRAM {input} {output}\""""


def add_parser(commands: Any) -> None:
    """Define `unires bench` among the command line's subcommands."""
    bench = commands.add_parser("bench", help="measure quality and speed", description=BENCH_HELP)
    bench.set_defaults(run=run_bench, parser=bench)
    add = bench.add_argument
    add("what", nargs="?", metavar="RUN", help="one of the words above")
    add("--speed", action="store_true", help="the same as `unires bench speed`")
    add("--data", default="../shared/data", metavar="FOLDER", help="root of the photos (%(default)s)")
    add("--out", default="runs/bench", metavar="FOLDER", help="results and reports (%(default)s)")
    add("--photos", type=int, default=0, metavar="N", help="at most N photos a set (default: all)")
    add("--crop", type=int, default=0, metavar="S", help="centre crops of S pixels (default: whole)")
    add("--peers", action="store_true", help="experts: also run what the bars compare with (main does so always)")
    add("--method", action="append", default=[], metavar="NAME", dest="methods", help=METHODS_HELP)
    add("--set", action="append", default=[], metavar="NAME", dest="sets",
        help="compare: a set by name, or a TOML file (may be repeated)")
    add("--against", default="input", metavar="NAME", help="compare: whom differences are taken to (%(default)s)")
    add("--pages", action="store_true", help="also write a page of crops, worst cases first, and a plot")
    add("--lpips", metavar="FILE", help="LPIPS weights (safetensors; or variable UNIRES_LPIPS)")
    add("--pyiqa", action="append", default=[], metavar="MEASURE",
        help="one more measure by its name in the package pyiqa, e.g. niqe (may be repeated; non-commercial licence)")
    add("--workers", type=int, default=1, metavar="N", help="processes; with more than one, no times are taken")
    add("--minutes", type=float, default=8, metavar="N", help="new-experts: how long to train each (%(default)s)")
    add("--device", default="auto", metavar="auto|cpu|cuda|mps", help="where to compute")
    add("--model", metavar="FOLDER", help="another model's folder (default: the one that is shipped)")


def run_bench(args: argparse.Namespace) -> None:
    from unires.bench import command

    print(command.run(command.Wanted(
        what="speed" if args.speed else args.what or "", sets=tuple(args.sets), methods=tuple(args.methods),
        against=args.against, data=args.data, out=args.out, photos=args.photos, crop=args.crop, peers=args.peers,
        pages=args.pages, lpips=args.lpips, extra=tuple(args.pyiqa), device=args.device, model=args.model,
        workers=args.workers, minutes=args.minutes, words=("unires", *sys.argv[1:]),
    )))
