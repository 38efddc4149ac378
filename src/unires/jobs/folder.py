"""A folder of photos: found, read ahead, restored, written, and never done twice."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from unires.errors import OptionError, UniresError, shown
from unires.jobs.journal import NAME as JOURNAL
from unires.jobs.journal import RECORDS, Entry, Journal, digest_of_file, digest_of_settings
from unires.photo import Photo, atomic, check_output, read_photo, write_photo
from unires.photo.atomic import exists, refuse_existing, why
from unires.photo.files import FORMATS
from unires.photo.plugins import WRITTEN_AS

Share = Callable[[float], None]  # called with the share of one photo that is done, 0 to 1
Restore = Callable[[Photo, Share], Photo]
Status = Literal["done", "skipped", "failed", "planned"]
LARGE = 128 << 20  # bytes: beside a photo of so many, no other is read or written


@dataclass(frozen=True)
class Item:
    """One photo: its path below the input folder, where it comes from, where its result goes. Or an inner folder that
    can't be read, and `refused` says why."""

    name: str
    source: Path
    target: Path
    refused: str = ""


@dataclass
class Outcome:
    """What became of one photo; `reason` where it failed. Without an output it is an inner folder that can't be read.
    """

    name: str
    status: Status
    output: str
    reason: str = ""


@dataclass
class FolderReport:
    """All outcomes of a run, in the order of their names; `total`, of photos, is more where the first failure stopped
    it."""

    total: int
    outcomes: list[Outcome] = field(default_factory=list)

    def count(self, status: Status) -> int:
        return sum(o.status == status for o in self.outcomes)

    @property
    def folders(self) -> int:
        """How many inner folders can't be read. They are counted as failed, too."""
        return sum(not o.output for o in self.outcomes)

    def data(self) -> dict[str, Any]:
        """For a JSON file."""
        states: tuple[Status, ...] = ("done", "skipped", "failed", "planned")
        return {"counts": {s: self.count(s) for s in states}, "photos": [asdict(o) for o in self.outcomes]}


def find(
    source: Path, target: Path, *, recursive: bool, include: Sequence[str] = (), extension: str = ""
) -> list[Item]:
    """The photos in a folder, by name, with where each result goes: the same place below `target`. After them, the
    inner folders that can't be read.

    include: patterns of file names, any of which will do (default: every known ending). extension: of the results, if
    not their own (or, of formats that are only read, the usual one). Raises UniresError if there are none, two would go
    to one place, `target` is the folder itself, or a result would be written over one of the photos."""
    if not os.path.isdir(source):  # where Path.is_dir raises: a name too long, a folder that may not be entered
        raise UniresError(f"There is no folder {shown(source)}.")
    inside = target.resolve()
    if inside == source.resolve():
        raise OptionError("The output folder is the input folder, and originals are never written over.")
    refused: dict[Path, str] = {}
    try:
        found = [path.relative_to(source).as_posix() for path in walk(source, recursive, inside, refused)]
    except OSError as error:
        raise UniresError(unread(source, error)) from error
    items = [Item(name, source / name, target / result) for result, name in results(found, include, extension).items()]
    check_originals([(item.source, item.target) for item in items])
    for path, said in refused.items():
        name = path.relative_to(source).as_posix()
        items.append(Item(name, path, target / name, said))
    if not items:
        raise UniresError(f"There is no photo in {shown(source)}.")
    return items


def check_originals(pairs: Sequence[tuple[Path, Path]]) -> None:
    """Refuse results that would be written over a photo that is read. pairs: (photo, where its result goes). Raises
    OptionError.

    Where the output folder holds the input folder, the result of a photo in an inner folder may go where another photo
    lies. Folders are told apart by their numbers, as links and the case of letters give them several names."""
    numbers: dict[Path, tuple[int, int]] = {}

    def place(path: Path) -> tuple[tuple[int, int], str]:
        if path.parent not in numbers:
            found = os.stat(path.parent)
            numbers[path.parent] = found.st_dev, found.st_ino
        return numbers[path.parent], path.name.casefold()

    read: dict[tuple[tuple[int, int], str], list[Path]] = {}
    for photo, _ in pairs:
        with suppress(OSError):  # what can't be reached is found out when it is read
            path = Path(os.path.realpath(photo)) if os.path.islink(photo) else photo
            read.setdefault(place(path), []).append(path)
    for photo, result in pairs:
        with suppress(OSError):  # a folder or file that is not there yet
            for other in read.get(place(result), ()):
                if other.name == result.name or other.samefile(result):
                    raise over_original(photo, other)


