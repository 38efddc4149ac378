"""Tables, the page, the plots, the document, and the command that makes them."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest

from unires.bench import named, page, plots
from unires.bench.measures import Mean
from unires.bench.report import Results, Table, overview, plain, signed
from unires.bench.run import Bench
from unires.doors.cli import main


def rows(values: dict[str, list[float]], name: str = "noise 25", measure: str = "psnr") -> list[dict[str, object]]:
    return [{"set": name, "definition": "d", "photo": f"p{i}", "method": m, "version": "", measure: v}
            for m, found in values.items() for i, v in enumerate(found)]


def test_means_and_paired_differences() -> None:
    results = Results(rows({"input": [20, 21, 22], "expert": [29.5, 31, 31.5], "bm3d": [28.9, 30.2, 30.9]}))
    table = overview(results, "t", "bm3d")
    expert = next(r for r in table.rows if r[1] == "expert")
    assert expert[2:5] == ["3", "30.67 ± 2.59", "+0.67 ± 0.29"]  # by hand: 0.1155 * 4.303 / sqrt(3)
    assert plain(Mean(-1.0, 0.5, 3)) == "-1.00 ± 0.50" and signed(Mean(1.0, 0.5, 3)) == "+1.00 ± 0.50"


def test_bars(tmp_path: Path) -> None:
    results = Results(rows({"input": [20, 20.2], "expert": [29.5, 29.5], "bm3d": [29.1, 29.2]}))
    photo_set = named.Scope(tmp_path).open("singles")[1]
    table = named.experts_table(results, [photo_set], "")
    assert table.rows[0][-2:] == ["input +9.0, bm3d +0.5 (+0.35)", "NO"]
    assert all(b.over in ("input", *named.PEERS) for b in named.BARS)


def test_wins_and_losses(tmp_path: Path) -> None:
    photo_sets = {s.name: s for s in named.Scope(tmp_path).open("singles")}
    values = {
        "noise 15": {"input": [20, 20], "expert": [30, 31], "bm3d": [28, 29], "nlm": [25, 25]},
        "noise 50": {"input": [20, 20], "expert": [27, 28], "bm3d": [28, 29]},
        "motion 9": {"input": [20, 20], "expert": [27, 29], "wiener": [28, 28]},
    }
    results = Results([r for name, found in values.items() for r in rows(found, name)])
    table = named.against_best(results, [photo_sets[n] for n in values], "expert")
    assert [(r[0], r[4], r[-1]) for r in table.rows] == [
        ("noise 15", "bm3d (true sigma)", "won"), ("noise 50", "bm3d (true sigma)", "LOST"),
        ("motion 9", "wiener (true kernel)", "undecided"),
    ]


def test_forms_of_a_table() -> None:
    reason = "there is no folder, as far as anyone can see"
    table = Table("T", ["set", "dB", "met"], [["a|b", "1.50", "yes"], ["gone", reason]], ["N."])
    lines = ["set     dB  met", "----  ----  ---", "a|b   1.50  yes", f"gone  {reason}"]
    assert table.text().splitlines()[2:6] == lines
    assert "| a\\|b | 1.50 | yes |" in table.markdown() and "| --- | ---: | ---: |" in table.markdown()
    assert f"| gone | {reason} |  |" in table.markdown()
    assert next(csv.reader(io.StringIO(table.csv()))) == ["set", "dB", "met"]


def test_the_page_shows_the_worst_first(bench: Bench, data: Path, tmp_path: Path) -> None:
    photo_sets = [s for s in named.Scope(data).open("singles") if s.name in ("noise 25", "jpeg 20")]
    results = Results(bench.run(photo_sets, lambda s: ["input", "expert"]))
    strips = page.worst(results, photo_sets, ["expert"], ["input"], 8)
    assert len(strips) == 4 and [s.gain for s in strips] == sorted(s.gain for s in strips)
    assert strips[0].gain < 0  # random weights lose
    page.write(bench, strips, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert text.count("<img") == 12 and text.count("class=lost") >= 1 and "truth" in text
    assert len(re.findall(r"src=\"data:image/png;base64,[A-Za-z0-9+/=]{100,}\"", text)) == 12


def test_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    both = [a | {"lpips": 0.3 if a["method"] == "input" else 0.1} for a in rows({"input": [20.0], "expert": [29.0]})]
    assert plots.perception(Results(both), tmp_path / "a.png") and (tmp_path / "a.png").stat().st_size > 5000
    assert not plots.perception(Results(rows({"input": [20.0]})), tmp_path / "b.png")
    line = json.dumps({"commit": "abc", "figures": [{"name": "one pass", "seconds": 1.0, "ratio": 12.0}]})
    (tmp_path / "speed.jsonl").write_text(f"{line}\n")
    assert not plots.history(tmp_path / "speed.jsonl", tmp_path / "c.png")
    (tmp_path / "speed.jsonl").write_text(f"{line}\n{line}\n")
    assert plots.history(tmp_path / "speed.jsonl", tmp_path / "c.png") and (tmp_path / "c.png").stat().st_size > 5000


# -- the command ----------------------------------------------------------------------------------------------


def test_the_named_runs(data: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--data", str(data), "--out", str(tmp_path), "--model", model, "--crop", "32", "--device", "cpu"]
    assert main(["bench", "experts", *common]) == 0
    out = capsys.readouterr().out
    assert "noise 25" in out and "input +9.0, bm3d +0.5 (not run)" in out and "there is no folder" in out
    assert main(["bench", "mixtures", *common]) == 0
    out = capsys.readouterr().out
    assert "best a recipe" in out and re.search(r"^mean .*bar \+1\.5", out, re.MULTILINE)
    assert main(["bench", "ablations", *common]) == 0
    out = capsys.readouterr().out
    assert "no negative weights" in out and "need not sum to one" in out and "4, falling" in out
    assert main(["bench", "dial", "--photos", "1", *common]) == 0
    assert "LPIPS was not measured" in capsys.readouterr().out
    assert main(["bench", "precision", "--photos", "1", *common]) == 0
    assert "float32" in capsys.readouterr().out
    words = ["--set", "real-noise", "--method", "input", "--method", "denoise", "--pages", "--against", "denoise"]
    assert main(["bench", "compare", *words, *common]) == 0
    assert "PSNR against denoise" in capsys.readouterr().out
    assert (tmp_path / "compare.html").is_file()
    report = json.loads((tmp_path / "experts.json").read_text())
    assert {"commit", "machine", "packages", "command"} <= report["facts"].keys()


def test_the_document(data: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "docs"]) == 1  # nothing was run yet
    words = ["bench", "compare", "--set", "real-noise", "--method", "input", "--data", str(data), "--model", model]
    assert main(words) == 0
    report = json.loads(Path("runs/bench/compare.json").read_text())
    Path("runs/bench/compare.json").write_text(json.dumps(report | {"pictures": ["compare.png"]}))
    Path("runs/bench/compare.png").write_bytes(b"a picture")
    assert main(["bench", "docs"]) == 0
    text = (tmp_path / "docs/benchmarks.md").read_text()
    assert text.startswith("# Benchmarks") and "## Compare" in text and "| real-noise | input | 2 |" in text
    assert "torch" in text and "Commit" in text and "![compare](benchmarks-compare.png)" in text
    assert (tmp_path / "docs/benchmarks-compare.png").read_bytes() == b"a picture"
    # what was measured before, somewhere else, stays
    Path("runs/bench/compare.json").rename("runs/bench/experts.json")
    for _ in range(2):
        assert main(["bench", "docs"]) == 0
        later = (tmp_path / "docs/benchmarks.md").read_text()
        assert [line for line in later.splitlines() if line.startswith("## ")] == ["## Experts", "## Compare"]
        assert text[text.index("## Compare") :].rstrip() == later[later.index("## Compare") :].rstrip()


def test_asked_wrongly(capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in {
        (): "Say what to measure", ("exprts",): "did you mean 'experts'", ("experts", "--crop", "3"): "16 pixels",
        ("compare",): "Say what to compare", ("experts", "--phtos", "3"): "did you mean '--photos'",
    }.items():
        assert main(["bench", *words]) == 2
        assert said in capsys.readouterr().err
