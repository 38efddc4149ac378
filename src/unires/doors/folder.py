"""`unires restore FOLDER -o OUT`: many photos. It prints and counts; `unires.jobs` and `Restorer` decide."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from unires.errors import OptionError, UniresError, shown


def run(args: argparse.Namespace) -> None:
    """Restore a folder. Raises UniresError, after all photos, if any could not be restored."""
    from unires.denoise.checkpoint import digest
    from unires.jobs import folder
    from unires.photo import Photo
    from unires.photo.files import extension_of
    from unires.restore.restorer import Restorer

    if not args.output:
        raise OptionError("A folder needs a place for the results: add -o OUT.")
    source, target = Path(args.photo), Path(args.output)
    extension = extension_of(args.format) if args.format else ""
    items = folder.find(source, target, recursive=args.recursive, include=args.include, extension=extension)
    restorer = Restorer.from_pretrained(args.model, args.device, ensemble=args.ensemble)
    options = {
        "weights": args.weights, "steps": args.steps, "fidelity": args.fidelity, "scale": args.scale, "seed": args.seed
    }
    restorer.plan(args.weights, args.steps, args.fidelity, args.scale)  # refuse now what every photo would refuse
    encode = {"format": args.format, "quality": args.quality, "bit_depth": args.bit_depth}
    model = digest(Path(args.model) if args.model else None)
    settings = {**options, **encode, "ensemble": args.ensemble, "model": model}

    def restore(photo: Photo, progress: folder.Share) -> Photo:
        return photo.with_pixels(restorer(photo.visible(args.bit_depth), progress=progress, **options))

    bar = FolderLine()
    report = folder.run(
        items, target, restore, settings, overwrite=args.overwrite, fail_fast=args.fail_fast, dry_run=args.dry_run,
        encode=encode, progress=bar,
    )
    bar.close()
    for outcome in report.outcomes:
        if outcome.status == "failed":
            print(f"{outcome.name}: {outcome.reason}", file=sys.stderr)
        elif args.dry_run:
            print(f"{outcome.name}: {outcome.status}")
    if args.report:
        try:
            Path(args.report).write_text(json.dumps(report.data(), indent=2) + "\n")
        except OSError as error:
            raise UniresError(f"The report {shown(args.report)} can't be written: {error.strerror}.") from error
    counts = report.data()["counts"]
    print(f"{shown(source)} to {shown(target)}: " + ", ".join(f"{n} {name}" for name, n in counts.items() if n) + ".")
    if counts["failed"]:
        raise UniresError(f"{counts['failed']} of {len(items)} photos could not be restored; they are listed above.")


class FolderLine:
    """One line on the terminal: photos done, the present one, its share, the time left for all; silent elsewhere."""

    def __init__(self) -> None:
        self.started, self.width = time.monotonic(), 0

    def __call__(self, done: int, total: int, name: str, share: float) -> None:
        if not sys.stderr.isatty():
            return
        finished = done + share
        left = (time.monotonic() - self.started) * (total - finished) / finished if finished else 0
        line = f"{done}/{total}, {left:.0f} s left; {shown(name)} {share:.0%}"
        print("\r" + line.ljust(self.width), end="", file=sys.stderr, flush=True)
        self.width = max(self.width, len(line))

    def close(self) -> None:
        if self.width:
            print("\r" + " " * self.width + "\r", end="", file=sys.stderr, flush=True)
