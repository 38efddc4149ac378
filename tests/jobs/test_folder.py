"""Folders: nothing is done twice, nothing is lost, and a job killed at any moment ends in the same bytes."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from album import command, digests, make_photos
from PIL import Image, TiffImagePlugin

from unires.doors.cli import main
from unires.errors import OptionError, UniresError
from unires.jobs import folder
from unires.jobs.journal import NAME, Journal
from unires.photo import Photo, atomic

SETTINGS = {"weights": "darker"}


def darker(photo: Photo, share: folder.Share) -> Photo:
    share(1.0)
    return photo.with_pixels(photo.pixels * 0.5)


def restore(source: Path, target: Path, **options: object) -> folder.FolderReport:
    items = folder.find(source, target, recursive=True)
    return folder.run(items, target, darker, SETTINGS, **options)  # type: ignore[arg-type]


def test_the_tree_is_mirrored_and_the_originals_stay(photos: Path, tmp_path: Path) -> None:
    before = digests(photos)
    report = restore(photos, tmp_path / "out")
    assert report.count("done") == 7
    assert digests(photos) == before
    assert digests(tmp_path / "out").keys() == before.keys()


def test_without_recursive_inner_folders_are_left(photos: Path, tmp_path: Path) -> None:
    names = [i.name for i in folder.find(photos, tmp_path / "out", recursive=False)]
    assert names and not any("/" in n for n in names)
    chosen = folder.find(photos, tmp_path / "out", recursive=False, include=["*1.jpg"])
    assert [i.name for i in chosen] == ["photo01.jpg"]


def test_what_a_mac_keeps_beside_photos_is_no_photo(photos: Path, tmp_path: Path) -> None:
    (photos / "._photo01.jpg").write_bytes(b"\0\5\x16\7")
    (photos / "inner" / "._photo00.png").write_bytes(b"\0\5\x16\7")
    (photos / ".hidden.png").write_bytes((photos / "photo02.png").read_bytes())
    assert restore(photos, tmp_path / "out").count("done") == 8
    assert list(folder.results(["a/._b.jpg", "a/b.jpg", "a_._b.jpg"], ["*.jpg"], "")) == ["a/b.jpg", "a_._b.jpg"]


def test_a_second_run_does_nothing(photos: Path, tmp_path: Path) -> None:
    restore(photos, tmp_path / "out")
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.png")}
    report = restore(photos, tmp_path / "out")
    assert report.count("skipped") == 7
    assert times == {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.png")}


@pytest.mark.parametrize("harm", ["input", "output", "removed", "settings"])
def test_what_changed_is_done_again(photos: Path, tmp_path: Path, harm: str) -> None:
    out = tmp_path / "out"
    restore(photos, out)
    target = out / "photo02.png"
    good = target.read_bytes()
    if harm == "input":
        Image.new("RGB", (32, 24), "red").save(photos / "photo02.png")
    elif harm == "output":
        target.write_bytes(good[:-20])
    elif harm == "removed":
        target.unlink()
    items = folder.find(photos, out, recursive=True)
    settings = {"weights": "other"} if harm == "settings" else SETTINGS
    report = folder.run(items, out, darker, settings)
    assert report.count("done") == (7 if harm == "settings" else 1)
    assert report.count("failed") == 0
    assert (target.read_bytes() == good) == (harm != "input")


def test_results_of_another_folder_are_not_replaced(photos: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "another"
    make_photos(other, 3)
    Image.new("RGB", (32, 24), "red").save(other / "photo02.png")
    restore(photos, out)
    before = digests(out)
    report = restore(other, out)  # the other two are the same, byte for byte
    assert [(o.name, o.status) for o in report.outcomes] == [
        ("inner/photo00.png", "skipped"), ("photo01.jpg", "skipped"), ("photo02.png", "failed"),
    ]  # fmt: skip
    assert "exists already" in report.outcomes[2].reason
    assert digests(out) == before
    assert restore(other, out, overwrite=True).count("done") == 1
    # now it is the other folder's, and both find that
    assert restore(other, out).count("skipped") == 3
    assert [o.name for o in restore(photos, out).outcomes if o.status == "failed"] == ["photo02.png"]
    # by another way it is the same folder
    (tmp_path / "link").symlink_to(other)
    (out / "photo02.png").write_bytes((out / "photo02.png").read_bytes()[:-300])
    assert restore(tmp_path / "link", out).count("done") == 1


@pytest.mark.parametrize("change", ["input", "settings", "nothing"])
def test_results_that_were_edited_are_not_replaced(photos: Path, tmp_path: Path, change: str) -> None:
    out = tmp_path / "out"
    restore(photos, out)
    Image.new("RGB", (32, 24), "green").save(out / "photo02.png")
    Image.new("RGB", (32, 24), "green").save(
        out / "photo04.png", "TIFF", save_all=True, append_images=[Image.new("RGB", (32, 24), "red")]
    )  # not read by UniRes, but no damage
    (out / "inner/photo06.png").write_bytes(b"my notes")
    before = digests(out)
    if change == "input":
        Image.new("RGB", (32, 24), "red").save(photos / "photo02.png")
    items = folder.find(photos, out, recursive=True)
    settings = {"weights": "other"} if change == "settings" else SETTINGS
    report = folder.run(items, out, darker, settings)
    changed = ["inner/photo06.png", "photo02.png", "photo04.png"]
    assert [o.name for o in report.outcomes if o.status == "failed"] == changed
    assert {o.reason for o in report.outcomes if o.status == "failed"} == {
        f"'{out / name}' exists already and is not overwritten." for name in changed
    }
    assert digests(out) == before
    assert folder.run(items, out, darker, settings, overwrite=True).count("done") == 3


@pytest.mark.parametrize("content", [b"", bytes(1000), b"\x89PNG\r\n\x1a\n"])
def test_results_that_were_damaged_are_done_again(photos: Path, tmp_path: Path, content: bytes) -> None:
    restore(photos, tmp_path / "out")
    before = digests(tmp_path / "out")
    (tmp_path / "out" / "photo02.png").write_bytes(content)
    assert restore(photos, tmp_path / "out").count("done") == 1
    assert digests(tmp_path / "out") == before


def test_a_journal_without_sources_is_gone_on_with(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    restore(photos, out)
    entries = [json.loads(line) for line in (out / NAME).read_bytes().splitlines()]
    for entry in entries:
        assert entry.pop("source").endswith(entry["input"])
    # as older versions wrote it: a line before the work, one after
    old = [{**entry, "output_digest": digest} for entry in entries for digest in ("", entry["output_digest"])]
    (out / NAME).write_text("".join(json.dumps(entry) + "\n" for entry in old))
    Image.new("RGB", (32, 24), "green").save(out / "photo04.png")
    report = folder.run(folder.find(photos, out, recursive=True), out, darker, {"weights": "other"})
    assert [o.name for o in report.outcomes if o.status == "failed"] == ["photo04.png"]
    assert report.count("done") == 6


class Killed(BaseException):
    """As sudden as a kill: nothing catches it."""


@pytest.mark.parametrize("moment", ["_publish", "_sync_folder"])
@pytest.mark.parametrize("again", [False, True])
def test_killed_just_before_and_just_after_a_result_has_its_name(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, again: bool
) -> None:
    def die(*_: object) -> None:
        raise Killed

    out = tmp_path / "out"
    restore(photos, tmp_path / "unbroken")
    if again:  # its own results are replaced by others
        folder.run(folder.find(photos, out, recursive=True), out, darker, {"weights": "other"})
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(atomic, moment, die)
        restore(photos, out)
    report = restore(photos, out)
    assert report.count("failed") == 0 and report.count("done") >= 6
    assert digests(out) == digests(tmp_path / "unbroken")


def test_each_file_is_read_once_where_nothing_is_to_be_done(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unires.jobs import journal

    restore(photos, tmp_path / "out")
    real, digested = journal.digest_of_file, []

    def count(path: Path) -> str:
        digested.append(path)
        return real(path)

    monkeypatch.setattr(journal, "digest_of_file", count)
    monkeypatch.setattr(folder, "digest_of_file", count)
    assert restore(photos, tmp_path / "out").count("skipped") == 7
    assert len(digested) == len(set(digested)) == 14


def test_files_of_others_are_not_replaced(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "photo02.png").write_bytes(b"mine")
    report = restore(photos, out)
    assert (report.count("done"), report.count("failed")) == (6, 1)
    assert (out / "photo02.png").read_bytes() == b"mine"
    assert restore(photos, out, overwrite=True).count("done") == 1


def test_files_of_others_are_not_replaced_in_another_format(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert restore(photos, out).count("done") == 7
    (out / "photo01.png").write_bytes(b"mine")
    items = folder.find(photos, out, recursive=True, extension=".png")
    report = folder.run(items, out, darker, {"format": "PNG"})
    assert [o.name for o in report.outcomes if o.status == "failed"] == ["photo01.jpg"]
    assert (out / "photo01.png").read_bytes() == b"mine"
    assert folder.run(items, out, darker, {"format": "again"}).count("failed") == 1  # its own it does replace


def test_a_folder_that_cannot_be_read(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object) -> list[Path]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(folder, "walk", closed)
    with pytest.raises(UniresError, match="can't be read"):
        folder.find(photos, tmp_path / "out", recursive=True)


def test_an_inner_folder_that_cannot_be_read_is_named_and_the_rest_is_done(
    photos: Path, tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    lost, scan = photos / "inner" / "lost+found", os.scandir
    lost.mkdir()

    def closed(path: Path) -> Any:  # tests may run as root, who may read everything
        if Path(path) == lost:
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", closed)
    said = f"The folder '{lost}' can't be read: permission is denied."
    report = restore(photos, tmp_path / "out")
    assert (report.total, report.count("done"), report.count("failed"), report.folders) == (7, 7, 1, 1)
    assert [o.reason for o in report.outcomes if o.status == "failed"] == [said]
    assert restore(photos, tmp_path / "other", fail_fast=True).count("done") == 0
    for target in (tmp_path / "plain", f"file://{tmp_path}/records"):
        assert main(command(photos, target, tiny_folder)) == 1
        told = capsys.readouterr()
        assert "7 done, 1 failed." in told.out
        assert told.err == f"'inner/lost+found': {said}\nunires: 1 folder could not be read; they are listed above.\n"
    assert main(command(lost.parent, tmp_path / "empty", tiny_folder, "--include", "*.gif")) == 1
    assert "1 folder could not be read" in capsys.readouterr().err
    with pytest.raises(UniresError, match=r"'\S+lost\+found' can't be read: permission is denied\.$"):
        folder.find(lost, tmp_path / "out", recursive=True)


def test_bad_files_are_listed_and_the_rest_is_done(photos: Path, tmp_path: Path) -> None:
    (photos / "empty.png").touch()
    (photos / "text.jpg").write_text("no photo")
    whole = (photos / "photo01.jpg").read_bytes()
    (photos / "short.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "new\nline.png").write_bytes(b"")
    report = restore(photos, tmp_path / "out")
    failed = {o.name: o.reason for o in report.outcomes if o.status == "failed"}
    assert set(failed) == {"empty.png", "text.jpg", "short.jpg", "new\nline.png"}
    assert all(reason and "\n" not in reason for reason in failed.values())
    assert report.count("done") == 7
    assert digests(tmp_path / "out").keys() == digests(photos).keys() - set(failed)


PIPES = """
import os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_folder import restore
source, target = Path({source!r}), Path({target!r})
for names in (["pipe.png"], ["photo02.png", "pipe.png"]):
    report = restore(source, target)
    failed = {{o.name: o.reason for o in report.outcomes if o.status == "failed"}}
    assert list(failed) == names and failed["pipe.png"] == f"'{{source / 'pipe.png'}}' is not a regular file."
    if len(names) == 1:
        (target / "photo02.png").unlink()
        os.mkfifo(target / "photo02.png")
