"""Bad luck while writing leaves nothing behind, and nothing is written over."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unires.errors import OptionError, PhotoError
from unires.photo import Photo, check_output, read_photo, write_photo
from unires.photo import atomic as atomic_module
from unires.photo import encode as encode_module

ALL = ["jpg", "png", "webp", "tif", "avif"]


@pytest.fixture
def photo() -> Photo:
    rng = np.random.default_rng(0)
    return Photo(rng.integers(0, 256, (20, 30, 3)).astype(np.uint8))


def test_impossible_names(tmp_path: Path, photo: Photo) -> None:
    for name, word in (("a\0b.png", "no possible"), ("x" * 300 + ".png", "too long")):
        for act in (lambda path: write_photo(photo, path), read_photo):
            with pytest.raises(PhotoError, match=word):
                act(tmp_path / name)


@pytest.mark.parametrize(
    "name", ["new\nline.png", "\U0001f3d6 é.png", "-n.png", "x" * 251 + ".png", " .png", "\udcff.png"]
)
def test_odd_names_are_just_names(tmp_path: Path, photo: Photo, name: str) -> None:
    write_photo(photo, tmp_path / name)
    assert np.array_equal(read_photo(tmp_path / name).pixels, photo.pixels)
    with pytest.raises(PhotoError) as caught:
        write_photo(photo, tmp_path / name)
    assert "\n" not in str(caught.value)
    str(caught.value).encode()  # can be printed anywhere


def test_nothing_is_overwritten_unless_asked(tmp_path: Path, photo: Photo) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(b"precious")
    with pytest.raises(PhotoError, match="exists already"):
        write_photo(photo, path)
    with pytest.raises(PhotoError, match="exists already"):
        check_output(photo, path)
    assert path.read_bytes() == b"precious"
    check_output(photo, path, overwrite=True)
    write_photo(photo, path, overwrite=True)
    assert read_photo(path).width == 30


@pytest.mark.parametrize("links", [True, False])
def test_a_name_taken_in_the_meantime_is_not_overwritten(
    tmp_path: Path, photo: Photo, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    path = tmp_path / "photo.png"
    real = os.fsync

    def meanwhile(handle: int) -> None:
        path.write_bytes(b"another program's")
        real(handle)

    def no_links(*_: Any) -> None:
        raise OSError(errno.EPERM, "no hard links")

    monkeypatch.setattr(atomic_module.os, "fsync", meanwhile)
    if not links:
        monkeypatch.setattr(atomic_module.os, "link", no_links)
    with pytest.raises(PhotoError, match="exists already"):
        write_photo(photo, path)
    assert path.read_bytes() == b"another program's"


def test_file_systems_without_links(tmp_path: Path, photo: Photo, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: Any) -> None:
        raise OSError(errno.EPERM, "no hard links")

    monkeypatch.setattr(atomic_module.os, "link", no_links)
    write_photo(photo, tmp_path / "photo.png")
    assert [p.name for p in tmp_path.iterdir()] == ["photo.png"]


def test_links_are_replaced_and_never_followed(tmp_path: Path, photo: Photo) -> None:
    outside = tmp_path / "outside.png"
    outside.write_bytes(b"precious")
    link = tmp_path / "link.png"
    link.symlink_to(outside)
    with pytest.raises(PhotoError, match="exists already"):
        write_photo(photo, link)
    write_photo(photo, link, overwrite=True)
    assert outside.read_bytes() == b"precious" and not link.is_symlink()
    dangling = tmp_path / "dangling.png"
    dangling.symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(PhotoError, match="exists already"):
        write_photo(photo, dangling)
    assert not (tmp_path / "nowhere.png").exists()


@pytest.mark.parametrize(
    "code, word",
    [
        (errno.ENOSPC, "no space"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "may not be written"),
        (errno.EIO, "disk"),
    ],
)
@pytest.mark.parametrize("call", ["open", "fsync"])
def test_what_the_file_system_refuses(
    tmp_path: Path, photo: Photo, monkeypatch: pytest.MonkeyPatch, code: int, word: str, call: str
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(atomic_module.os, call, refuse)
    with pytest.raises(PhotoError, match=word):
        write_photo(photo, tmp_path / "photo.png")
    monkeypatch.undo()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ALL)
def test_a_full_disk(tmp_path: Path, name: str) -> None:
    resource = pytest.importorskip("resource")
    assert resource
    script = f"""
