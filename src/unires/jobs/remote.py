"""Photos in folders or buckets, restored here or by workers on the machines of a Ray cluster.

Workers share nothing but the two places, and may die at any moment. So every photo has a record of its own beside the
results, written before the work and after it, and read before either: a photo is done only if its record names the
stamps of the input and of the result that are there now, and the settings. What a dead worker had, another does again,
and arrives at the same bytes under the same name: each result is written exactly once in effect. A file is replaced
only if the record tells of it as a result of the same photo, or if that is damaged."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from unires.errors import OptionError, UniresError, nearest, shown
from unires.jobs import folder
from unires.jobs.folder import FolderReport, Outcome, Restore, Status
from unires.jobs.journal import RECORDS, Journal, digest_of_file, digest_of_settings, is_own
from unires.jobs.places import Folder, Place, is_address, place
from unires.jobs.settings import Settings
from unires.photo import check_output, read_photo, write_photo

Progress = Callable[[int, int, str, float], None]  # photos done, of how many, the name of one, its share
ENGINES = ("local", "ray")
ATTEMPTS = 3  # by as many workers that died a photo is tried in one run: some may be what they die of
MOST_TOGETHER = 32  # photos that go to a worker at once


@dataclass(frozen=True)
class Item:
    """One photo: its name below the input place, its stamp there if listing told it, its result's name. Or an inner
    folder that can't be read, and `refused` says why."""

    name: str
    stamp: str
    result: str
    refused: str = ""


@dataclass(frozen=True)
class Record:
    """What is known of one photo's result. Its stamp is empty until it is written. Older records lack the last three.

    source: address of the place that the photo is from. replaced: the stamp of what was there before, and may be
    replaced. output_digest: of the result's bytes, noted just before they are under its name."""

    input: str
    input_stamp: str
    settings_digest: str
    output: str
    output_stamp: str
    run: str  # of which it is the
    attempt: int
    source: str = ""
    replaced: str = ""
    output_digest: str = ""


@dataclass(frozen=True)
class Job:
    """All that a worker is told, besides the settings that it restores by. scale: how many times wider and higher it
    makes a photo."""

    source: Place
    target: Place
    settings_digest: str
    encode: dict[str, Any]
    run: str
    overwrite: bool = False
    dry_run: bool = False
    scale: float = 1

    def one(self, item: Item, restore: Restore) -> Outcome:
        """Restore one photo, unless that is done already; what can't be restored is an outcome, too."""
        try:
            return Outcome(item.name, self._status(item, restore), item.result)
        except UniresError as error:
            return Outcome(item.name, "failed", item.result, str(error))

    def _status(self, item: Item, restore: Restore) -> Status:
        if any(part in ("", ".", "..") for part in item.result.split("/")):  # keys of buckets may be anything
            raise UniresError(f"{shown(item.name)} is no possible name of a file in a folder.")
        stamp = item.stamp or self.source.stamp(item.name)
        there, record = self.target.stamp(item.result), self._record(item)
        if record is not None and there and record.output_stamp == there and record.input_stamp == stamp and (
            record.settings_digest == self.settings_digest
        ):
            # of a worker that died before it could tell, the present run did it
            return "done" if record.run == self.run else "skipped"
        if there and not self.overwrite and not self._owns(item, record, there):
            raise UniresError(f"{shown(item.result)} exists already and is not overwritten.")
        if self.dry_run:
            return "planned"
        tried = record.attempt if record is not None and record.run == self.run else 0
        if tried >= ATTEMPTS:
            raise UniresError(f"{tried} workers died one after the other while they restored {shown(item.name)}.")
        with self.source.fetched(item.name) as came, self.target.filled(item.result) as goes:
            photo = read_photo(came)
            check_output(photo, goes, size=photo.enlarged(self.scale), overwrite=True, **self.encode)
            known = item.name, stamp, self.settings_digest, item.result
            begun = Record(*known, "", self.run, tried + 1, self.source.address, replaced=there)
            self._keep(begun)

            def note(whole: Path) -> None:
                # if the worker dies after this, the next one knows the result as the job's own
                self._keep(replace(begun, output_digest=digest_of_file(whole)))

            write_photo(restore(photo, _quiet), goes, overwrite=True, before=note, **self.encode)
        self._keep(replace(begun, output_stamp=self.target.stamp(item.result)))
        return "done"

    def _owns(self, item: Item, record: Record | None, there: str) -> bool:
        """Whether the file where the result goes, of the stamp `there`, is a result of the same photo, or what is left
        of one. It is fetched only where its stamp is unknown."""
        if record is None or record.source not in ("", self.source.address):
            return False
        if there in (record.output_stamp, record.replaced):
            return True
        with self.target.fetched(item.result) as path:
            return is_own(path, {record.output_digest})

    def _record(self, item: Item) -> Record | None:
        content = self.target.read(_record_name(item.name))
        try:
            record = None if content is None else Record(**json.loads(content))
        except (ValueError, TypeError):
            return None
        return record if record is not None and record.output == item.result else None

    def _keep(self, record: Record) -> None:
        self.target.write(_record_name(record.input), json.dumps(asdict(record), sort_keys=True).encode())


