"""Buckets and clusters as they are used: an S3 server on loopback, Ray on this machine, workers that are killed."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from album import ENCODE, command, digests, make_photos

import unires
from unires.doors.cli import main
from unires.errors import UniresError
from unires.jobs import remote
from unires.jobs.journal import RECORDS
from unires.jobs.places import Folder
from unires.jobs.settings import Settings

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
    assert said.err.startswith("'bad.png': 's3://album/in/bad.png' is not a picture")
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
