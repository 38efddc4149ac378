"""The command line: `unires restore PHOTO`. It parses, shows progress and prints; `Restorer` decides."""

from __future__ import annotations

import argparse
import atexit
import gc
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import unires
from unires.doors import bench, dial, expert, folder, inspect, latent
from unires.doors.together import leave
from unires.errors import OptionError, UniresError, nearest, shown


class Parser(argparse.ArgumentParser):
    """Refuses unknown options and commands with the nearest right one, in one sentence."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **keywords)
        self.commands: dict[str, Parser] = {}

    def error(self, message: str) -> NoReturn:
        raise OptionError(message[:1].upper() + message[1:].rstrip(".") + f" (see `{self.prog} --help`).")

    def options(self) -> list[str]:
        return [name for action in self._actions for name in action.option_strings if name.startswith("--")]

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise OptionError(nearest(str(value), map(str, action.choices), kind="command"))

    def parse_or_refuse(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse; an unknown option is answered with the nearest one that the chosen command has."""
        command = self.commands.get(words[0], self) if words else self
        for word in words:
            name = word.partition("=")[0]
            if word == "--":
                break
            # before parsing, which would rather complain of what is missing
            if name.startswith("--") and name not in command.options():
                raise OptionError(nearest(name, command.options(), kind="option"))
        values, unknown = self.parse_known_args(words)
        chosen: Parser = getattr(values, "parser", self)
        for word in unknown:
            if word.startswith("-"):
                raise OptionError(nearest(word.partition("=")[0], chosen.options(), kind="option"))
        if unknown:
            raise OptionError(f"There is one thing too many: {shown(unknown[0])} (see `{chosen.prog} --help`).")
        return values


RESTORE_HELP = """\
Restores a photo and writes the result beside it; the original is never touched.

  unires restore holiday.jpg                     writes holiday.restored.jpg
  unires restore holiday.jpg -o better.png       writes better.png
  unires restore small.jpg --scale 2             twice as wide and high; cleaned at its own size first
  unires restore dark.jpg --weights denoise      only takes out noise
  unires restore old.jpg --weights "denoise=0.6,dejpeg=0.4; motion-deblur@relay=1"
                                                 first cleans, then sharpens what was cleaned
  unires restore album -o better --recursive     a whole folder; run it again to go on where it stopped
  unires restore s3://bucket/album -o s3://bucket/better --recursive --engine ray
                                                 the same by all machines of a Ray cluster
"""
WEIGHTS_HELP = """\
how much each expert counts, adding up to 1 (a weight may be negative): super-resolution, motion-deblur,
defocus-deblur, denoise, dejpeg, blind (knows no task), keep (the photo as it is), and what `unires add-expert` added to
the model. An expert may look at a reduced photo (super-resolution@down2, @down4: invents more) or at the result of the
step before (denoise@relay). One list for each step, separated by semicolons; or a .json file of `unires inspect`.
Without it UniRes reads the photo and chooses"""


