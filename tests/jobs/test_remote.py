"""The way that buckets and clusters take: the same bytes as from folder to folder, whoever dies in between."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from album import ENCODE, command, digests, make_photos
from PIL import Image

import unires
from unires.doors.cli import main
from unires.errors import OptionError, UniresError
from unires.jobs import folder, places, remote
from unires.jobs.journal import RECORDS
from unires.jobs.places import Bucket, Folder, place
from unires.jobs.settings import Settings
from unires.photo import Photo, atomic


def run(source: Path, target: Path, settings: Settings, **options: Any) -> folder.FolderReport:
    """By the way that buckets take, though both are folders."""
    return remote.run(Folder(str(source)), Folder(str(target)), settings, engine="local", recursive=True, **options)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A bucket in this process's memory, whose store keeps checksums as S3 does."""
    files = pytest.importorskip("fsspec").filesystem("memory")
    plain = files.info

    def info(path: str, **options: Any) -> dict[str, Any]:
        facts = dict(plain(path, **options))
        if facts["type"] == "file":
            facts["ETag"] = hashlib.md5(files.cat_file(path)).hexdigest()
        return facts

    monkeypatch.setattr(files, "info", info)
    monkeypatch.setattr(places, "_file_system", lambda _: files)
    yield Bucket("s3://album/out")
    files.store.clear()


# -- records ----------------------------------------------------------------------------------------------------------


def test_the_bytes_are_those_of_a_folder_job(photos: Path, tmp_path: Path, settings: Settings) -> None:
    before = digests(photos)
    assert run(photos, tmp_path / "out", settings).count("done") == 7
    remote.restore_all(str(photos), str(tmp_path / "plain"), settings, recursive=True)
    assert digests(tmp_path / "out") == digests(tmp_path / "plain")
    assert digests(photos) == before != digests(tmp_path / "out")
    assert before.keys() == digests(tmp_path / "out").keys()


@pytest.mark.parametrize("harm", ["nothing", "input", "output", "removed", "settings", "record"])
def test_only_what_changed_is_done_again(photos: Path, tmp_path: Path, settings: Settings, harm: str) -> None:
    out = tmp_path / "out"
    run(photos, out, settings)
    target = out / "photo02.png"
    good = target.read_bytes()
    if harm == "input":
        Image.new("RGB", (32, 24), "red").save(photos / "photo02.png")
    elif harm == "output":
        target.write_bytes(good[:-20])
    elif harm == "removed":
        target.unlink()
    elif harm == "settings":
        settings.options["weights"] = "dejpeg"
    elif harm == "record":
        (record,) = [p for p in (out / RECORDS).iterdir() if '"photo02.png"' in p.read_text()]
        record.write_text(record.read_text()[:40])  # a result without its record may be another's
    report = run(photos, out, settings)
    again = {"nothing": 0, "settings": 7, "record": 0}.get(harm, 1)
    assert (report.count("done"), report.count("failed")) == (again, int(harm == "record"))
    assert (target.read_bytes() == good) == (harm not in ("input", "settings"))


def test_files_of_others_are_not_replaced(photos: Path, tmp_path: Path, settings: Settings) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "photo02.png").write_bytes(b"mine")
    report = run(photos, out, settings)
    assert {o.name: o.reason for o in report.outcomes if o.status == "failed"} == {
        "photo02.png": "'photo02.png' exists already and is not overwritten."
    }
    assert (out / "photo02.png").read_bytes() == b"mine"
    assert run(photos, out, settings, overwrite=True).count("done") == 1


@pytest.mark.parametrize("where", ["folder", "bucket"])
def test_results_of_another_folder_are_not_replaced(
    photos: Path, tmp_path: Path, settings: Settings, memory: Bucket, where: str
) -> None:
    out: Folder | Bucket = Folder(str(tmp_path / "out")) if where == "folder" else memory
    other = tmp_path / "another"
    make_photos(other, 3)
    Image.new("RGB", (32, 24), "red").save(other / "photo02.png")

    def restore(source: Path, **options: Any) -> dict[str, str]:
        report = remote.run(Folder(str(source)), out, settings, engine="local", recursive=True, **options)
        return {o.name: o.status for o in report.outcomes}

    assert set(restore(photos).values()) == {"done"}
    before = out.read("photo02.png")
    same = {"inner/photo00.png": "skipped", "photo01.jpg": "skipped"}
    assert restore(other) == {**same, "photo02.png": "failed"}
    assert out.read("photo02.png") == before
    assert restore(other, overwrite=True) == {**same, "photo02.png": "done"}
    assert restore(other) == {**same, "photo02.png": "skipped"}
    assert restore(photos)["photo02.png"] == "failed"


