"""`unires inspect`: what it says, draws and saves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from unires.doors.cli import main


@pytest.fixture(scope="module")
def routed_folder(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A checkpoint with a router that isn't trained."""
    from unires.compose.router import Router, RouterConfig
    from unires.degrade.isolated import TASKS

    folder = tmp_path_factory.mktemp("routed")
    for file in tiny_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    steps = ("blind", "denoise", "keep"), ("keep@relay", "denoise@relay")
    Router(RouterConfig(TASKS, (steps,), 16, 8)).save(folder)
    return folder


def test_inspect(photo: Path, routed_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = photo.read_bytes()
    options = ["--model", str(routed_folder), "--device", "cpu"]
    assert main(["inspect", str(photo), *options]) == 0
    assert "Weights: blind=1." in capsys.readouterr().out
    made = {name: photo.with_name(name) for name in ("map.png", "plot.png", "w.json")}
    words = ["--map", str(made["map.png"]), "--plot", str(made["plot.png"]), "--save-weights", str(made["w.json"])]
    assert main(["inspect", str(photo), "--json", *words, *options]) == 0
    assert len(json.loads(capsys.readouterr().out)["degradations"]) == 5
    with Image.open(made["map.png"]) as drawn, Image.open(photo) as image:
        assert drawn.size == image.size and drawn.mode == image.mode
    assert main(["restore", str(photo), "--weights", str(made["w.json"]), *options]) == 0
    assert "blind=1" in capsys.readouterr().out
    assert main(["inspect", str(photo), *words, *options]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["inspect", str(photo), "--map", str(photo), "--overwrite", *options]) == 2
    assert "never written over" in capsys.readouterr().err
    assert photo.read_bytes() == before


def test_enlarging_says_what_was_done_before(
    photo: Path, routed_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model", str(routed_folder), "--device", "cpu"]
    assert main(["restore", str(photo), "--scale", "2", *options]) == 0
    assert "120 x 80, blind=1 at its own size, " in capsys.readouterr().out
    assert main(["inspect", str(photo), "--scale", "2", "--json", *options]) == 0
    assert json.loads(capsys.readouterr().out)["enlarged_from"] == [60, 40]


def test_inspect_needs_a_router(photo: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(photo), "--model", str(tiny_folder)]) == 1
    assert "has no router" in capsys.readouterr().err
