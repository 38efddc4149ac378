"""The command line: what it writes and where, what it refuses, and that bad luck leaves nothing behind."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import unires
from unires.doors.cli import ProgressLine, main
from unires.train.loop import read_state

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tiny_folder: Path) -> Run:
    """main(words) with the small model; (exit status, what it said, what it complained of)."""

    def call(*words: str | Path, model: bool = True) -> tuple[int, str, str]:
        extra = ["--model", str(tiny_folder), "--device", "cpu"] if model and words and words[0] == "restore" else []
        status = main([*map(str, words), *extra])
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


def pixels(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as image:
        return np.array(image)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# -- restore ----------------------------------------------------------------------------------------------------------


def test_restore_writes_beside_the_photo(run: Run, photo: Path) -> None:
    before = photo.read_bytes()
    status, said, complained = run("restore", photo, "--weights", "denoise")
    out = photo.with_name("holiday.restored.png")
    assert status == 0 and complained == ""
    assert photo.read_bytes() == before
    assert pixels(out).shape == (40, 60, 3) and not np.array_equal(pixels(out), pixels(photo))
    assert said.count("\n") == 1 and said.endswith(".\n")
    for part in ("holiday.png", "holiday.restored.png", "60 x 40", "denoise=1", "1 step", "cpu"):
        assert part in said
    assert sorted(p.name for p in photo.parent.iterdir() if p.is_file()) == ["holiday.png", "holiday.restored.png"]


def test_the_result_is_the_packages(run: Run, photo: Path, tiny_folder: Path) -> None:
    run("restore", photo, "--weights", "denoise=1.2,dejpeg=-0.2", "--seed", "3", "--steps", "2")
    expected = unires.restore(
        Image.open(photo), weights="denoise=1.2,dejpeg=-0.2", seed=3, steps=2, model=tiny_folder, device="cpu"
    )
    assert np.abs(pixels(photo.with_name("holiday.restored.png")).astype(int) - np.asarray(expected)).max() <= 1


def test_keep_is_the_photo_bit_for_bit(run: Run, photo: Path) -> None:
    assert run("restore", photo, "--weights", "keep")[0] == 0
    assert np.array_equal(pixels(photo.with_name("holiday.restored.png")), pixels(photo))


@pytest.mark.parametrize("name", ["out.jpg", "out.webp", "out.tif", "out.avif", "OUT.PNG"])
def test_the_outputs_ending_decides_its_format(run: Run, photo: Path, tmp_path: Path, name: str) -> None:
    status, said, _ = run("restore", photo, "-o", tmp_path / name, "--scale", "1.5")
    assert status == 0 and "90 x 60" in said
    with Image.open(tmp_path / name) as image:
        assert image.size == (90, 60)
        assert image.format == {"jpg": "JPEG", "tif": "TIFF"}.get(name[-3:].lower(), name.split(".")[1].upper())


def test_an_output_that_is_there_is_left_alone(run: Run, photo: Path) -> None:
    out = photo.with_name("holiday.restored.png")
    out.write_bytes(b"precious")
    status, _, complained = run("restore", photo)
    assert status == 1 and "exists already" in complained and out.read_bytes() == b"precious"
    assert run("restore", photo, "--overwrite")[0] == 0
    assert pixels(out).shape == (40, 60, 3)


@pytest.mark.parametrize("way", ["same", "relative", "link", "hard link"])
def test_never_over_the_photo(run: Run, photo: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    before = photo.read_bytes()
    out: Path = photo
    if way == "relative":
        monkeypatch.chdir(photo.parent)
        out = Path("../" + photo.parent.name + "/holiday.png")
    elif way == "link":
        out = photo.with_name("link.png")
        out.symlink_to(photo)
    elif way == "hard link":
        out = photo.with_name("hard.png")
        os.link(photo, out)
    status, _, complained = run("restore", photo, "-o", out, "--overwrite")
    assert status == 2 and "originals are never written over" in complained
    assert photo.read_bytes() == before


def test_sixteen_bits_and_transparency_survive(run: Run, tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (20, 30)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert run("restore", tmp_path / "deep.png", "--weights", "keep")[0] == 0
    assert np.array_equal(pixels(tmp_path / "deep.restored.png"), deep)
    clear = np.random.default_rng(0).integers(0, 256, (20, 30, 4)).astype(np.uint8)
    Image.fromarray(clear).save(tmp_path / "clear.png")
    assert run("restore", tmp_path / "clear.png", "--weights", "denoise")[0] == 0
    assert np.array_equal(pixels(tmp_path / "clear.restored.png")[..., 3], clear[..., 3])


# -- degrade ----------------------------------------------------------------------------------------------------------


def test_degrade(run: Run, photo: Path) -> None:
    recipe = "noise(sigma=15) + jpeg(quality=30)"
    status, said, _ = run("degrade", photo, "--recipe", recipe, "--seed", "4")
    out = photo.with_name("holiday.degraded.png")
    assert status == 0 and recipe in said
    assert np.array_equal(pixels(out), unires.degrade(pixels(photo), recipe, seed=4))
    assert run("degrade", photo, "--recipe", recipe, "-o", photo)[0] == 2


# -- refusals ---------------------------------------------------------------------------------------------------------

REFUSALS = {
    "restor {photo}": "Unknown command 'restor'; did you mean 'restore'?",
    "degrad {photo}": "did you mean 'degrade'?",
    "{photo}": "Unknown command",
    "restore": "required: PHOTO",
    "restore {photo} --weigths denoise": "Unknown option '--weigths'; did you mean '--weights'?",
    "restore --fidelty=0.5 {photo}": "did you mean '--fidelity'?",
    "restore --step": "did you mean '--steps'?",
    "restore {photo} --recipe noise": "Unknown option '--recipe'",
    "degrade {photo} --recipee noise": "did you mean '--recipe'?",
    "degrade {photo}": "required: --recipe",
    "restore {photo} -x": "Unknown option '-x'",
    "restore {photo} second.jpg": "one thing too many: 'second.jpg'",
    "restore {photo} --weights denoize": "Unknown expert 'denoize'; did you mean 'denoise'?",
    "restore {photo} --weights denoise@relai": "did you mean 'relay'?",
    "restore {photo} --weights denoise=0.7,dejpeg=0.7": "sum to 1.4; they must sum to 1",
    "restore {photo} --weights keep@down4": "not reduced",
    "restore {photo} --weights": "expected one argument",
    "restore {photo} --scale 5": "from 1 to 4",
    "restore {photo} --scale 0": "from 1 to 4",
    "restore {photo} --scale -1": "from 1 to 4",
    "restore {photo} --scale nan": "'nan' is no number",
    "restore {photo} --scale 1e999": "is no number",
    "restore {photo} --scale big": "'big' is no number",
    "restore {photo} --fidelity 2": "from 0 to 1",
    "restore {photo} --steps 0": "from 1 to 50",
    "restore {photo} --steps 51": "from 1 to 50",
    "restore {photo} --steps 2.5": "'2.5' is no whole number",
    "restore {photo} --steps 1 --weights denoise;dejpeg": "weights for 2 steps",
    "restore {photo} --seed 99999999999999999999": "seed",
    "restore {photo} --dry-run": "--dry-run is for folders",
    "restore {photo} --workers 2": "--workers is for folders",
    "degrade {photo} --recipe nois": "did you mean 'noise'?",
    "degrade {photo} --recipe noise(sigm=3)": "did you mean 'sigma'?",
    "degrade {photo} --recipe noise(": "can't be read",
    "degrade {photo} --recipe noise(sigma=900)": "out of range",
    "train {photo} --sett batch=3": "did you mean '--set'?",
}


@pytest.mark.parametrize("line", REFUSALS)
def test_what_was_asked_wrongly_is_refused(run: Run, photo: Path, line: str) -> None:
    before = contents(photo.parent)
    status, said, complained = run(*(w.format(photo=photo) for w in line.split(" ")))
    assert status == 2 and said == ""
    assert REFUSALS[line] in complained
    assert complained.startswith("unires: ") and complained.count("\n") == 1
    assert contents(photo.parent) == before


@pytest.mark.parametrize("device", ["gpu", "cud"])
def test_an_unknown_device(run: Run, photo: Path, device: str) -> None:
    status = main(["restore", str(photo), "--device", device])
    assert status == 2 and not photo.with_name("holiday.restored.png").exists()


BAD_PHOTOS: dict[str, tuple[bytes | None, str]] = {
    "missing.jpg": (None, "no file"),
    "empty.jpg": (b"", "is empty"),
    "text.jpg": (b"hello, I am a letter", "is not a picture"),
    "zeros.png": (bytes(5000), "is not a picture"),
    "strange\nname.png": (b"x", "is not a picture"),
    f"{'long' * 75}.jpg": (None, "too long"),
}


@pytest.mark.parametrize("name", BAD_PHOTOS)
@pytest.mark.parametrize("command", [("restore",), ("degrade", "--recipe", "noise")])
def test_files_that_are_no_photos(run: Run, tmp_path: Path, name: str, command: tuple[str, ...]) -> None:
    content, said = BAD_PHOTOS[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    before = contents(tmp_path)
    status, out, complained = run(command[0], tmp_path / name, *command[1:])
    assert status == 1 and out == "" and said in complained
    assert complained.count("\n") == 1 and complained.rstrip().endswith((".", ")."))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_photos_cut_short(run: Run, tmp_path: Path, astronaut: Any, format: str) -> None:
    path = tmp_path / f"cut.{format.lower()}"
    Image.fromarray(astronaut[:128, :128]).save(path, format)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    before = contents(tmp_path)
    status, _, complained = run("restore", path)
    assert status == 1 and "damaged or cut short" in complained and complained.count("\n") == 1
    assert contents(tmp_path) == before


def test_places_that_cannot_be_written_to(run: Run, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.png").mkdir()
    before = contents(tmp_path)
    for out, said in (
        (tmp_path / "missing" / "x.png", "no such folder"),
        (tmp_path / "file" / "x.png", "folder is a file"),
        (tmp_path / "folder.png", "folder of that name"),
    ):
        status, _, complained = run("restore", photo, "-o", out, "--overwrite")
        assert status == 1 and said in complained and complained.count("\n") == 1
    assert contents(tmp_path) == before


@pytest.mark.parametrize("where", ["fsync", "write", "link"])
def test_no_space_left(run: Run, photo: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Whatever fails, there is a sentence, a status, and no file: none half-written and none temporary."""
    before = contents(photo.parent)

    def full(*a: Any, **k: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    if where == "write":
        from unires.photo import encode

        monkeypatch.setattr(encode, "filler", lambda *a, **k: full)
    else:
        monkeypatch.setattr(os, where, full)
        if where == "link":
            monkeypatch.setattr(os, "replace", full)
    status, said, complained = run("restore", photo)
    assert status == 1 and said == "" and "no space left" in complained and complained.count("\n") == 1
    monkeypatch.undo()
    assert contents(photo.parent) == before


def test_models_that_are_none(run: Run, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    before = contents(tmp_path)
    for folder, said in ((tmp_path / "nowhere", "no checkpoint folder"), (tmp_path / "model", "has no config.json")):
        status, _, complained = run("restore", photo, "--model", folder, "--device", "cpu", model=False)
        assert status == 1 and said in complained
    assert contents(tmp_path) == before


def test_stopping(run: Run, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unires.restore.restorer import Restorer

    def stopped(*a: Any, **k: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Restorer, "__call__", stopped)
    before = contents(photo.parent)
    status, _, complained = run("restore", photo)
    assert status == 130 and "stopped" in complained and contents(photo.parent) == before


# -- train ------------------------------------------------------------------------------------------------------------


def test_train(run: Run, tmp_path: Path, astronaut: Any) -> None:
    (tmp_path / "photos").mkdir()
    Image.fromarray(astronaut[:100, :100]).save(tmp_path / "photos" / "a.png")
    (tmp_path / "x.toml").write_text(
        f'clean = ["photos"]\nrun = "{tmp_path / "run"}"\ncrop = 16\nmargin = 4\nbatch = 2\nsteps = 2\n'
        "[model]\nwidths = [8, 8]\ndown = [1, 1]\nup = [1]\n"
    )
    assert run("train", tmp_path / "x.toml")[0] == 0
    assert run("train", tmp_path / "x.toml", "--set", "steps=3")[0] == 0
    assert read_state(tmp_path / "run")["step"] == 3
    photo = tmp_path / "photos" / "a.png"
    assert run("restore", photo, "--model", tmp_path / "run", "--device", "cpu", model=False)[0] == 0
    for words, said in (
        ((tmp_path / "x.toml", "--set", "bach=3"), "did you mean 'batch'"),
        ((tmp_path / "y.toml",), "can't be read"),
    ):
        status, _, complained = run("train", *words)
        assert status == 1 and said in complained and complained.count("\n") == 1


# -- help and progress ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ((), ["restore", "degrade", "train", "--version"]),
        (("restore",), ["PHOTO", "--weights", "--fidelity", "--scale", "--steps", "--seed", "--device", "--model",
                        "denoise@relay", "original is never touched"]),
        (("degrade",), ["--recipe", "--seed", "defocus(radius", "jpeg(quality"]),
        (("train",), ["CONFIG", "--set"]),
        (("add-expert",), ["NAME", "--data", "--degradation", "--minutes", "--model", "bit for bit"]),
    ],
)  # fmt: skip
def test_help(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], parts: list[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main([*words, "--help"])
    said = capsys.readouterr().out
    assert done.value.code == 0
    for part in parts:
        assert part in said
    assert "Namespace" not in said and "None" not in said and "%(" not in said


def test_every_operator_and_expert_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    from unires.degrade.recipe import OPERATORS
    from unires.denoise.compact import TASKS

    for words, names in ((["degrade"], OPERATORS), (["restore"], (*TASKS, "keep"))):
        with pytest.raises(SystemExit):
            main([*words, "--help"])
        said = capsys.readouterr().out
        for name in names:
            assert name in said


def test_without_a_word_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2 and "COMMAND" in capsys.readouterr().out


def test_progress_is_for_terminals(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    line = ProgressLine("x.jpg")
    line(0.5)
    line.close()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    line = ProgressLine("x.jpg")
    line.started -= 30
    line(0.25)
    assert "25%" in (said := capsys.readouterr().err) and "90 s left" in said
    line(1.0)
    line.close()
    assert capsys.readouterr().err.endswith("\r")
