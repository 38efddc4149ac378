"""How often the report is right: counted for a reader whose answers are known."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from unires.bench.methods import Ours
from unires.bench.named import Scope
from unires.bench.reading import harms, report
from unires.bench.run import Bench, Store
from unires.degrade.recipe import Recipe
from unires.degrade.recipes import SINGLES, TEST
from unires.errors import UniresError


def test_the_harm_of_each_step(photo: Any) -> None:
    both = harms(photo, Recipe.parse("noise(sigma=20) + jpeg(quality=50)"))
    assert both.keys() == {"denoise", "dejpeg"}
    # sigma 20 of 255, a little less where values are clipped at black and white
    assert both["denoise"] == pytest.approx((20 / 255) ** 2, rel=0.15)
    alone = harms(photo, Recipe.parse("noise(sigma=20)"))
    assert alone["denoise"] == both["denoise"] > both["dejpeg"] > 0


def test_the_table(model: str, data: Path, tmp_path: Path) -> None:
    """Of a reader that always finds noise, and noise alone."""
    bench = Bench(Ours(model, "cpu", "float32"), Store(tmp_path / "results.jsonl"), log=lambda line: None)
    with pytest.raises(UniresError, match="no router"):
        report(bench, Scope(data, photos=1, crop=48))
    restorer: Any = bench.ours.restorer
    restorer.router = SimpleNamespace(read=lambda pixels, grid: SimpleNamespace(found=["denoise"], cleaning=0))
    (table,) = report(bench, Scope(data, photos=1, crop=48))
    said = {row[0]: dict(zip(table.head, row, strict=True)) for row in table.rows}
    assert said["noise 25"]["strongest named"] == "100.0%" and said["noise 25"]["found besides"] == "0.00"
    assert said["jpeg 10"]["strongest named"] == "0.0%" and said["jpeg 10"]["found besides"] == "1.00"
    assert said["clean"]["strongest named"] == "0.0%" and said["clean"]["found besides"] == "1.00"
    assert said["all mixtures"]["photos"] == str(len(TEST)) and said["all mixtures"]["met"] == "NO"
    right = sum(float(said[recipe]["strongest named"].rstrip("%")) for recipe in TEST) / len(TEST)
    assert float(said["all mixtures"]["strongest named"].rstrip("%")) == pytest.approx(right, abs=0.1)
    assert said["all singles"]["photos"] == str(len(SINGLES))
    assert torch.is_grad_enabled()
