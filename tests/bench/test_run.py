"""The runner: resumed, deterministic, and never stopped by a set, a file or a peer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from unires.bench import oracle, parallel, run, sets
from unires.bench.interface import Answer, Method
from unires.bench.methods import Ours
from unires.bench.report import Results, overview
from unires.bench.run import Bench, Store

NAMES = ("input", "expert", "blind")
UNTIMED = ("seconds", "megapixels", "peak_mb")


def singles(data: Path, *names: str) -> list[sets.PhotoSet]:
    return [s for s in sets.open_sets("singles", data) if s.name in names]


def bare(rows: list[run.Row]) -> list[run.Row]:
    return [{k: v for k, v in r.items() if k not in UNTIMED} for r in rows]


def again(bench: Bench) -> Bench:
    return Bench(Ours(bench.ours.model, "cpu", "float32"), Store(bench.store.path), log=lambda line: None)


def test_a_killed_run_ends_with_the_same_table(bench: Bench, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = singles(data, "noise 25", "jpeg 20")
    whole = bench.run(chosen, lambda s: NAMES)
    table = overview(Results(bare(whole)), "t").text()
    lines = bench.store.path.read_text().splitlines(keepends=True)
    assert len(lines) == len(whole) == 12
    bench.store.path.write_text("".join(lines[:5]) + lines[5][:40])  # killed in the middle of the sixth line
    resumed = again(bench)
    count = 0
    plain = Bench._measure

    def counted(self: Bench, method: Method, case: sets.Case) -> run.Row:
        nonlocal count
        count += 1
        return plain(self, method, case)

    monkeypatch.setattr(Bench, "_measure", counted)
    assert overview(Results(bare(resumed.run(chosen, lambda s: NAMES))), "t").text() == table
    assert count == 7
    again(bench).run(chosen, lambda s: NAMES)
    assert count == 7


def test_nothing_stops_a_run(bench: Bench, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A set that is missing, weights that are missing, a peer that crashes, one that returns nonsense: a row each."""
    def crash(case: sets.Case) -> Answer:
        raise RuntimeError("all is lost\nand more")

    def odd(case: sets.Case) -> Answer:
        return Answer(case.lq[..., 1:])

    def nan(case: sets.Case) -> Answer:
        return Answer(case.lq * float("nan"))

    mine = {"crash": crash, "odd": odd, "nan": nan}
    plain = run.open_method

    def opened(text: str, photo_set: sets.PhotoSet, ours: Ours) -> Method:
        return Method(text, mine[text]) if text in mine else plain(text, photo_set, ours)

    monkeypatch.setattr(run, "open_method", opened)
    chosen = [*singles(data, "noise 25"), *sets.open_sets("gopro", tmp_path)]
    rows = bench.run(chosen, lambda s: ["crash", "spandrel:none.pth", "odd", "nan", "input", "richardson-lucy"])
    errors = {(r["set"], r["method"]): r["error"] for r in rows if "error" in r}
    assert errors["noise 25", "crash"] == "all is lost"
    assert "no weights file" in errors["noise 25", "spandrel:none.pth"]
    assert "returned (1, 3" in errors["noise 25", "odd"]
    assert "no numbers" in errors["noise 25", "nan"]
    assert "get it from" in errors["gopro", ""]
    assert len(errors) == 5  # once each, not once a photo
    assert len(Results(rows).values("noise 25", "input")) == 2
    table = overview(Results(rows), "t")
    assert sum(len(r) == 2 for r in table.rows) == 5
    assert "richardson-lucy" not in table.text()  # no kernel is known: it has no row at all


def test_another_model_is_another_result(bench: Bench, data: Path, tiny_net: Any, tmp_path: Path) -> None:
    from unires.denoise.checkpoint import save_net

    chosen = singles(data, "noise 25")
    first = bench.run(chosen, lambda s: ["expert"])
    save_net(tiny_net(seed=5), tmp_path / "other", torch.float32)
    other = Bench(Ours(str(tmp_path / "other"), "cpu", "float32"), Store(bench.store.path), log=lambda line: None)
    assert other.run(chosen, lambda s: ["expert"])[0]["psnr"] != first[0]["psnr"]


def test_a_run_goes_on_in_its_number_type(bench: Bench, data: Path) -> None:
    """The machine's own choice is timed, and may be another the next time."""
    bench.ours.number_type = "bfloat16"
    first = bench.run(singles(data, "noise 25"), lambda s: ["input", "expert"])
    store = Store(bench.store.path)
    model = bench.ours.version.split("-")[0]
    assert store.number_type(model) == "bfloat16" and store.number_type("another") == ""
    resumed = Bench(Ours(bench.ours.model, "cpu", store.number_type(model)), store, log=lambda line: None)
    assert resumed.run(singles(data, "noise 25"), lambda s: ["input", "expert"]) == first