def over_original(photo: object, other: object) -> OptionError:
    """The error for a photo whose result would go where another photo lies."""
    said = f"The result of {shown(photo)} would be written over {shown(other)}"
    return OptionError(f"{said}, and originals are never written over.")


def results(names: Iterable[str], include: Sequence[str], extension: str) -> dict[str, str]:
    """{result: photo} of those names that are photos, as `find` explains. Raises UniresError if two would go to one
    place."""
    photos: dict[str, str] = {}
    for name in names:
        path = PurePosixPath(name)
        ending = path.suffix.lower()
        wanted = any(fnmatch(path.name, p) for p in include) if include else ending in FORMATS or ending in WRITTEN_AS
        # "._" begins what a Mac keeps beside a photo on a card: its notes, under the photo's ending
        if not wanted or path.name.startswith("._") or path.name == JOURNAL or RECORDS in path.parts:
            continue
        other = extension or WRITTEN_AS.get(ending)
        result = str(path.with_suffix(other)) if other else name
        if result in photos:
            raise UniresError(f"{shown(name)} and {shown(photos[result])} would both become {shown(result)}.")
        photos[result] = name
    return photos


def walk(source: Path, recursive: bool, avoid: Path, refused: dict[Path, str]) -> Iterator[Path]:
    """Files in the order of their names. Linked folders are not entered: they may lead in a circle, or out.

    Of an inner folder that can't be read (`lost+found`, a dead mount) `refused` is told, with a sentence that says why,
    and the rest goes on. Raises OSError where `source` itself can't be read."""
    with os.scandir(source) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        path = source / entry.name
        if entry.is_dir(follow_symlinks=False):
            if recursive and path.resolve() != avoid:
                try:
                    yield from walk(path, recursive, avoid, refused)
                except OSError as error:
                    refused[path] = unread(path, error)
        elif not (entry.is_symlink() and os.path.isdir(path)):
            yield path


def unread(folder: Path, error: OSError) -> str:
    """A sentence about a folder that can't be read."""
    return f"The folder {shown(folder)} can't be read: {why(error, reading=True)}."


def run(
    items: Sequence[Item],
    target: Path,
    restore: Restore,
    settings: dict[str, Any],
    *,
    overwrite: bool = False,
    fail_fast: bool = False,
    dry_run: bool = False,
    encode: dict[str, Any] | None = None,
    scale: float = 1,
    progress: Callable[[int, int, str, float], None] | None = None,
) -> FolderReport:
    """Restore all items into `target`; goes on past photos that fail, unless `fail_fast`.

    restore: from photo to photo, with a callback for the share done. settings: everything besides the photo that its
    result depends on, the model's digest too. encode: what `write_photo` takes. scale: how many times wider and higher
    `restore` makes a photo. progress(done, total, name, share).
    The next photo is read, and the last one is written, while one is restored, unless it is large. Results that this
    job did not write, or that were changed since, are not replaced, unless `overwrite`. Raises UniresError only for
    what concerns the whole job."""
    closed = [Outcome(item.name, "failed", "", item.refused) for item in items if item.refused]
    items = [item for item in items if not item.refused]
    report = FolderReport(len(items), closed)
    if fail_fast and closed:
        return report
    if not dry_run:
        _make(target)
    journal = Journal(target) if target.is_dir() else None
    key = digest_of_settings(settings)
    alone = nullcontext() if dry_run or journal is None else journal.held()
    with alone, ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        if not dry_run:
            sweep({item.target.parent for item in items})
        loads: dict[int, Future[tuple[str, Photo | None]]] = {}
        large = True  # of the first photo nothing is known, so it is read alone
        writes: list[tuple[Item, Future[None]]] = []

        def settle() -> None:
            """Wait until nothing is still to be written."""
            while writes:
                item, future = writes.pop(0)
                report.outcomes.append(_outcome(item, target, future.result))

        try:
            for i, item in enumerate(items):
                for ahead in range(i, min(i + 1 if large else i + 2, len(items))):
                    if ahead not in loads:
                        loads[ahead] = reader.submit(_load, items[ahead], journal, key, dry_run)
                if progress:
                    progress(i, len(items), item.name, 0.0)
                try:
                    digest, photo = loads.pop(i).result()
                    if photo is None:
                        status: Status = "planned" if dry_run and not digest else "skipped"
                        if status == "planned":
                            _may_replace(item, target, journal, overwrite)
                        report.outcomes.append(Outcome(item.name, status, _below(item, target)))
                        continue
                    large = photo.samples.nbytes > LARGE
                    if large:
                        settle()
                    check_place(item.target, target)
                    replaces = _may_replace(item, target, journal, overwrite)
                    size = photo.enlarged(scale)
                    check_output(photo, item.target, size=size, overwrite=replaces, **(encode or {}))
                    photo = restore(photo, _share(progress, i, len(items), item.name))
                except UniresError as error:
                    report.outcomes.append(Outcome(item.name, "failed", _below(item, target), str(error)))
                    if fail_fast:
                        break
                    continue
                settle()
                if fail_fast and report.count("failed"):
                    break
                assert journal is not None
                order = _Order(item, target, digest, key, replaces, encode or {})
                writes.append((item, writer.submit(_store, order, photo, journal)))
                if large:
                    settle()
        finally:
            for future in loads.values():
                future.cancel()
            settle()
    report.outcomes.sort(key=lambda o: o.name)
    return report


