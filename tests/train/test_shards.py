"""Streams of photos: shards, lanes, places, and what is skipped."""

from __future__ import annotations

import io
import tarfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unires.errors import UniresError
from unires.train.shards import Lane, files, sources


def png(value: int, side: int = 24) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(out, "png")
    return out.getvalue()


def shard(path: Path, values: list[int]) -> Path:
    with tarfile.open(path, "w") as tar:
        for value in values:
            for suffix, content in ((".png", png(value)), (".json", b"{}")):
                member = tarfile.TarInfo(f"{value:04}{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def three(tmp_path: Path) -> list[str]:
    return [str(shard(tmp_path / f"{i}.tar", [10 * i + k for k in range(3)])) for i in range(3)]


def values(lane: Lane, count: int) -> list[int]:
    return [round(float(photo.mean()) * 255) for photo, _ in islice(lane, count)]


def test_names(tmp_path: Path, three: list[str]) -> None:
    assert sources([str(tmp_path / "{0..2}.tar")]) == three
    assert [n.removeprefix("file://") for n in sources([str(tmp_path / "*.tar")])] == three
    assert sources(["s3://b/{08..11}.tar"]) == [f"s3://b/{n}.tar" for n in ("08", "09", "10", "11")]
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(png(1))
    assert sources([str(tmp_path / "photos")]) == [str(tmp_path / "photos" / "a.png")]
    for nothing in ([], [str(tmp_path / "*.zip")]):
        with pytest.raises(UniresError):
            sources(nothing)


def test_a_lane_visits_everything_in_an_order_of_its_own(three: list[str]) -> None:
    seen = [values(Lane(three, 0, lane, 8, pytest.fail), 9) for lane in range(6)]
    assert all(sorted(order) == [0, 1, 2, 10, 11, 12, 20, 21, 22] for order in seen)
    assert len({tuple(order) for order in seen}) > 1
    assert seen[0] == values(Lane(three, 0, 0, 8, pytest.fail), 9)


def test_lanes_that_meet_in_a_shard_take_other_photos(tmp_path: Path) -> None:
    names = [str(shard(tmp_path / f"{i}.tar", list(range(20 * i, 20 * i + 12)))) for i in range(2)]
    lanes = [values(Lane(names, 0, lane, 8, pytest.fail, (0, 0), 6), 24) for lane in range(12)]
    for step in range(24):
        assert len({lane[step] for lane in lanes}) >= 8
    assert all(len(set(lane)) == 24 for lane in lanes)  # in time each sees all
    whole = list(islice(Lane(names, 1, 3, 8, pytest.fail, (0, 0), 6), 12))
    assert values(Lane(names, 1, 3, 8, pytest.fail, whole[4][1], 6), 7) == [
        round(float(photo.mean()) * 255) for photo, _ in whole[5:]
    ]


def test_an_address_that_a_package_is_missing_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_(*_: object) -> None:
        raise ImportError("Install s3fs to access S3.")

    monkeypatch.setattr("fsspec.open", open_)
    with pytest.raises(UniresError, match="can't be reached: Install s3fs"):
        values(Lane(["s3://b/a.tar"], 0, 0, 8, pytest.fail), 1)


def test_a_lane_goes_on_where_it_was(three: list[str]) -> None:
    whole = list(islice(Lane(three, 1, 0, 8, pytest.fail), 20))
    for stop in (1, 3, 10):
        rest = values(Lane(three, 1, 0, 8, pytest.fail, whole[stop - 1][1]), 20 - stop)
        assert rest == [round(float(photo.mean()) * 255) for photo, _ in whole[stop:]]


def test_what_is_broken_is_reported_and_skipped(tmp_path: Path, three: list[str]) -> None:
    Path(three[0]).unlink()
    for at in (700, 1024, 2 * 1024 + 700):  # within a file, within its padding, at a header
        whole = shard(tmp_path / "cut.tar", [77, 78]).read_bytes()
        (tmp_path / "cut.tar").write_bytes(whole[:at])
        said: list[str] = []
        names = [*three, str(tmp_path / "cut.tar")]
        got = values(Lane(names, 0, 0, 8, said.append), 12)
        assert {10, 11, 12, 20, 21, 22} <= set(got)
        assert any("0.tar" in line and "skipped" in line for line in said), said
        assert any("cut.tar" in line for line in said), (at, said)


def test_files_that_are_no_photos_or_too_small(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no photo")
    (tmp_path / "b.png").write_bytes(png(5, side=4))
    (tmp_path / "c.png").write_bytes(png(6))
    said: list[str] = []
    assert values(Lane(sources([str(tmp_path)]), 0, 0, 8, said.append), 2) == [6, 6]
    assert any("a.png" in line for line in said) and any("b.png" in line and "under 8 pixels" in line for line in said)
    with pytest.raises(UniresError, match="No photo of the data can be used"):
        values(Lane([str(tmp_path / "a.png"), str(tmp_path / "none.tar")], 0, 0, 8, said.append), 1)


def test_only_photos_are_taken(tmp_path: Path) -> None:
    assert [name for name, _ in files(str(shard(tmp_path / "a.tar", [3, 4])))] == ["0003.png", "0004.png"]