import resource, sys
import numpy as np
from unires.errors import PhotoError
from unires.photo import Photo, write_photo
photo = Photo(np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8))
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
try:
    write_photo(photo, {str(tmp_path / f"photo.{name}")!r})
except PhotoError as error:
    print(error)
    sys.exit(3)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 3, run.stderr
    assert "larger than" in run.stdout and run.stdout.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_temporary_file_swept_up_before_it_is_locked(
    tmp_path: Path, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")
    lock, swept = fcntl.flock, []

    def meanwhile(handle: int, how: int) -> None:
        if not swept:
            swept.append(how)
            atomic_module.sweep(tmp_path)
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", meanwhile)
    write_photo(photo, tmp_path / "photo.png")
    assert swept and [p.name for p in tmp_path.iterdir()] == ["photo.png"]


def test_without_locks_files_are_written_and_swept_up_too(
    tmp_path: Path, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)  # as on Windows
    (tmp_path / ".unires-0123456789abcdef.part").write_bytes(b"half")
    write_photo(photo, tmp_path / "photo.png")
    atomic_module.sweep(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["photo.png"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("name", ["png", "tif"])
def test_interrupted_at_any_moment(
    tmp_path: Path, photo: Photo, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], name: str
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise error

    for module, call in (
        (atomic_module.os, "fsync"),
        (atomic_module.os, "link"),
        (encode_module.tiff, "_add_tables"),
        (encode_module.png, "with_metadata"),
    ):
        if (call == "_add_tables" and name == "png") or (call == "with_metadata" and name == "tif"):
            continue
        with monkeypatch.context() as patch:
            patch.setattr(module, call, stop)
            with pytest.raises(error):
                write_photo(photo, tmp_path / f"photo.{name}")
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ALL)
def test_a_faulty_disk_is_noticed(tmp_path: Path, photo: Photo, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    real = os.fsync

    def spoil(handle: int) -> None:
        real(handle)
        os.ftruncate(handle, os.fstat(handle).st_size * 2 // 3)

    monkeypatch.setattr(atomic_module.os, "fsync", spoil)
    with pytest.raises(PhotoError, match="not written correctly"):
        write_photo(photo, tmp_path / f"photo.{name}")
    assert not list(tmp_path.iterdir())


def test_one_wrong_bit_in_a_lossless_file_is_noticed(
    tmp_path: Path, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def spoil(handle: int) -> None:
        byte = os.pread(handle, 1, 300)
        os.pwrite(handle, bytes((byte[0] ^ 1,)), 300)
        real(handle)

    monkeypatch.setattr(atomic_module.os, "fsync", spoil)
    uncompressed = photo.replace(format="TIFF", encoding=photo.encoding.__class__(compression="none"))
    with pytest.raises(PhotoError, match="not written correctly"):
        write_photo(uncompressed, tmp_path / "photo.tif")


@pytest.mark.parametrize("name", ["jpg", "png", "tif"])
@pytest.mark.parametrize("dpi", [1e11, -5.0, float("nan"), float("inf")])
def test_numbers_that_a_format_has_no_room_for(tmp_path: Path, photo: Photo, name: str, dpi: float) -> None:
    path = tmp_path / f"photo.{name}"
    try:
        write_photo(photo.replace(dpi=(dpi, dpi)), path)
    except PhotoError as error:
        assert str(error).startswith(f"'{path}' cannot be written: ") and str(error).endswith(".")
        assert not list(tmp_path.iterdir())
    else:  # left out, or the nearest that there is room for
        assert name != "tif" and read_photo(path).width == 30


@pytest.mark.parametrize("kind", [OSError, SyntaxError, RuntimeError, ValueError])
@pytest.mark.parametrize("where", ["filler", "file"])
def test_what_encoders_raise_is_one_sentence(
    tmp_path: Path, photo: Photo, monkeypatch: pytest.MonkeyPatch, kind: type[Exception], where: str
) -> None:
    def refuse(*_: Any) -> None:
        raise kind("encoder error -2,\nwhile writing.")

    if where == "filler":
        monkeypatch.setattr(encode_module, "filler", refuse)
    else:  # as of tifffile, "data too large for non-BigTIFF file"
        monkeypatch.setattr(encode_module.tiff, "encode", refuse)
    told = "oserror" if where == "file" and kind is OSError else "encoder error -2, while writing"
    with pytest.raises(PhotoError, match=rf"cannot be written: {told}\.$"):
        write_photo(photo, tmp_path / "photo.tif")
    assert not list(tmp_path.iterdir())


def test_folders_that_are_none(tmp_path: Path, photo: Photo) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "folder.png").mkdir()
    for path, word in (
        (tmp_path / "none" / "photo.png", "no such folder"),
        (tmp_path / "file" / "photo.png", "is a file"),
    ):
        for act in (write_photo, check_output):
            with pytest.raises(PhotoError, match=word):
                act(photo, path)
    with pytest.raises(PhotoError, match="exists already"):
        write_photo(photo, tmp_path / "folder.png")
    for act in (write_photo, check_output):
        with pytest.raises(PhotoError, match="folder of that name"):
            act(photo, tmp_path / "folder.png", overwrite=True)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_may_not_be_written_to(tmp_path: Path, photo: Photo) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(0o500)
    for act in (write_photo, check_output):
        with pytest.raises(PhotoError, match="may not be written to"):
            act(photo, folder / "photo.png")
    folder.chmod(0o700)


def test_new_files_have_the_usual_permissions(tmp_path: Path, photo: Photo) -> None:
    write_photo(photo, tmp_path / "photo.png")
    (tmp_path / "other").write_bytes(b"")
    assert (tmp_path / "photo.png").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_outputs_that_cannot_hold_the_photo(tmp_path: Path, photo: Photo) -> None:
    half = photo.replace(alpha=np.full((20, 30), 128, np.uint8))
    with pytest.raises(PhotoError, match="transparent"):
        write_photo(half, tmp_path / "photo.jpg")
    write_photo(photo.replace(alpha=np.full((20, 30), 255, np.uint8)), tmp_path / "photo.jpg")
    for name in ("jpg", "webp", "avif"):
        with pytest.raises(PhotoError, match="16 bits"):
            write_photo(photo, tmp_path / f"deep.{name}", bit_depth=16)
    with pytest.raises(PhotoError, match="at most 16,383"):
        check_output(photo, tmp_path / "large.webp", size=(20_000, 10))
    with pytest.raises(PhotoError, match="at most 65,500"):
        check_output(photo, tmp_path / "large.jpg", size=(70_000, 10))
    for options, word in (
        ({"format": "jpge"}, "did you mean 'jpeg'"),
        ({"quality": 0}, "quality"),
        ({"quality": 101}, "quality"),
        ({"bit_depth": 12}, "bit depth"),
    ):
        with pytest.raises(OptionError, match=word):
            write_photo(photo, tmp_path / "odd.png", **options)  # type: ignore[arg-type]
    assert [p.name for p in tmp_path.iterdir()] == ["photo.jpg"]


def test_what_decides_the_format(tmp_path: Path, photo: Photo) -> None:
    for name, option, expected in (
        ("a.JPG", None, "JPEG"),
        ("a", None, "PNG"),
        ("a.txt", None, "PNG"),
        ("a.jpeg", "webp", "WEBP"),
        ("b.TIFF", None, "TIFF"),
    ):
        write_photo(photo, tmp_path / name, format=option)
        assert read_photo(tmp_path / name).format == expected
