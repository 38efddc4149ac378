"""Buckets and clusters: the same bytes as from folder to folder, whoever dies in between."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import unires
from unires.doors.cli import main
from unires.errors import OptionError, UniresError
from unires.jobs import folder, remote
from unires.jobs.journal import NAME, RECORDS
from unires.jobs.places import Bucket, Folder, place
from unires.jobs.settings import Settings
from unires.photo import Photo

ENCODE = {"format": None, "quality": None, "bit_depth": None}


def make_photos(where: Path, count: int, height: int = 24, width: int = 32) -> None:
    dice = np.random.default_rng(0)
    for i in range(count):
        path = where / ("inner" if i % 3 == 0 else ".") / f"photo{i:02}{('.png', '.jpg')[i % 2]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(dice.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)


def digests(where: Path) -> dict[str, str]:
    files = {p.relative_to(where).as_posix(): p for p in sorted(where.rglob("*")) if p.is_file()}
    return {
        name: hashlib.sha256(p.read_bytes()).hexdigest()
        for name, p in files.items()
        if name != NAME and not name.startswith(RECORDS)
    }


def command(source: object, target: object, model: Path, *words: str) -> list[str]:
    plain = ["restore", str(source), "-o", str(target), "--model", str(model), "--device", "cpu", "--recursive"]
    return [*plain, "--weights", "keep=0.5,denoise=0.5", *words]


@pytest.fixture
def settings(tiny_folder: Path) -> Settings:
    options = {"weights": "denoise", "steps": None, "fidelity": None, "scale": 1, "seed": 0}
    return Settings(str(tiny_folder), "cpu", 1, options, ENCODE)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    make_photos(tmp_path / "in", 7)
    return tmp_path / "in"


def run(source: Path, target: Path, settings: Settings, **options: Any) -> folder.FolderReport:
    """By the way that buckets take, though both are folders."""
    return remote.run(Folder(str(source)), Folder(str(target)), settings, engine="local", recursive=True, **options)


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


def test_bad_photos_are_listed_and_the_rest_is_done(photos: Path, tmp_path: Path, settings: Settings) -> None:
    (photos / "empty.png").touch()
    (photos / "short.jpg").write_bytes((photos / "photo01.jpg").read_bytes()[:300])
    report = run(photos, tmp_path / "out", settings)
    assert {o.name for o in report.outcomes if o.status == "failed"} == {"empty.png", "short.jpg"}
    assert report.count("done") == 7 and report.total == 9
    stopped = run(photos, tmp_path / "other", settings, fail_fast=True)
    assert stopped.count("failed") == 1 and stopped.total == 9 and len(stopped.outcomes) < 9


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


def test_names_that_lead_out_are_refused(photos: Path, tmp_path: Path, settings: Settings) -> None:
    job = remote.Job(Folder(str(photos)), Folder(str(tmp_path / "deep" / "out")), "settings", ENCODE, "this run")
    for name in ("../../x.png", "a//x.png", "./x.png", "/x.png"):
        outcome = job.one(remote.Item(name, "stamp", name), settings.load())
        assert outcome.status == "failed" and "no possible name" in outcome.reason
    assert not (tmp_path / "x.png").exists() and not (tmp_path / "deep").exists()


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


# -- an S3 server -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """A file system on an S3 server on loopback, which has a bucket `album`."""
    fsspec = pytest.importorskip("fsspec")
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    told = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in told.items():
            patch.setenv(name, value)
        files = fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True)
        files.mkdir("album")
        yield files
    server.stop()


def uploaded(s3: Any, source: Path, where: str) -> str:
    for path in source.rglob("*"):
        if path.is_file():
            s3.pipe_file(f"{where}/{path.relative_to(source).as_posix()}", path.read_bytes())
    return f"s3://{where}"


def downloaded(s3: Any, where: str) -> dict[str, str]:
    names = {path[len(where) + 1 :]: path for path in s3.find(where)}
    return {
        name: hashlib.sha256(s3.cat_file(path)).hexdigest()
        for name, path in names.items()
        if not name.startswith(RECORDS)
    }


def test_from_bucket_to_bucket(
    s3: Any, photos: Path, tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str],
    figure: Callable[[str], None],
) -> None:  # fmt: skip
    source = uploaded(s3, photos, "album/in")
    s3.pipe_file("album/inside/photo99.png", b"a neighbour, whose name begins the same")
    assert main(command(photos, tmp_path / "plain", tiny_folder)) == 0
    words = command(source, "s3://album/out", tiny_folder)
    assert main(words) == 0
    assert downloaded(s3, "album/out") == digests(tmp_path / "plain")
    times = {path: facts["LastModified"] for path, facts in s3.find("album/out", detail=True).items()}
    assert main(words) == 0
    assert "7 skipped." in capsys.readouterr().out
    assert times == {path: facts["LastModified"] for path, facts in s3.find("album/out", detail=True).items()}

    s3.pipe_file("album/out/photo02.png", b"harmed")
    s3.pipe_file("album/in/photo04.png", s3.cat_file("album/in/photo02.png"))
    s3.pipe_file("album/in/bad.png", b"no photo")
    assert main(words) == 1
    said = capsys.readouterr()
    assert "2 done, 5 skipped, 1 failed." in said.out
    assert said.err.startswith("bad.png: 's3://album/in/bad.png' is not a picture")
    assert downloaded(s3, "album/out")["photo02.png"] == digests(tmp_path / "plain")["photo02.png"]
    figure("7 photos, a server on loopback: each byte the same; run again 7 are skipped, with 2 changed these are done")


def test_from_bucket_to_folder_and_back(s3: Any, photos: Path, tmp_path: Path, tiny_folder: Path) -> None:
    source = uploaded(s3, photos, "album/there")
    assert main(command(source, tmp_path / "out", tiny_folder)) == 0
    assert main(command(photos, "s3://album/back", tiny_folder)) == 0
    assert downloaded(s3, "album/back") == digests(tmp_path / "out")
    # results below the photos are not restored once more
    inner = [*command("s3://album/back", "s3://album/back/again", tiny_folder)]
    assert main(inner) == 0 and main(inner) == 0
    assert downloaded(s3, "album/back/again").keys() == digests(photos).keys()
    flat = [word for word in command("s3://album/there", "s3://album/flat", tiny_folder) if word != "--recursive"]
    assert main(flat) == 0 and set(downloaded(s3, "album/flat")) == {p.name for p in photos.iterdir() if p.is_file()}


def test_what_a_bucket_refuses(
    s3: Any, photos: Path, tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uploaded(s3, photos, "album/here")
    for source, target, word in (
        ("s3://nowhere/in", "s3://album/x", "nowhere"),
        ("s3://album/absent", "s3://album/x", "album/absent"),
        ("s3://album/here", "s3://nowhere/out", "nowhere/out"),
    ):
        assert main(command(source, target, tiny_folder)) == 1
        said = capsys.readouterr().err
        assert word in said and "Traceback" not in said
    s3.pipe_file("album/odd/a/../../../x.png", (photos / "photo02.png").read_bytes())
    assert main(command("s3://album/odd", tmp_path / "deep" / "out", tiny_folder)) == 1
    assert not list(tmp_path.rglob("x.png"))


# -- a cluster --------------------------------------------------------------------------------------------------------


def workers_of(process: int) -> list[int]:
    """Processes that restore, started by `process` or by what it started."""
    parents, found = {}, []
    for place_ in Path("/proc").iterdir():
        try:
            if place_.name.isdigit():
                parents[int(place_.name)] = int((place_ / "stat").read_text().rpartition(")")[2].split()[1])
                if b"MapWorker" in (place_ / "cmdline").read_bytes():
                    found.append(int(place_.name))
        except OSError:  # it has ended
            continue

    def ours(child: int) -> bool:
        return child == process or (child in parents and child > 1 and ours(parents[child]))

    return [child for child in found if ours(child)]


@pytest.fixture(scope="module")
def cluster(s3: Any) -> Iterator[Any]:
    """Two cores of this machine as a cluster."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("workers are found through /proc")
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_raylet_start_wait_time_s", "300")  # of a machine that is busy with other things
        patch.setenv("PYTHONPATH", str(Path(unires.__file__).parents[1]))
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield ray
        ray.shutdown()