@pytest.mark.parametrize("change", ["input", "settings", "nothing"])
@pytest.mark.parametrize("where", ["folder", "bucket"])
def test_results_that_were_edited_are_not_replaced(
    photos: Path, tmp_path: Path, settings: Settings, memory: Bucket, change: str, where: str
) -> None:
    out: Folder | Bucket = Folder(str(tmp_path / "out")) if where == "folder" else memory

    def restore(**options: Any) -> dict[str, str]:
        report = remote.run(Folder(str(photos)), out, settings, engine="local", recursive=True, **options)
        return {o.name: o.status for o in report.outcomes}

    restore()
    good, edited = out.read("photo04.png"), (photos / "photo02.png").read_bytes()
    assert good is not None
    out.write("photo02.png", edited)
    out.write("photo04.png", good[:-20])  # damaged
    if change == "input":
        Image.new("RGB", (32, 24), "red").save(photos / "photo02.png")
    elif change == "settings":
        settings.options["seed"] = 1
    assert {n: s for n, s in restore().items() if s != ("done" if change == "settings" else "skipped")} == {
        "photo02.png": "failed", **({} if change == "settings" else {"photo04.png": "done"}),
    }  # fmt: skip
    assert out.read("photo02.png") == edited and out.read("photo04.png") == good
    assert restore(overwrite=True)["photo02.png"] == "done"


@pytest.mark.parametrize("moment", ["work", "name", "record"])
@pytest.mark.parametrize("where", ["folder", "bucket"])
def test_a_worker_that_died_while_it_replaced_a_result_leaves_one_of_its_own(
    photos: Path, tmp_path: Path, settings: Settings, memory: Bucket, monkeypatch: pytest.MonkeyPatch, moment: str,
    where: str,
) -> None:  # fmt: skip
    target: Folder | Bucket = Folder(str(tmp_path / "out")) if where == "folder" else memory
    first = remote.Job(Folder(str(photos)), target, "settings", ENCODE, "first run")
    second, third = replace(first, settings_digest="others", run="second run"), replace(first, run="third run")
    item, restore = remote.Item("photo01.jpg", "", "photo01.jpg"), settings.load()
    assert first.one(item, restore).status == "done"

    def die(*_: Any, **__: Any) -> Any:
        raise Died

    def negative(photo: Photo, share: folder.Share) -> Photo:
        return photo.with_pixels(1 - photo.pixels)

    keep, publish = remote.Job._keep, atomic._publish
    with monkeypatch.context() as patch, pytest.raises(Died):
        if moment == "name":
            patch.setattr(atomic, "_publish", lambda *a: die() if a[1].suffix == ".jpg" else publish(*a))
        elif moment == "record":
            patch.setattr(remote.Job, "_keep", lambda job, r: die() if r.output_stamp else keep(job, r))
        second.one(item, die if moment == "work" else negative)
    assert third.one(item, negative).status == "done"
    if where == "folder":  # whoever edits it makes it his own
        Image.new("RGB", (32, 24), "green").save(tmp_path / "out" / "photo01.jpg")
        assert second.one(item, negative).status == "failed"


def test_bad_photos_are_listed_and_the_rest_is_done(photos: Path, tmp_path: Path, settings: Settings) -> None:
    (photos / "empty.png").touch()
    (photos / "short.jpg").write_bytes((photos / "photo01.jpg").read_bytes()[:300])
    report = run(photos, tmp_path / "out", settings)
    assert {o.name for o in report.outcomes if o.status == "failed"} == {"empty.png", "short.jpg"}
    assert report.count("done") == 7 and report.total == 9
    stopped = run(photos, tmp_path / "other", settings, fail_fast=True)
    assert stopped.count("failed") == 1 and stopped.total == 9 and len(stopped.outcomes) < 9