def _record_name(name: str) -> str:
    """By a digest: with an ending added, a long name would be too long."""
    return f"{RECORDS}/{hashlib.sha256(name.encode(errors='surrogateescape')).hexdigest()}.json"


def _quiet(share: float) -> None:
    pass


def find(
    source: Place, target: Place, *, recursive: bool, include: Sequence[str] = (), extension: str = ""
) -> list[Item]:
    """The photos of a place, with the names of their results, and the inner folders that can't be read, as
    `unires.jobs.folder.find` does. Raises UniresError."""
    if source == target or (
        isinstance(source, Folder) and isinstance(target, Folder)
        and Path(source.address).resolve() == Path(target.address).resolve()
    ):  # fmt: skip
        raise OptionError("The output is the input, and originals are never written over.")
    refused: dict[str, str] = {}
    stamps = dict(source.names(recursive=recursive, avoid=target, refused=refused))
    items = [Item(name, stamps[name], result) for result, name in folder.results(stamps, include, extension).items()]
    if isinstance(source, Folder) and isinstance(target, Folder):
        pairs = [(Path(source.address, item.name), Path(target.address, item.result)) for item in items]
        folder.check_originals(pairs)
    read = {f"{source.address}/{item.name}" for item in items}
    for item in items:
        goes = f"{target.address}/{item.result}"
        if goes in read:
            raise folder.over_original(f"{source.address}/{item.name}", goes)
    items += [Item(name, "", "", said) for name, said in refused.items()]
    if not items:
        raise UniresError(f"There is no photo in {shown(source.address)}.")
    return items