def killed_at(least: int, words: list[str], count: Callable[[], int]) -> int:
    """Run the command line, and kill a worker as soon as `count` tells of `least` results; how many there were then."""
    killed: list[int] = []
    over = threading.Event()

    def kill() -> None:
        while not over.is_set():
            found, there = workers_of(os.getpid()), count()
            if found and there >= least:
                os.kill(found[0], signal.SIGKILL)
                killed.append(there)
                return
            time.sleep(0.3)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        assert main(words) == 0
    finally:
        over.set()
        killer.join()
    return killed[0] if killed else -1


@pytest.mark.soak
def test_a_worker_of_a_cluster_is_killed(
    cluster: Any, s3: Any, tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str],
    figure: Callable[[str], None],
) -> None:  # fmt: skip
    count, source = 24, tmp_path / "in"
    make_photos(source, count, 240, 320)
    assert main(command(source, tmp_path / "plain", tiny_folder)) == 0
    expected = digests(tmp_path / "plain")

    def survives(words: list[str], names: Callable[[], Sequence[str]], results: Callable[[], dict[str, str]]) -> str:
        def there_are() -> int:
            return sum("photo" in Path(name).name for name in names())

        words = [*words, "--engine", "ray", "--workers", "2"]
        capsys.readouterr()
        there = killed_at(4, words, there_are)
        assert 4 <= there < count, "it was over before the kill"
        assert f"{count} done." in capsys.readouterr().out
        assert results() == expected
        assert main(words) == 0
        assert f"{count} skipped." in capsys.readouterr().out
        assert results() == expected
        return f"one killed after {there} of {count} photos"

    out = tmp_path / "out"
    words = command(source, out, tiny_folder)
    first = survives(words, lambda: list(map(str, out.rglob("photo*"))), lambda: digests(out))
    assert not list(out.rglob("*.part"))
    bucket = uploaded(s3, source, "album/cluster/in")
    words = command(bucket, "s3://album/cluster/out", tiny_folder)
    second = survives(words, lambda: s3.find("album/cluster/out"), lambda: downloaded(s3, "album/cluster/out"))
    figure(f"folders: {first}; S3: {second}; each byte as by one process, and run again all are skipped")