def build_parser() -> Parser:
    parser = Parser(prog="unires", description="Restores photos: noise, blur, JPEG, too few pixels, several at once.")
    parser.add_argument("--version", action="version", version=f"unires {unires.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)

    restore = commands.add_parser("restore", help="restore a photo", description=RESTORE_HELP)
    restore.set_defaults(run=run_restore, parser=restore)
    restore.add_argument("photo", metavar="PHOTO",
                         help="JPEG, PNG, WebP, TIFF, AVIF (with extras HEIC, JPEG XL, camera raw); or a folder, "
                              "or an address")
    restore.add_argument("-o", "--output", metavar="OUT", help="where to write (default: PHOTO.restored beside it)")
    restore.add_argument("--format", metavar="NAME", help="jpeg, png, webp, tiff, avif or heic (default: as it came)")
    restore.add_argument("--quality", type=whole, metavar="1..100", help="of lossy formats (default: as it came)")
    restore.add_argument("--bit-depth", type=whole, metavar="8|16", help="bits a channel (default: as it came)")
    restore.add_argument("--overwrite", action="store_true", help="replace OUT if it is there (never the photo)")
    restore.add_argument("--weights", metavar="LIST", help=WEIGHTS_HELP)
    restore.add_argument("--fidelity", type=number, metavar="0..1",
                         help="1: closest to the truth (default); 0: crispest, details may be invented")
    restore.add_argument("--scale", type=number, default=1, metavar="1..4", help="enlarge by this factor (default 1)")
    restore.add_argument("--steps", type=whole, metavar="N",
                         help="1 to 50 (default: as many as the weights are for; the router takes no more than it has "
                         "a use for); with --fidelity below 1 detail is sampled in so many")
    restore.add_argument("--ensemble", type=whole, default=1, metavar="1|2|4|8",
                         help="average so many turned and mirrored views: a little better, so many times slower")
    restore.add_argument("--detail", type=number, default=0, metavar="0..1",
                         help="latent models: share of what their autoencoder loses to put back (default 0)")
    restore.add_argument("--seed", type=whole, default=0, help="of what is random with several steps (default 0)")
    _common(restore)
    many = restore.add_argument_group("for a folder, or an address such as s3://bucket/in or gs://bucket/in")
    many.add_argument("--recursive", action="store_true", help="folders within it too")
    many.add_argument("--include", action="append", default=[], metavar="GLOB", help="only such names, e.g. '*.jpg'")
    many.add_argument("--dry-run", action="store_true", help="only say what would be done")
    many.add_argument("--fail-fast", action="store_true", help="stop at the first photo that can't be restored")
    many.add_argument("--keep-going", action="store_false", dest="fail_fast", help="go on past it (default)")
    many.add_argument("--engine", default="local", metavar="local|ray",
                      help="who restores: this process (default), or the workers of a Ray cluster (extra 'ray')")
    many.add_argument("--workers", type=whole, metavar="N",
                      help="of a Ray cluster (default: one for each GPU, or else for each machine)")
    many.add_argument("--report", metavar="FILE", help="write what became of each photo, as JSON")

    _common(inspect.add_parser(commands))
    _common(dial.add_parser(commands))

    degrade = commands.add_parser("degrade", help="make a photo worse on purpose", description=DEGRADE_HELP)
    degrade.set_defaults(run=run_degrade, parser=degrade)
    degrade.add_argument("photo", metavar="PHOTO", help="JPEG, PNG, WebP, TIFF or AVIF")
    degrade.add_argument("--recipe", required=True, help="operators joined by +, applied from left to right")
    degrade.add_argument("-o", "--output", metavar="OUT", help="where to write (default: PHOTO.degraded.png beside it)")
    degrade.add_argument("--overwrite", action="store_true", help="replace OUT if it is there (never the photo)")
    degrade.add_argument("--seed", type=whole, default=0, help="of what is random (default 0)")

    train = commands.add_parser("train", help="train a model", description="Trains the compact model; runs continue.")
    train.set_defaults(run=run_train, parser=train)
    train.add_argument("config", metavar="CONFIG", help="a TOML file; configs/compact.toml is the shipped model's")
    train.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes",
                       help="change an option of the configuration, e.g. --set minutes=10 (may be repeated)")
    router = commands.add_parser(
        "train-router", help="train what reads photos and weighs experts",
        description="Trains what reads a photo and weighs a model's experts; these stay as they are.",
    )
    router.set_defaults(run=run_train_router, parser=router)
    router.add_argument("config", metavar="CONFIG", help="a TOML file; configs/router.toml is the shipped model's")
    router.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes",
                        help="change an option of the configuration, e.g. --set samples=400 (may be repeated)")
    _common(expert.add_parser(commands))
    latent.add_parsers(commands)
    bench.add_parser(commands)
    parser.commands = dict(commands.choices)
    return parser


def number(text: str) -> float:
    """A finite number, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{shown(text)} is no number")
    return value


def whole(text: str) -> int:
    """A whole number, for argparse."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{shown(text)} is no whole number") from None


DEGRADE_HELP = """\
Makes a photo worse in a known way, to test restorers with.

  unires degrade photo.png --recipe "defocus(radius=3) + noise(sigma=15) + jpeg(quality=30)"

Operators: noise(sigma), sensor_noise(shot, read), motion(length, angle, bend), shake(extent),
defocus(radius, blades, rotation), gaussian_blur(sigma), resize(scale, kernel), jpeg(quality, subsampling),
haze(beta, airlight), low_light(exposure, gain, shot, read).
"""


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", metavar="auto|cpu|cuda|mps", help="where to compute")
    parser.add_argument("--model", metavar="FOLDER", help="another model's folder (default: the one that is shipped)")