@pytest.mark.parametrize("way", ["plain", "records"])
def test_a_result_too_large_for_its_format_is_refused_before_the_work(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    def work(photo: Photo, share: folder.Share) -> Photo:
        raise AssertionError("restored in vain")

    (tmp_path / "in").mkdir()
    Image.new("RGB", (5000, 2)).save(tmp_path / "in" / "wide.webp")
    settings.options["scale"] = 4
    monkeypatch.setattr(Settings, "load", lambda _: work)
    goes = tmp_path / "out"
    if way == "plain":
        report = remote.restore_all(str(tmp_path / "in"), str(goes), settings)
    else:
        report = run(tmp_path / "in", goes, settings)
    assert [o.reason for o in report.outcomes] == [
        "WebP holds at most 16,383 pixels a side, the picture has 20000 x 8."
    ]


def test_a_dry_run_writes_nothing(photos: Path, tmp_path: Path, settings: Settings) -> None:
    assert run(photos, tmp_path / "out", settings, dry_run=True).count("planned") == 7
    assert not (tmp_path / "out").exists()


class Died(BaseException):
    """As sudden as a kill: nothing catches it."""


def test_what_a_dead_worker_had_is_done_by_the_next(photos: Path, tmp_path: Path, settings: Settings) -> None:
    job = remote.Job(Folder(str(photos)), Folder(str(tmp_path / "out")), "settings", ENCODE, "this run")
    item = remote.Item("photo01.jpg", "", "photo01.jpg")

    def die(photo: Photo, share: folder.Share) -> Photo:
        raise Died

    for _ in range(2):
        with pytest.raises(Died):
            job.one(item, die)
    assert not (tmp_path / "out" / "photo01.jpg").exists()
    assert job.one(item, settings.load()).status == "done"
    # told twice: of the same run it is done, of a later one it is skipped
    assert job.one(item, die).status == "done"
    later = remote.Job(job.source, job.target, "settings", ENCODE, "next run")
    assert later.one(item, die).status == "skipped"


def test_a_photo_that_kills_its_workers_is_given_up(photos: Path, tmp_path: Path) -> None:
    job = remote.Job(Folder(str(photos)), Folder(str(tmp_path / "out")), "settings", ENCODE, "this run")
    item = remote.Item("photo01.jpg", "", "photo01.jpg")

    def die(photo: Photo, share: folder.Share) -> Photo:
        raise Died

    for _ in range(remote.ATTEMPTS):
        with pytest.raises(Died):
            job.one(item, die)
    outcome = job.one(item, die)
    assert outcome.status == "failed" and "3 workers died" in outcome.reason
    with pytest.raises(Died):  # the next run tries again
        remote.Job(job.source, job.target, "settings", ENCODE, "next run").one(item, die)


def test_a_worker_killed_after_writing_leaves_a_result_of_its_own(
    photos: Path, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = remote.Job(Folder(str(photos)), Folder(str(tmp_path / "out")), "settings", ENCODE, "this run")
    item, keep = remote.Item("photo01.jpg", "", "photo01.jpg"), remote.Job._keep

    def die_at_the_end(self: remote.Job, record: remote.Record) -> None:
        if record.output_stamp:
            raise Died
        keep(self, record)

    monkeypatch.setattr(remote.Job, "_keep", die_at_the_end)
    with pytest.raises(Died):
        job.one(item, settings.load())
    written = (tmp_path / "out" / "photo01.jpg").read_bytes()
    monkeypatch.setattr(remote.Job, "_keep", keep)
    assert job.one(item, settings.load()).status == "done"
    assert (tmp_path / "out" / "photo01.jpg").read_bytes() == written


@pytest.mark.parametrize("way", ["link", "around"])
def test_originals_are_not_written_over(photos: Path, tmp_path: Path, way: str) -> None:
    target = tmp_path / "link" if way == "link" else photos / "inner" / ".."
    if way == "link":
        target.symlink_to(photos)
    with pytest.raises(OptionError, match="never written over"):
        remote.find(place(str(photos)), place(f"file://{target}"), recursive=True)


def test_a_result_never_goes_where_a_photo_of_a_bucket_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    there = [("in/x.png", "1 a"), ("x.png", "1 b")]
    monkeypatch.setattr(Bucket, "names", lambda *_, **__: iter(there))
    with pytest.raises(OptionError, match=r"'s3://b/n/in/in/x\.png' would be written over 's3://b/n/in/x\.png'"):
        remote.find(Bucket("s3://b/n/in"), Bucket("s3://b/n"), recursive=True)
    assert len(remote.find(Bucket("s3://b/n/in"), Bucket("s3://b/out"), recursive=True)) == 2


@pytest.mark.parametrize(("options", "encode", "said"), [
    ({"seed": 10**20}, {}, "seed"), ({"detail": 2}, {}, "detail"), ({}, {"quality": 500}, "quality"),
    ({}, {"bit_depth": 12}, "bit depth"),
])  # fmt: skip
def test_what_every_photo_would_refuse_is_refused_at_once(
    settings: Settings, options: dict[str, Any], encode: dict[str, Any], said: str
) -> None:
    wrong = replace(settings, options={**settings.options, **options}, encode={**settings.encode, **encode})
    with pytest.raises(OptionError, match=said):
        wrong.load()


def test_names_that_lead_out_are_refused(photos: Path, tmp_path: Path, settings: Settings) -> None:
    job = remote.Job(Folder(str(photos)), Folder(str(tmp_path / "deep" / "out")), "settings", ENCODE, "this run")
    for name in ("../../x.png", "a//x.png", "./x.png", "/x.png"):
        outcome = job.one(remote.Item(name, "stamp", name), settings.load())
        assert outcome.status == "failed" and "no possible name" in outcome.reason
    assert not (tmp_path / "x.png").exists() and not (tmp_path / "deep").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_named_pipe_has_no_stamp(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    code = "import sys; from unires.jobs.places import Folder; Folder(sys.argv[1]).stamp('pipe.png')"
    environment = os.environ | {"PYTHONPATH": str(Path(unires.__file__).parents[1])}
    words = [sys.executable, "-c", code, str(tmp_path)]
    job = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert job.stderr.endswith(f"'{tmp_path / 'pipe.png'}' is not a regular file.\n")


def test_settings_follow_the_content_of_files(tmp_path: Path, settings: Settings) -> None:
    settings.options["weights"] = str(tmp_path / "w.json")
    with pytest.raises(UniresError, match="can't be read"):
        settings.data()
    (tmp_path / "w.json").write_text("{}")
    first = settings.data()
    (tmp_path / "w.json").write_text("[]")
    assert settings.data() != first and settings.data()["model"] == first["model"]


# -- addresses and refusals -------------------------------------------------------------------------------------------


def test_addresses(tmp_path: Path) -> None:
    assert place("gs://bucket/in/") == Bucket("gs://bucket/in")
    assert place(f"file://{tmp_path}") == place(str(tmp_path)) == Folder(str(tmp_path))
    for wrong in ("ftp://host/in", "s3://", "S3 ://x"):
        with pytest.raises(OptionError):
            place(wrong)


def test_refusals(photos: Path, tmp_path: Path, settings: Settings) -> None:
    for target, options, said in (
        (photos, {"engine": "ray"}, "originals"),
        (tmp_path / "out", {"engine": "rai"}, "did you mean 'ray'"),
        (tmp_path / "out", {"engine": "ray", "workers": 0}, "at least one"),
        (tmp_path / "out", {"workers": 2}, "for the engine 'ray'"),
    ):
        with pytest.raises(OptionError, match=said):
            remote.restore_all(str(photos), str(target), settings, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("module", "extra", "words"), [
    ("ray", "ray", ("--engine", "ray")), ("fsspec", "s3", ("s3://bucket/in",)), ("gcsfs", "gs", ("gs://bucket/in",)),
])  # fmt: skip
def test_without_its_extra_a_sentence_names_it(
    photos: Path, tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, module: str, extra: str, words: tuple[str, ...],
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, module, None)
    source = words[0] if len(words) == 1 else str(photos)
    status = main(command(source, tmp_path / "out", tiny_folder, *(words if len(words) > 1 else ())))
    said = capsys.readouterr().err
    assert status == 1 and said.count("\n") == 1 and f"pip install 'unires[{extra}]'" in said


def test_the_package_itself_needs_neither() -> None:
    code = "import sys, unires, unires.jobs.remote; assert not {'ray', 'fsspec', 's3fs'} & set(sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(Path(unires.__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


def test_a_cluster_that_is_not_there(
    photos: Path, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")

    def refuse(**options: Any) -> None:
        raise ConnectionError("Could not find any running Ray instance.\nMore of it.")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(UniresError, match=r"^No Ray cluster .* made: Could not find any running Ray instance\.$"):
        remote.restore_all(str(photos), str(tmp_path / "out"), settings, engine="ray", recursive=True)


def machine(cores: float, gpus: int = 0, alive: bool = True) -> dict[str, Any]:
    return {"Alive": alive, "Resources": {"CPU": cores, "GPU": gpus} if gpus else {"CPU": cores}}


@pytest.mark.parametrize(("cluster", "device", "workers", "shares"), [
    ([machine(8), machine(8), machine(64, alive=False)], "auto", None, (2, 8, 0)),
    ([machine(2)], "auto", 2, (2, 1, 0)),
    ([machine(5), machine(5)], "auto", 3, (3, 2, 0)),  # ten cores among three are three each, but no machine has six
    ([machine(8), machine(2)], "cpu", None, (2, 4, 0)),
    ([machine(16, 4), {"Alive": True, "Resources": {}}], "auto", None, (4, 4, 1)),
    ([machine(16, 4)], "cpu", None, (1, 16, 0)),
    ([machine(16, 1)], "auto", 2, (2, 8, 0)),
])  # fmt: skip
def test_cores_are_shared_out(
    cluster: list[dict[str, Any]], device: str, workers: int | None, shares: tuple[int, int, int]
) -> None:
    assert remote._shares(cluster, device, workers) == shares


def test_too_few_cores() -> None:
    for cluster, workers in (([machine(2)], 3), ([], None)):
        with pytest.raises(UniresError, match="too few"):
            remote._shares(cluster, "auto", workers)