"""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_named_pipes_are_not_waited_for(photos: Path, tmp_path: Path) -> None:
    os.mkfifo(photos / "pipe.png")
    code = PIPES.format(tests=str(Path(__file__).parent), source=str(photos), target=str(tmp_path / "out"))
    helpers = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    # a process of its own, as a thread that waits for a pipe can't be stopped
    job = subprocess.run([sys.executable, "-c", code], env={**os.environ, **helpers}, timeout=60, check=False)
    assert job.returncode == 0


def test_fail_fast_stops(photos: Path, tmp_path: Path) -> None:
    (photos / "a-bad.png").touch()
    report = restore(photos, tmp_path / "out", fail_fast=True)
    assert report.count("failed") == 1 and report.count("done") == 0


def test_fail_fast_stops_where_results_cannot_be_written(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise UniresError("No space is left.")

    monkeypatch.setattr(folder, "write_photo", full)
    report = restore(photos, tmp_path / "out", fail_fast=True)
    assert 1 <= report.count("failed") <= 2 and report.count("done") == 0  # one is restored while one is written


def test_a_photo_that_its_format_has_no_room_for_is_one_failure(photos: Path, tmp_path: Path) -> None:
    most = TiffImagePlugin.IFDRational(2**32 - 1)  # pixels a centimetre; in inches they are more
    with Image.open(photos / "photo02.png") as image:
        image.save(photos / "absurd.tif", tiffinfo={282: most, 283: most, 296: 3})
    report = restore(photos, tmp_path / "out")
    (failed,) = [o for o in report.outcomes if o.status == "failed"]
    assert failed.name == "absurd.tif" and "cannot be written: the photo carries a number" in failed.reason
    assert report.count("done") == 7


def test_a_dry_run_writes_nothing(photos: Path, tmp_path: Path) -> None:
    report = restore(photos, tmp_path / "out", dry_run=True)
    assert report.count("planned") == 7 and not (tmp_path / "out").exists()


def test_a_dry_run_says_which_results_exist_already(
    photos: Path, tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for target in (tmp_path / "plain", f"file://{tmp_path}/records"):
        out = Path(str(target).removeprefix("file://"))
        words = command(photos, target, tiny_folder)
        out.mkdir()
        (out / "photo02.png").write_bytes(b"mine")
        assert main([*words, "--dry-run"]) == 1
        told = capsys.readouterr()
        assert told.out.count("': planned\n") == 6 and "1 failed, 6 planned." in told.out
        assert told.err.startswith("'photo02.png': ") and "exists already and is not overwritten." in told.err
        assert told.err.endswith("unires: 1 of 7 photos would not be restored; they are listed above.\n")
        assert main([*words, "--dry-run", "--overwrite"]) == 0
        assert "7 planned." in capsys.readouterr().out
        assert main([*words, "--overwrite"]) == 0
        (out / "photo01.jpg").unlink()
        (out / "photo02.png").write_bytes((out / "photo02.png").read_bytes()[:-300])  # damaged: it would be done again
        shutil.copy(photos / "photo04.png", out / "photo04.png")  # no longer its own
        assert main([*words, "--dry-run"]) == 1
        assert "4 skipped, 1 failed, 2 planned." in capsys.readouterr().out
        assert main(words) == 1
        assert "2 done, 4 skipped, 1 failed." in capsys.readouterr().out


def test_odd_names_are_told_in_one_line(
    photos: Path, tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / os.fsdecode(b"caf\xe9\n\x1b[2J.png")).write_bytes((photos / "photo02.png").read_bytes())
    (photos / "new\nline.png").touch()
    words = command(photos, tmp_path / "out", tiny_folder)
    assert main([*words, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert said.count("\n") == 10 and "\x1b" not in said and "'caf\\udce9\\n\\x1b[2J.png': planned\n" in said
    assert main(words) == 1
    assert capsys.readouterr().err.startswith("'new\\nline.png': ")


def test_links_lead_nowhere(photos: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    out = tmp_path / "out"
    out.mkdir()
    (out / "inner").symlink_to(elsewhere)
    (photos / "loop").symlink_to(photos)
    report = restore(photos, out)
    assert {o.name.startswith("inner/") for o in report.outcomes if o.status == "failed"} == {True}
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("way", ["plain", "file", "link", "linked photo", "case"])
def test_a_result_never_goes_where_a_photo_lies(
    photos: Path, tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, way: str,
) -> None:  # fmt: skip
    source, target = tmp_path / "n" / "in", tmp_path / "n"
    (source / "in").mkdir(parents=True)
    for path in (source / "x.png", source / "in" / "x.png"):
        path.write_bytes((photos / "photo02.png").read_bytes())
    if way == "link":
        (tmp_path / "link").symlink_to(target)
        target = tmp_path / "link"
    elif way == "linked photo":  # what a link among the photos leads to is read
        source.joinpath("in", "x.png").rename(target / "y.png")
        (source / "y.png").symlink_to(target / "y.png")
    elif way == "case":  # on a Mac, or Windows
        source.joinpath("in", "x.png").rename(source / "in" / "X.PNG")
        monkeypatch.setattr(Path, "samefile", lambda self, other: str(self).lower() == str(other).lower())
    before = digests(tmp_path / "n")
    words = command(source, f"file://{target}" if way == "file" else target, tiny_folder, "--overwrite")
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.endswith(", and originals are never written over.\n")
    assert digests(tmp_path / "n") == before


def test_refusals(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="originals"):
        folder.find(photos, photos, recursive=False)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UniresError, match="no photo"):
        folder.find(tmp_path / "nothing", tmp_path / "out", recursive=True)
    with pytest.raises(UniresError, match="no folder"):
        folder.find(tmp_path / "absent", tmp_path / "out", recursive=True)
    (photos / "photo01.png").write_bytes((photos / "photo02.png").read_bytes())
    with pytest.raises(UniresError, match="both"):
        folder.find(photos, tmp_path / "out", recursive=True, extension=".png")


def test_a_journal_cut_short_is_read_up_to_there(photos: Path, tmp_path: Path) -> None:
    restore(photos, tmp_path / "out")
    path = tmp_path / "out" / NAME
    lines = path.read_bytes()
    path.write_bytes(lines[:-30])
    assert len(Journal(tmp_path / "out").entries) == 6
    report = restore(photos, tmp_path / "out")  # a result without its line may be another's
    assert (report.count("skipped"), report.count("failed")) == (6, 1)
    (tmp_path / "out" / json.loads(lines.splitlines()[-1])["output"]).unlink()
    assert restore(photos, tmp_path / "out").count("done") == 1
    assert all(json.loads(line) for line in path.read_bytes().splitlines() if line.endswith(b"}"))


def test_what_a_killed_job_was_writing_is_swept_up(photos: Path, tmp_path: Path) -> None:
    restore(photos, tmp_path / "out")
    (tmp_path / "out" / "inner" / ".unires-0123456789abcdef.part").write_bytes(b"half")
    restore(photos, tmp_path / "out")
    assert digests(tmp_path / "out").keys() == digests(photos).keys()


WRITER = """
import sys
from pathlib import Path
from unires.photo.atomic import write_atomically
def slowly(file):
    file.write(b"half, ")
    file.flush()
    print("writing", flush=True)
    sys.stdin.readline()
    file.write(b"whole")
