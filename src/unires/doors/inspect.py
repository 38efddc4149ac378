"""`unires inspect PHOTO`: what is wrong with a photo, and how it would be restored. It prints and writes; `Restorer`
reads."""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from typing import Any

from unires.errors import OptionError, shown

HELP = """\
Says what is wrong with a photo, how badly and where, and with which weights it would be restored. Nothing is changed.

  unires inspect old.jpg
  unires inspect old.jpg --json                    for programs
  unires inspect old.jpg --map where.png --plot weights.png
  unires inspect old.jpg --save-weights w.json     then: unires restore old.jpg --weights w.json
"""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """The command and its options."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "inspect", help="say what is wrong with a photo", description=HELP
    )
    parser.set_defaults(run=run, parser=parser)
    parser.add_argument("photo", metavar="PHOTO", help="JPEG, PNG, WebP, TIFF or AVIF")
    parser.add_argument("--json", action="store_true", help="print JSON instead of sentences")
    parser.add_argument("--map", metavar="FILE.png", help="draw where: the photo in grey, coloured by what is wrong")
    parser.add_argument("--plot", metavar="FILE.png", help="plot the weights (needs matplotlib)")
    parser.add_argument("--save-weights", metavar="FILE.json", help="keep the weights, maps included, to restore with")
    parser.add_argument("--scale", type=float, default=1, metavar="1..4", help="as it would be enlarged (default 1)")
    parser.add_argument("--overwrite", action="store_true", help="replace these files if they are there")
    return parser


def run(args: argparse.Namespace) -> None:
    """Read, print, write."""
    from unires.photo import read_photo
    from unires.photo.atomic import exists, refuse_existing, write_atomically
    from unires.restore import inspect as words
    from unires.restore.restorer import Restorer

    files = [Path(f) for f in (args.map, args.plot, args.save_weights) if f]
    for file in files:
        if not args.overwrite and exists(file):
            raise refuse_existing(file)
        if file.resolve() == Path(args.photo).resolve():
            raise OptionError(f"{shown(file)} is the photo itself, and originals are never written over.")
    photo = read_photo(args.photo)
    pixels = photo.visible()
    reading = Restorer.from_pretrained(args.model, args.device).read(pixels, args.scale)

    def write(file: str, content: bytes) -> None:
        write_atomically(Path(file), lambda out: out.write(content), overwrite=args.overwrite)

    if args.map:
        from PIL import Image

        memory = io.BytesIO()
        Image.fromarray(words.draw_map(reading, photo.pixels)).save(memory, "PNG")
        write(args.map, memory.getvalue())
    if args.plot:
        write(args.plot, words.plot_weights(reading))
    if args.save_weights:
        write(args.save_weights, reading.weights.as_json().encode())
    if args.json:
        print(json.dumps(words.as_dict(reading)))
    else:
        print("\n".join(words.describe(reading)))