@pytest.mark.soak
def test_a_cluster_lists_what_is_bad(
    cluster: Any, photos: Path, tmp_path: Path, tiny_folder: Path, settings: Settings,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (photos / "bad\nname.png").write_bytes(b"no photo")
    (photos / os.fsdecode(b"caf\xe9.png")).write_bytes((photos / "photo02.png").read_bytes())
    report = tmp_path / "report.json"
    words = command(photos, tmp_path / "out", tiny_folder, "--engine", "ray", "--report", str(report))
    assert main(words) == 1
    assert "1 of 9 photos could not be restored" in capsys.readouterr().err
    assert json.loads(report.read_text())["counts"] == {"done": 8, "skipped": 0, "failed": 1, "planned": 0}
    assert main([*words, "--fail-fast"]) == 1
    assert main([*words, "--workers", "3"]) == 1
    assert "too few" in capsys.readouterr().err


@pytest.mark.soak
def test_a_worker_with_another_model_ends_the_job(
    cluster: Any, photos: Path, tmp_path: Path, settings: Settings
) -> None:
    job = remote.Job(Folder(str(photos)), Folder(str(tmp_path / "out")), "of another", ENCODE, "this run")
    with pytest.raises(UniresError, match=r"^The Ray cluster can't do the job: A worker's model is not the one"):
        list(remote._by_ray(job, [remote.Item("photo01.jpg", "", "photo01.jpg")], settings, 1))