write_atomically(Path(sys.argv[1]), slowly)
"""


def test_what_another_process_is_writing_is_not_swept_up(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    out = tmp_path / "out"
    restore(photos, out)
    helpers = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    words = [sys.executable, "-c", WRITER, str(out / "another.txt")]
    writer = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **helpers})
    assert writer.stdout is not None and writer.stdout.readline()
    (out / ".unires-0123456789abcdef.part").write_bytes(b"of a killed process")
    folder.sweep([out])
    assert len(list(out.glob(".unires-*.part"))) == 1
    writer.communicate(b"\n", timeout=60)
    assert writer.returncode == 0 and (out / "another.txt").read_bytes() == b"half, whole"
    assert not list(out.glob(".unires-*.part"))


def test_two_jobs_at_once_are_refused(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with Journal(tmp_path / "out").held(), pytest.raises(UniresError, match="Another job"):
        restore(photos, tmp_path / "out")


JOB = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_folder import SETTINGS, darker
from unires.jobs import folder
def slow(photo, share):
    time.sleep(0.01)
    return darker(photo, share)
source, target = Path({source!r}), Path({target!r})
print("ready", flush=True)
report = folder.run(folder.find(source, target, recursive=True), target, slow, SETTINGS)
sys.exit(report.count("failed"))
"""


def test_killed_and_resumed_it_ends_in_the_same_bytes(tmp_path: Path) -> None:
    source = tmp_path / "in"
    make_photos(source, 24)
    restore(source, tmp_path / "unbroken")
    dice = random.Random(1)
    here = str(Path(__file__).parent)
    for attempt in range(4):
        target = tmp_path / f"broken{attempt}"
        code = JOB.format(tests=here, source=str(source), target=str(target))
        helpers = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        job = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, **helpers})
        assert job.stdout is not None and job.stdout.readline()
        time.sleep(dice.uniform(0.02, 0.4))
        job.send_signal(signal.SIGKILL)
        job.wait()
        job.stdout.close()
        report = restore(source, target)
        assert report.count("failed") == 0
        assert digests(target) == digests(tmp_path / "unbroken")