def restore_all(
    source: str,
    target: str,
    settings: Settings,
    *,
    engine: str = "local",
    workers: int | None = None,
    recursive: bool = False,
    include: Sequence[str] = (),
    extension: str = "",
    overwrite: bool = False,
    fail_fast: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> FolderReport:
    """Restore all photos of `source` into `target` (folders, or addresses of buckets), in this process or, with the
    engine "ray", by `workers` of a cluster (see `_shares`). From folder to folder in this process it is
    `unires.jobs.folder` that does it, and explains the rest. Raises UniresError only for what concerns the whole job.
    """
    if engine not in ENGINES:
        raise OptionError(nearest(engine, ENGINES, kind="engine"))
    if workers is not None and (engine != "ray" or workers < 1):
        raise OptionError("A number of workers, of at least one, is for the engine 'ray'.")
    found: dict[str, Any] = {"recursive": recursive, "include": include, "extension": extension}
    how: dict[str, Any] = {"overwrite": overwrite, "fail_fast": fail_fast, "dry_run": dry_run, "progress": progress}
    if engine == "local" and not is_address(source) and not is_address(target):
        goal = Path(target)
        items = folder.find(Path(source), goal, **found)
        restore = settings.load()
        scale = settings.options["scale"]
        return folder.run(items, goal, restore, settings.data(), encode=settings.encode, scale=scale, **how)
    return run(place(source), place(target), settings, engine=engine, workers=workers, **found, **how)


def run(
    source: Place,
    target: Place,
    settings: Settings,
    *,
    engine: str,
    workers: int | None = None,
    recursive: bool = False,
    include: Sequence[str] = (),
    extension: str = "",
    overwrite: bool = False,
    fail_fast: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> FolderReport:
    """The same between any two places, with a record for each photo."""
    found = find(source, target, recursive=recursive, include=include, extension=extension)
    closed = [Outcome(item.name, "failed", "", item.refused) for item in found if item.refused]
    items = [item for item in found if not item.refused]
    report, names = FolderReport(len(items), closed), {item.result for item in items}
    if fail_fast and closed:
        return report
    key = digest_of_settings(settings.data())
    scale = settings.options["scale"]
    job = Job(source, target, key, settings.encode, secrets.token_hex(8), overwrite, dry_run, scale)
    with _alone(target, dry_run):
        if not dry_run:
            target.sweep(names)
        outcomes: Generator[Outcome, None, None]
        if engine == "ray" and not dry_run:
            settings.load()  # refuses now what each worker would refuse; its memory is free again for the workers
            outcomes = _by_ray(job, items, settings, workers)
        else:
            restore = settings.load()
            outcomes = (job.one(item, restore) for item in items)
        with closing(outcomes):
            for outcome in outcomes:
                report.outcomes.append(outcome)
                if progress:
                    progress(len(report.outcomes) - len(closed), len(items), outcome.name, 0.0)
                if fail_fast and outcome.status == "failed":
                    break
        if not dry_run:
            target.sweep(names)
    report.outcomes.sort(key=lambda o: o.name)
    return report


def _alone(target: Place, dry_run: bool) -> Any:
    """Other jobs of this machine are kept out of a folder. In a bucket two jobs would do photos twice, to the same
    bytes."""
    if dry_run or not isinstance(target, Folder):
        return nullcontext()
    root = Path(target.address)
    folder.check_place(root / RECORDS, root)
    return Journal(root).held()


class _Worker:
    """A process of the cluster. It loads the model once."""

    def __init__(self, job: Job, settings: Settings, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        if digest_of_settings(settings.data()) != job.settings_digest:
            raise UniresError("A worker's model is not the one of the job; all machines need the same.")
        self.job, self.restore = job, settings.load()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        # as JSON, whose escapes hold every name that a file may have; a table's columns don't
        return {"outcome": json.dumps(asdict(self.job.one(Item(**json.loads(row["item"])), self.restore)))}


def _by_ray(job: Job, items: Sequence[Item], settings: Settings, workers: int | None) -> Generator[Outcome, None, None]:
    """Outcomes as they come, from a cluster that is there (`RAY_ADDRESS`, `ray start`) or else from one of this machine
    alone. Ray Data gives what a dead worker had to a new one, without end; `ATTEMPTS` is the end."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError:
        raise UniresError("The engine 'ray' needs an extra: pip install 'unires[ray]'.") from None
    ours = not ray.is_initialized()
    try:
        if ours:
            try:
                ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            except Exception as error:  # of no common class: no such cluster, another version of Ray, no free port
                raise UniresError(f"No Ray cluster can be joined or made: {_reason(error)}") from error
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        count, threads, gpus = _shares(ray.nodes(), settings.device, workers)
        settings = settings.absolute()  # workers may be at home elsewhere
        # few enough that all workers end together, and that little is looked at again after a death
        together = min(max(len(items) // (8 * count), 1), MOST_TOGETHER)
        rows = ray.data.from_items(
            [{"item": json.dumps(asdict(item))} for item in items], override_num_blocks=-(-len(items) // together)
        )
        done = rows.map(
            _Worker, fn_constructor_args=(job, settings, threads), compute=ray.data.ActorPoolStrategy(size=count),
            num_cpus=threads, num_gpus=gpus,
        )
        for row in done.iter_rows():
            yield Outcome(**json.loads(row["outcome"]))
    except ray.exceptions.RayError as error:
        if isinstance(error, ray.exceptions.RayTaskError) and not isinstance(error.cause, UniresError):
            raise  # a fault of UniRes, not of the cluster
        raise UniresError(f"The Ray cluster can't do the job: {_reason(error)}") from error
    finally:
        if ours:
            ray.shutdown()


def _shares(nodes: Iterable[dict[str, Any]], device: str, workers: int | None) -> tuple[int, int, int]:
    """(workers, cores and threads of each, GPUs of each): all the same, as the number of threads shows in last bits.

    nodes: as `ray.nodes` describes machines. Without a number there is a worker for each GPU or, where there is none,
    for each machine. Raises UniresError where there are too few cores."""
    machines = [node["Resources"] for node in nodes if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    cores = [int(machine["CPU"]) for machine in machines]
    gpus = 0 if device == "cpu" else sum(int(machine.get("GPU", 0)) for machine in machines)
    count = workers or gpus or len(machines)
    for threads in range(max(cores, default=0), 0, -1):
        if sum(n // threads for n in cores) >= count > 0:
            return count, threads, int(gpus >= count)
    raise UniresError(f"The cluster has {sum(cores)} cores, too few for {max(count, 1)} workers.")


def _reason(error: BaseException) -> str:
    """One sentence: the innermost one of ours, or the first line of what Ray says."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, UniresError):
            return str(inner)
        inner = getattr(inner, "cause", None) or inner.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    ours = [line.partition("Error: ")[2] for line in lines if line.startswith("unires.errors.")]
    return (ours or lines or [type(error).__name__])[-1 if ours else 0].rstrip(".") + "."