def test_what_rows_hold(bench: Bench, data: Path) -> None:
    row = bench.run(singles(data, "noise 25"), lambda s: ["blind [steps=2]"])[0]
    assert row["passes"] == 2 and row["seconds"] > 0 and row["megapixels"] == 64 * 72 / 1e6
    assert {"psnr", "ssim"} <= row.keys() and "ms_ssim" not in row  # too small for five scales
    same = bench.quality(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16))
    assert same["psnr"] == run.CAP
    json.loads(bench.store.path.read_text().splitlines()[0])


def test_photos_without_truth(bench: Bench, data: Path, tmp_path: Path) -> None:
    path = tmp_path / "plain.toml"
    path.write_text('kind = "plain"\nfolder = "val/clean"\n')
    rows = bench.run(sets.open_sets(str(path), data), lambda s: ["input", "default"])
    assert all(r["plain"] for r in rows)
    assert "2" in overview(Results(rows), "t").rows[0]


def test_several_processes_make_the_same_rows(bench: Bench, data: Path) -> None:
    chosen = singles(data, "noise 25", "motion 9")
    alone = bench.run(chosen, lambda s: ["input", "expert"])
    path = bench.store.path.with_name("several.jsonl")
    several = Bench(Ours(bench.ours.model, "cpu", "float32"), Store(path), timed=False, log=lambda line: None)
    plan = parallel.Plan(path, None, bench.ours.model, "cpu", "float32", None, ())

    def spread(photo_sets: Any, job: run.Job) -> None:
        parallel.spread(plan, photo_sets, job, 2)
        parallel.gather(path)
        several.store.read()

    several.spread = spread
    rows = several.run(chosen, lambda s: ["input", "expert"])
    assert bare(rows) == bare(alone)
    assert not any("seconds" in r for r in rows)
    assert sorted(p.name for p in path.parent.glob("several*")) == ["several.jsonl"]


# -- the best weights -----------------------------------------------------------------------------------------


def test_the_best_weights_are_found() -> None:
    generator = torch.Generator().manual_seed(0)
    results = [torch.rand(1, 3, 20, 20, generator=generator) for _ in range(3)]
    truth = 0.7 * results[0] + 0.5 * results[1] - 0.2 * results[2]
    w = oracle.best_weights([oracle.gram(results, truth)])
    assert torch.allclose(w, torch.tensor([0.7, 0.5, -0.2]).double(), atol=1e-4)
    assert oracle.text_of(["a", "b", "c"], w).startswith("a=0.7")


def test_no_other_weights_do_better() -> None:
    generator = torch.Generator().manual_seed(1)
    grams = []
    for level in (0.02, 0.3):  # a hard photo and an easy one: the mean is of decibels, not of errors
        truth = torch.rand(1, 3, 16, 16, generator=generator)
        noise = [torch.randn(truth.shape, generator=generator) * level * f for f in (1, 1.3, 0.8)]
        grams.append(oracle.gram([truth + n for n in noise], truth))
    best = oracle.best_weights(grams)
    score = sum(oracle.psnr_of(g, best) for g in grams)
    for _ in range(300):
        other = best + 0.05 * torch.randn(3, generator=generator).double()
        assert sum(oracle.psnr_of(g, other / other.sum()) for g in grams) <= score + 1e-4


def test_weights_that_may_not_be_negative() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    generator = torch.Generator().manual_seed(2)
    results = [torch.rand(1, 3, 12, 12, generator=generator) for _ in range(4)]
    truth = 0.8 * results[0] + 0.6 * results[1] - 0.4 * results[2]
    g = oracle.gram(results, truth)
    w = oracle.best_of_signs([g])
    theirs = optimize.minimize(
        lambda v: float(v @ g.numpy() @ v), [0.25] * 4, bounds=[(0, 1)] * 4,
        constraints={"type": "eq", "fun": lambda v: v.sum() - 1}, options={"ftol": 1e-12},
    )
    assert w.tolist() == pytest.approx(theirs.x.tolist(), abs=1e-3)
    assert oracle.psnr_of(g, w) < oracle.psnr_of(g, oracle.best_weights([g]))


def test_the_closed_form_is_what_the_restorer_makes(bench: Bench, data: Path) -> None:
    photo_set = singles(data, "noise 25")[0].fewer(1, 32)
    experts = ("denoise", "dejpeg", "keep")
    gram = oracle.collect(bench, photo_set, experts, singles=True)[0]
    w = torch.tensor([0.5, 0.2, 0.3]).double()
    case = photo_set.load(0)
    assert case.gt is not None
    out = bench.ours.restorer.pixels(case.lq, weights=oracle.text_of(experts, w))
    error = float((out - case.gt).double().square().mean())
    assert oracle.psnr_of(gram, w) == pytest.approx(-10 * torch.tensor(error).log10().item(), abs=0.05)
    row = next(r for r in bench.store.rows.values() if r["method"] == "denoise")
    direct = bench.run([photo_set], lambda s: ["denoise"])[0]
    assert direct is row  # the passes were there anyhow
