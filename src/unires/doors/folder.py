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
    from unires.jobs.remote import restore_all
    from unires.jobs.settings import Settings
    from unires.photo.files import extension_of

    if not args.output:
        raise OptionError("A folder needs a place for the results: add -o OUT.")
    options = {
        "weights": args.weights, "steps": args.steps, "fidelity": args.fidelity, "scale": args.scale, "seed": args.seed,
        "detail": args.detail,
    }  # fmt: skip
    encode = {"format": args.format, "quality": args.quality, "bit_depth": args.bit_depth}
    bar = FolderLine()
    report = restore_all(
        args.photo, args.output, Settings(args.model, args.device, args.ensemble, options, encode),
        engine=args.engine, workers=args.workers, recursive=args.recursive, include=args.include,
        extension=extension_of(args.format) if args.format else "", overwrite=args.overwrite,
        fail_fast=args.fail_fast, dry_run=args.dry_run, progress=bar,
    )
    bar.close()
    for outcome in report.outcomes:
        if outcome.status == "failed":
            print(f"{shown(outcome.name)}: {outcome.reason}", file=sys.stderr)
        elif args.dry_run:
            print(f"{shown(outcome.name)}: {outcome.status}")
    if args.report:
        try:
            Path(args.report).write_text(json.dumps(report.data(), indent=2) + "\n")
        except OSError as error:
            raise UniresError(f"The report {shown(args.report)} can't be written: {error.strerror}.") from error
    counts = report.data()["counts"]
    told = ", ".join(f"{n} {name}" for name, n in counts.items() if n)
    print(f"{shown(args.photo)} to {shown(args.output)}: {told}.")
    failed, folders = counts["failed"] - report.folders, report.folders
    could = "would" if args.dry_run else "could"
    lost = [f"{failed} of {report.total} photos {could} not be restored"] if failed else []
    lost += [f"{folders} folder{'s' * (folders > 1)} could not be read"] if folders else []
    if lost:
        raise UniresError(" and ".join(lost) + "; they are listed above.")


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
