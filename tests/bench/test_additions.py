"""The run about added experts: what its tables, hashes and pictures say is so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from unires.bench.additions import ADDITIONS, said_by_old
from unires.bench.sets import photo_seed
from unires.compose.weights import Weights
from unires.degrade import operators
from unires.degrade.recipe import Recipe
from unires.doors.cli import main
from unires.restore.restorer import Restorer

from .conftest import picture, save


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos as large as an expert's training asks for."""
    root = tmp_path_factory.mktemp("large")
    for i in range(2):
        save(picture(i, 80, 96), root / "val/clean" / f"clean{i}.png")
        save(picture(10 + i, 168, 180), root / "train" / f"train{i}.png")
    return root


def words(root: Path, model: str, out: Path) -> list[str]:
    return ["bench", "new-experts", "--data", str(root), "--model", model, "--out", str(out), "--minutes", "0.02",
            "--device", "cpu", "--crop", "64"]  # fmt: skip


def test_the_run(root: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(words(root, model, out)) == 0, capsys.readouterr().err
    assert f"after   {said_by_old(model)}" in capsys.readouterr().out
    grown = next(out.glob("added-*-low_light"))
    said = json.loads((out / "new-experts.json").read_text())
    alone, mixed, same, _ = said["tables"]
    assert [row[0] for row in alone["rows"]] == ["haze", "low_light"]
    assert same["rows"][0][1] == same["rows"][1][1] and same["notes"] == ["The same."]

    restorer = Restorer.from_pretrained(grown, "cpu")
    assert restorer.denoiser.facts.tasks[-2:] == ("haze", "low_light")
    clean = [torch.from_numpy(picture(i, 80, 96)[8:72, 16:80]).permute(2, 0, 1)[None] / 255 for i in range(2)]
    for row, note, addition in zip(mixed["rows"], mixed["notes"], ADDITIONS, strict=False):
        cells = dict(zip(mixed["head"], row, strict=True))
        _, weights, _, relayed, _ = note.split("`")
        second = ("keep@relay", f"{addition.new}@relay", f"{addition.old}@relay")
        for text, experts in ((weights, (addition.old, addition.new)), (relayed, second)):
            w = Weights.parse(text, restorer.denoiser.facts.tasks)  # which sum to one, or are refused
            assert {str(w.experts[i]) for i in w.active(w.steps - 1)} <= set(experts)
        assert relayed.partition(";")[0] in (addition.old, addition.new)
        bad = [Recipe.parse(addition.mixture)(x, photo_seed(0, f"clean{i}")) for i, x in enumerate(clean)]
        for column, method in (("new expert dB", addition.new), ("old expert dB", addition.old), ("sum dB", weights),
                               ("relayed dB", relayed)):  # fmt: skip
            good = [operators.round8(restorer.pixels(y, weights=method)) for y in bad]
            psnr = [-10 * float((y - x).square().mean().log10()) for x, y in zip(clean, good, strict=True)]
            assert float(cells[column].split()[0]) == pytest.approx(sum(psnr) / 2, abs=0.006), (column, cells)
    assert len(said["pictures"]) == 4
    for name, pictures in zip(said["pictures"], (3, 3, 6, 6), strict=True):
        with Image.open(out / name) as sheet:
            assert sheet.format == "JPEG" and sheet.width == pictures * 72 - 8

    before = grown.stat().st_mtime_ns
    assert main(words(root, model, out)) == 0  # trained experts are taken as they are
    assert grown.stat().st_mtime_ns == before


def test_the_hash_tells_any_change(model: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(model, other)
    tensors = load_file(other / "model.safetensors")
    tensors["leave.bias"][0] += 0.01
    save_file(tensors, other / "model.safetensors")
    assert said_by_old(other) != said_by_old(model) == said_by_old(model)


def test_without_photos(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(tmp_path / "nowhere", model, tmp_path / "out")) == 1
    assert "There is no photo in" in capsys.readouterr().err
