"""`unires convert`, `unires train-latent` and `unires ceiling`: models in an autoencoder's space."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from unires.doors.together import leave
from unires.errors import shown

CONVERT_HELP = """\
Makes a restorer, yet to be trained, of a text-to-image model of the Stable Diffusion class.

  unires convert stable-diffusion-2-1 latent         a folder as diffusers saves it
  unires convert OWNER/NAME latent                   a model of the Hugging Face hub
  unires train-latent configs/paper.toml             trains it
  unires restore photo.jpg --model runs/paper        and restores with it, as with any other model
"""
TRAIN_HELP = """\
Trains a latent model, on any number of devices; a run that was stopped goes on where it was.

  unires train-latent configs/paper.toml
  accelerate launch --num_processes 8 -m unires train-latent configs/paper.toml
  accelerate launch --num_processes 8 -m unires train-latent configs/paper.toml --set shard=true
"""
CEILING_HELP = """\
Says what a latent model's autoencoder alone leaves of a clean photo, encoded and decoded: the ceiling of fidelity for
whatever is restored with it. `unires restore --detail` puts a share of the loss back.
"""


def add_parsers(commands: Any) -> None:
    """Define them among the command line's subcommands."""
    convert = commands.add_parser("convert", help="make a restorer of a text-to-image model", description=CONVERT_HELP)
    convert.set_defaults(run=run_convert, parser=convert)
    convert.add_argument("base", metavar="BASE", help="a folder in diffusers' format, or OWNER/NAME on the hub")
    convert.add_argument("out", metavar="OUT", help="the folder to write")

    train = commands.add_parser("train-latent", help="train a latent model", description=TRAIN_HELP)
    train.set_defaults(run=run_train, parser=train)
    train.add_argument("config", metavar="CONFIG", help="a TOML file; configs/paper.toml is the paper's recipe")
    train.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes",
                       help="change an option of the configuration, e.g. --set at_once=4 (may be repeated)")

    ceiling = commands.add_parser("ceiling", help="measure a latent model's autoencoder", description=CEILING_HELP)
    ceiling.set_defaults(run=run_ceiling, parser=ceiling)
    ceiling.add_argument("photos", metavar="PHOTO", nargs="+", help="clean photos")
    ceiling.add_argument("--model", metavar="FOLDER", required=True, help="the model's folder")
    ceiling.add_argument("--device", default="auto", metavar="auto|cpu|cuda|mps", help="where to compute")


def run_convert(args: argparse.Namespace) -> None:
    from unires.denoise.convert import convert

    net = convert(args.base, Path(args.out))
    million = sum(p.numel() for p in net.unet.parameters()) / 1e6
    print(f"Converted {args.base} to {args.out}: {million:.1f} M parameters, {net.config.prediction} prediction.")


def run_train(args: argparse.Namespace) -> None:
    from unires.train.latent import LatentTrainer, LatentTraining

    config = LatentTraining.read(Path(args.config), args.changes)
    LatentTrainer(config, log=lambda line: print(line, flush=True)).run()
    leave()


def run_ceiling(args: argparse.Namespace) -> None:
    from unires.photo import read_photo
    from unires.restore.restorer import Restorer

    restorer = Restorer.from_pretrained(args.model, args.device)
    found = []
    for path in args.photos:
        found.append(restorer.ceiling(read_photo(path).visible()))
        print(f"{shown(path)}: {found[-1]:.2f} dB", flush=True)
    print(f"mean of {len(found)}: {sum(found) / len(found):.2f} dB")