def run_restore(args: argparse.Namespace) -> None:
    from unires.jobs.places import is_address

    if os.path.isdir(args.photo) or is_address(args.photo) or args.engine != "local":
        folder.run(args)
        return
    for name in ("dry_run", "recursive", "include", "report", "workers", "fail_fast"):
        if getattr(args, name):
            raise OptionError(f"--{name.replace('_', '-')} is for folders, and {shown(args.photo)} is none.")
    from unires.photo import check_output, read_photo, write_photo
    from unires.photo.files import extension_of

    started = time.perf_counter()
    photo = read_photo(args.photo)
    out = _output(args, extension_of(args.format) if args.format else photo.extension, "restored")
    size = photo.enlarged(args.scale)
    encode = {"format": args.format, "quality": args.quality, "bit_depth": args.bit_depth, "overwrite": args.overwrite}
    check_output(photo, out, size=size, **encode)

    gc.disable()  # what torch's import makes stays: to look through it for garbage, again and again, takes 0.3 s
    from unires.restore.restorer import Restorer

    gc.enable()
    restorer = Restorer.from_pretrained(args.model, args.device, ensemble=args.ensemble)
    bar = ProgressLine(Path(args.photo).name)
    restored = restorer(
        photo.visible(args.bit_depth), weights=args.weights, steps=args.steps, fidelity=args.fidelity, scale=args.scale,
        seed=args.seed, detail=args.detail, progress=bar,
    )
    bar.close()
    photo = photo.with_pixels(restored)  # the memory of what it was is needed for writing
    write_photo(photo, out, **encode)
    report = restorer.report
    assert report is not None
    first = report.before  # of a photo that was enlarged
    before = "" if first is None or first.weights.only_keep else f"{first.weights} at its own size, "
    steps = "1 step" if report.steps == 1 else f"{report.steps} steps"
    ceiling = "" if report.ceiling is None else f", the autoencoder alone {report.ceiling:.1f} dB from the photo"
    print(
        f"Restored {shown(args.photo)} to {shown(out)}: {photo.width} x {photo.height}, {before}{report.weights}, "
        f"{steps}, {report.number_type} on {report.device}{ceiling}, {time.perf_counter() - started:.1f} s."
    )


def run_degrade(args: argparse.Namespace) -> None:
    from unires.photo import check_output, read_photo, write_photo

    photo = read_photo(args.photo)
    out = _output(args, ".png", "degraded")
    check_output(photo, out, overwrite=args.overwrite)
    result = photo.with_pixels(unires.degrade(photo.pixels, args.recipe, args.seed))
    write_photo(result, out, overwrite=args.overwrite)
    print(f"Degraded {shown(args.photo)} to {shown(out)} by {args.recipe}.")


def run_train(args: argparse.Namespace) -> None:
    from unires.train.config import TrainConfig
    from unires.train.loop import Trainer
    from unires.train.mixed import MixedTrainer

    config = TrainConfig.read(Path(args.config), args.changes)
    kind = MixedTrainer if config.mixtures else Trainer
    kind(config, log=lambda line: print(line, flush=True)).run()
    leave()


def run_train_router(args: argparse.Namespace) -> None:
    from unires.train.config import RouterTraining
    from unires.train.router import RouterTrainer

    config = RouterTraining.read(Path(args.config), args.changes)
    RouterTrainer(config, log=lambda line: print(line, flush=True)).run()


def _output(args: argparse.Namespace, extension: str, word: str) -> Path:
    """Where to write: as asked, or beside the photo. Raises OptionError if that is the photo itself."""
    photo = Path(args.photo)
    out = Path(args.output) if args.output else photo.with_name(f"{photo.stem}.{word}{extension}")
    if os.path.exists(out) and os.path.samefile(photo, out):
        raise OptionError("The output is the photo itself, and originals are never written over.")
    return out


class ProgressLine:
    """One line on the terminal with the share done and an estimate of the time left; silent elsewhere."""

    def __init__(self, name: str) -> None:
        self.name, self.started, self.drawn = name, time.monotonic(), False

    def __call__(self, done: float) -> None:
        if not sys.stderr.isatty() or done <= 0:
            return
        left = (time.monotonic() - self.started) * (1 - done) / done
        print(f"\r{self.name}: {done:4.0%}, {left:.0f} s left ", end="", file=sys.stderr, flush=True)
        self.drawn = True

    def close(self) -> None:
        if self.drawn:
            print(f"\r{' ' * (len(self.name) + 30)}\r", end="", file=sys.stderr, flush=True)


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 (could not be done), 2 (asked wrongly), 130 (Ctrl-C or a
    polite request to end)."""
    try:
        if threading.current_thread() is threading.main_thread():  # others may not set signals
            # SIGTERM ends as Ctrl-C does, so that what is being written is removed
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        if words is None:  # the program ends here: to look through all of torch for garbage takes half a second
            atexit.register(gc.freeze)
        args = build_parser().parse_or_refuse(sys.argv[1:] if words is None else words)
        if not hasattr(args, "run"):
            build_parser().print_help()
            return 2
        args.run(args)
    except OptionError as error:
        print(f"unires: {error}", file=sys.stderr)
        return 2
    except UniresError as error:
        print(f"unires: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("unires: stopped; nothing was half-written.", file=sys.stderr)
        return 130
    return 0
