"""The table about composing: every column is what its name says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from unires.bench.composition import chains, composition
from unires.bench.interface import Answer
from unires.bench.methods import SEARCHES, Ours, open_method
from unires.bench.named import FIVE, Scope
from unires.bench.run import Bench, Store
from unires.bench.searching import searching
from unires.bench.sets import PhotoSet
from unires.compose import quality, search
from unires.compose.router import Router, RouterConfig
from unires.degrade.isolated import TASKS
from unires.degrade.recipes import TEST, TUNING
from unires.errors import OptionError


@pytest.fixture(scope="module")
def routed(model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("routed")
    for file in Path(model).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    torch.manual_seed(0)
    steps = ("blind", *TASKS, "keep"), ("keep@relay", "denoise@relay")
    router = Router(RouterConfig(TASKS, (steps,), 16, 8))
    for weigh in router.weigh:
        torch.nn.init.normal_(weigh.leave.weight, std=0.3)
    router.save(folder)
    return str(folder)


def test_chains_have_every_order() -> None:
    assert chains("noise(sigma=3)") == []
    assert chains(TEST[0]) == ["chain:denoise>dejpeg", "chain:dejpeg>denoise"]
    assert len(chains(TEST[7])) == 6


def test_the_table(routed: str, data: Path, tmp_path: Path) -> None:
    bench = Bench(Ours(routed, "cpu", "float32"), Store(tmp_path / "results.jsonl"), log=lambda line: None)
    table, less, alone, _ = composition(bench, Scope(data, photos=1, crop=48, methods=("search:climb",)))
    assert "climbed" in table.head and "grid" not in table.head and "climbed" in [row[0] for row in less.rows]
    rows = [dict(zip(table.head, row, strict=True)) for row in table.rows]
    assert len(rows) == len(TEST) + 1 and rows[-1]["mixture"] == "mean"
    for row in rows[:-1]:
        assert float(row["passes"]) <= 7
        # found with the truth at hand: no fixed weights of one step are better, but for clipping and rounding
        assert float(row["best a recipe"]) > max(float(row[c]) for c in ("best single", "blind", "equal")) - 0.05
    stored = {(r["set"], r["method"]): r for r in bench.store.rows.values() if "psnr" in r}
    name = rows[0]["mixture"]
    assert float(rows[0]["best single"]) == pytest.approx(max(stored[name, e]["psnr"] for e in FIVE), abs=0.005)
    assert float(rows[0]["maps and relay"]) == pytest.approx(stored[name, "default"]["psnr"], abs=0.005)
    gap = sum(float(r["maps and relay"]) - float(r["blind"]) for r in rows[:-1]) / len(TEST)
    assert float(dict((r[0], r[1]) for r in less.rows)["blind"].split()[0]) == pytest.approx(gap, abs=0.02)
    assert len(alone.rows) == 16


def test_a_search_takes_what_the_quality_likes_best(routed: str, data: Path, tmp_path: Path) -> None:
    bench = Bench(Ours(routed, "cpu", "float32"), Store(tmp_path / "results.jsonl"), log=lambda line: None)
    case = Scope(data, photos=1, crop=48).open("mixtures")[0].load(0, None)
    restorer = bench.ours.restorer
    judge = quality.remaining_harm(restorer.router)
    said = {how: float(judge(bench.ours.searched(how, how).run(case).pixels.clamp(0, 1))) for how in SEARCHES}
    alone = max(float(judge(restorer.pixels(case.lq, weights=e).clamp(0, 1))) for e in search.EXPERTS)
    assert said["grid"] >= said["frequent"] - 1e-4 >= alone - 1e-3
    with pytest.raises(OptionError, match="grid"):
        bench.ours.searched("search:gird", "gird")


def test_the_search_run_counts_winners_and_is_resumed(
    routed: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> tuple[Any, ...]:
        bench = Bench(Ours(routed, "cpu", "float32"), Store(tmp_path / "results.jsonl"), log=lambda line: None)
        return tuple(t.rows for t in searching(bench, Scope(data, photos=1, crop=48)))

    frequent, cost = run()
    assert 1 <= len(frequent) <= 8 and sum(int(n) for _, n in frequent) <= len(TUNING)
    assert [row[1] for row in cost] == ["1", "5", "1,512"]
    assert run() == (frequent, cost)  # the seconds too: nothing was searched again

    few = search.grid()[:20]
    monkeypatch.setattr(search, "grid", lambda: few)
    for timed, tables in ((False, 1), (True, 2)):
        store = Store(tmp_path / "other.jsonl")
        bench = Bench(Ours(routed, "cpu", "float32"), store, timed=timed, log=lambda line: None)
        assert len(searching(bench, Scope(data, photos=1, crop=48))) == tables


def test_a_chain_is_one_after_the_other(model: str, data: Path) -> None:
    ours, photo_set = Ours(model, "cpu", "float32"), Scope(data, 1, 48).open("mixtures")[0]

    def run(text: str, case: object) -> Answer:
        return open_method(text, photo_set, ours).run(case)  # type: ignore[arg-type]

    case = photo_set.load(0, None)
    first = run("denoise", case).pixels.clamp(0, 1)
    expected = ours.restorer.pixels(first, weights="dejpeg").clamp(0, 1)
    both = run("chain:denoise>dejpeg", case)
    assert torch.equal(both.pixels, expected) and both.passes == 2
    with pytest.raises(OptionError):
        open_method("chain:denoise>sharpen", PhotoSet("x"), ours)


def test_without_maps_every_place_is_weighed_alike(routed: str, data: Path) -> None:
    ours, photo_set = Ours(routed, "cpu", "float32"), Scope(data, 1, 64).open("mixtures")[0]
    case = photo_set.load(0, None)
    flat = ours.restorer.read(case.lq).weights.flat()
    out = open_method("default [steps=1 maps=0]", photo_set, ours).run(case).pixels
    torch.testing.assert_close(out, ours.restorer.pixels(case.lq, weights=flat.first(1)))
