"""`unires add-expert NAME --data FOLDER`: one expert more for a model, trained on a degradation of one's own."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

HELP = """\
Trains one expert more for a model, in minutes; the others stay as they are, bit for bit. Of a compact model it has its
own modulation of every block and, with --surface, filters of its own where photos come in and go out; of a latent one
its own embedding and, with --rank, low-rank adapters (LoRA). A whole network can be an expert, too.

  unires add-expert scanner --data pairs -o mine         pairs: 1_lq.png and 1_gt.png, 2_lq.png and 2_gt.png, ...
  unires add-expert haze --data photos --degradation "haze" -o mine
                                                         clean photos, degraded on the fly
  unires add-expert crisp --data photos --lpips lpips_squeeze.safetensors -o mine
                                                         what `unires restore --fidelity 0` turns to
  unires add-expert faces --network mynet --task denoise -o mine
                                                         a whole network that `unires train` made, as it is
  unires restore photo.jpg --model mine --weights "haze=0.8,denoise=0.2"
"""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """The command and its options."""
    parser: argparse.ArgumentParser = commands.add_parser("add-expert", help="train one expert more", description=HELP)
    parser.set_defaults(run=run, parser=parser)
    parser.add_argument("name", metavar="NAME", help="what it is called in --weights")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", metavar="FOLDER", help="pairs NAME_lq, NAME_gt; or clean photos")
    source.add_argument("--network", metavar="FOLDER", help="a compact model that is the expert; nothing is trained")
    parser.add_argument("--task", default="blind", metavar="TASK", help="what --network is asked for (default blind)")
    parser.add_argument("--degradation", metavar="RECIPE", default="",
                        help="of clean photos, as `unires degrade --recipe` reads it")
    parser.add_argument("--lpips", metavar="FILE",
                        help="weights of LPIPS: the expert learns to make crisp what the others leave of clean photos; "
                        "called crisp, it is what --fidelity turns to")
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="the folder to write the model to")
    parser.add_argument("--minutes", type=float, default=10, metavar="N", help="how long to train (default 10)")
    parser.add_argument("--surface", action="store_true",
                        help="compact models: with an outermost level of its own, half a megabyte")
    parser.add_argument("--rank", type=int, default=0, metavar="N", help="latent models: of adapters (default: none)")
    return parser


def run(args: argparse.Namespace) -> None:
    """Train and write."""
    from unires.train.expert import ExpertTraining, add_expert, add_network

    model = None if args.model is None else Path(args.model)
    if args.network is not None:
        add_network(args.name, Path(args.network), args.task, Path(args.output), model)
        print(f"Added {args.name}: {args.task} of {args.network}.")
        return
    lpips = None if args.lpips is None else Path(args.lpips)
    task = ExpertTraining(args.name, Path(args.data), Path(args.output), model, args.degradation, args.minutes,
                          batch=4 if lpips is None else 8, rank=args.rank, surface=args.surface, device=args.device,
                          lpips=lpips)  # fmt: skip
    add_expert(task, log=lambda line: print(line, flush=True))