def sweep(folders: Iterable[Path]) -> None:
    """Remove what a killed job was still writing, in the folders that results go to."""
    for place in folders:
        atomic.sweep(place)


def _load(item: Item, journal: Journal | None, key: str, dry_run: bool) -> tuple[str, Photo | None]:
    """(digest of the input, the photo); no photo where it is done already; with `dry_run`, neither where it isn't."""
    try:
        digest = digest_of_file(item.source)
    except OSError as error:
        raise UniresError(f"{shown(item.source)} can't be read: {error.strerror}.") from error
    if journal is not None and journal.done(item.name, digest, key, item.target):
        return digest, None
    return ("", None) if dry_run else (digest, read_photo(item.source))


def _may_replace(item: Item, target: Path, journal: Journal | None, overwrite: bool) -> bool:
    """Whether to replace what is where a result goes. Raises PhotoError where something is, and is to stay."""
    if overwrite or (journal is not None and journal.owns(_below(item, target), item.target, _origin(item))):
        return True
    if exists(item.target):
        raise refuse_existing(item.target)
    return False


@dataclass(frozen=True)
class _Order:
    """What the writing thread needs to know about one result."""

    item: Item
    target: Path
    input_digest: str
    settings_digest: str
    replace: bool
    encode: dict[str, Any]


def _store(order: _Order, photo: Photo, journal: Journal) -> None:
    """Write a result. The journal knows its bytes before it gets its name: a job killed after that knows it as its own,
    and one killed before it does it again."""
    item = order.item

    def note(temporary: Path) -> None:
        done = item.name, order.input_digest, order.settings_digest, _below(item, order.target)
        journal.add(Entry(*done, digest_of_file(temporary), _origin(item)))

    write_photo(photo, item.target, overwrite=order.replace, before=note, **order.encode)


def _outcome(item: Item, target: Path, wait: Callable[[], None]) -> Outcome:
    try:
        wait()
    except UniresError as error:
        return Outcome(item.name, "failed", _below(item, target), str(error))
    return Outcome(item.name, "done", _below(item, target))


def check_place(path: Path, target: Path) -> None:
    """Make a result's folder; refuse one that a link leads out of the output folder. Raises UniresError."""
    _make(path.parent)
    if not path.parent.resolve().is_relative_to(target.resolve()):
        raise UniresError(f"{shown(path)} would lie outside of the output folder, through a link.")
    if path.is_symlink():
        raise UniresError(f"{shown(path)} is a link, and results are not written through links.")


def _make(folder: Path) -> None:
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UniresError(f"The folder {shown(folder)} can't be made: {error.strerror}.") from error


def _below(item: Item, target: Path) -> str:
    return item.target.relative_to(target).as_posix()


def _origin(item: Item) -> str:
    """Where a photo lies, by its only name."""
    return os.path.realpath(item.source)


def _share(
    progress: Callable[[int, int, str, float], None] | None, done: int, total: int, name: str
) -> Share:
    def tell(share: float) -> None:
        if progress:
            progress(done, total, name, share)

    return tell
