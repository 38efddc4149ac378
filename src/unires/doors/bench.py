"""`unires bench`: measures our methods and other people's, and prints tables."""

from __future__ import annotations

import argparse
from typing import Any

BENCH_HELP = """\
Measures restorers on photos whose truth is known, and prints tables.

  unires bench experts             each expert on its own degradation, beside the bars it has to reach
  unires bench mixtures            several degradations at once: best weights, blind, default
  unires bench main                both, real photos, and other people's restorers
  unires bench speed               what a pass costs, as multiples of a reference convolution
"""


def add_parser(commands: Any) -> None:
    """Define `unires bench` among the command line's subcommands."""
    bench = commands.add_parser("bench", help="measure quality and speed", description=BENCH_HELP)
    bench.set_defaults(run=run_bench, parser=bench)
    bench.add_argument("what", nargs="?", metavar="RUN", help="experts, mixtures, main, speed, or sets (lists them)")
    bench.add_argument("--speed", action="store_true", help="the same as `unires bench speed`")
    bench.add_argument("--data", default="../shared/data", metavar="FOLDER", help="root of the photos (%(default)s)")
    bench.add_argument("--out", default="runs/bench", metavar="FOLDER", help="results and reports (%(default)s)")
    bench.add_argument("--photos", type=int, default=0, metavar="N", help="at most N photos a set (default: all)")
    bench.add_argument("--crop", type=int, default=0, metavar="S", help="centre crops of S pixels (default: whole)")
    bench.add_argument("--peers", action="store_true", help="experts: also run what the bars compare with")
    bench.add_argument("--lpips", metavar="FILE", help="LPIPS weights (safetensors; or variable UNIRES_LPIPS)")
    bench.add_argument("--device", default="auto", metavar="auto|cpu|cuda|mps", help="where to compute")
    bench.add_argument("--model", metavar="FOLDER", help="another model's folder (default: the one that is shipped)")


def run_bench(args: argparse.Namespace) -> None:
    from unires.bench import command

    print(command.run(command.Wanted(
        what="speed" if args.speed else args.what or "", data=args.data, out=args.out, photos=args.photos,
        crop=args.crop, peers=args.peers, lpips=args.lpips, device=args.device, model=args.model,
    )))
