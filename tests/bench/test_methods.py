"""Methods by name: ours, with dials; what is refused, and how."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from unires.bench import code, methods, sets
from unires.bench.interface import NotApplicable
from unires.bench.methods import Ours, model_hash, open_method
from unires.compose.weights import Weights
from unires.denoise.checkpoint import load_denoiser
from unires.errors import UniresError
from unires.restore.restorer import Restorer


@pytest.fixture
def noise(data: Path) -> sets.PhotoSet:
    return next(s for s in sets.open_sets("singles", data) if s.name == "noise 25")


def test_ours_are_what_the_restorer_makes(model: str, noise: sets.PhotoSet) -> None:
    ours, case = Ours(model, "cpu", "float32"), noise.load(0)
    restorer = Restorer(load_denoiser(Path(model), "cpu", torch.float32), "cpu")
    for name, options in {
        "expert": {"weights": "denoise"},
        "default": {},
        "denoise=1.5,keep=-0.5": {"weights": "denoise=1.5,keep=-0.5"},
        "blind [steps=3 seed=4]": {"weights": "blind", "steps": 3, "seed": 4},
        "default [fidelity=0.5]": {"fidelity": 0.5},
    }.items():
        answer = open_method(name, noise, ours).run(case)
        assert torch.equal(answer.pixels, restorer.pixels(case.lq, **options))
        assert answer.passes == restorer.report.passes if restorer.report else False
    assert torch.equal(open_method("input", noise, ours).run(case).pixels, case.lq)


def test_exact_is_float32(model: str, noise: sets.PhotoSet) -> None:
    ours, case = Ours(model, "cpu", "bfloat16"), noise.load(0)
    exact = open_method("expert [exact=1]", noise, ours)
    fast = open_method("expert", noise, ours)
    assert exact.version != fast.version
    assert torch.allclose(exact.run(case).pixels, fast.run(case).pixels, atol=0.1)


def test_versions_follow_the_weights(model: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("config.json", "model.safetensors"):
        (copy / name).write_bytes((Path(model) / name).read_bytes())
    assert model_hash(str(copy)) == model_hash(model)
    with (copy / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x3f")
    assert model_hash(str(copy)) != model_hash(model)
    with pytest.raises(UniresError, match=r"can't be read"):
        (copy / "model.safetensors").unlink()
        model_hash(str(copy))


def test_a_result_is_of_its_code_too(model: str, noise: sets.PhotoSet, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, names = Ours(model, "cpu", "float32"), ("default", "blind", "expert", "chain:denoise>dejpeg")
    before = [open_method(name, noise, ours).version for name in names]
    monkeypatch.setattr(methods, "code_hash", lambda: "other")
    after = [open_method(name, noise, ours).version for name in names]
    assert all(a != b for a, b in zip(before, after, strict=True))


def test_code_is_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not what is said of it."""
    (tmp_path / "bench").mkdir()
    (tmp_path / "a").mkdir()
    monkeypatch.setattr(code, "__file__", str(tmp_path / "bench" / "code.py"))
    found = []
    for text in ('"""Says."""\nx = 1\n', "# Says more.\nx = 1\n", "x = 2\n"):
        (tmp_path / "a" / "b.py").write_text(text)
        code.code_hash.cache_clear()
        found.append(code.code_hash("a/*.py"))
    code.code_hash.cache_clear()
    assert found[0] == found[1] != found[2]


def test_a_file_of_weights_may_be_another_tomorrow(model: str, noise: sets.PhotoSet, tmp_path: Path) -> None:
    ours, path, versions = Ours(model, "cpu", "float32"), tmp_path / "w.json", []
    for text in ("blind", "denoise"):
        path.write_text(Weights.parse(text, ours.tasks).as_json())
        versions.append(open_method(str(path), noise, ours).version)
    assert versions[0] != versions[1]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nml", "did you mean 'nlm'"),
        ("denois", "did you mean 'denoise'"),
        ("denoise=0.5,keep=0.4", "sum"),
        ("blind [stpes=3]", "did you mean 'steps'"),
        ("blind [steps=many]", "no number"),
        ("blind [steps=900]", "1 to 50"),
        ("spandrel:nothing.pth", "no weights file"),
        ("onnx:nothing.onnx", "no weights file"),
        ("cmd:upscaler {input}", r"no \{output\}"),
    ],
)
def test_refused_in_one_sentence(model: str, noise: sets.PhotoSet, name: str, said: str) -> None:
    with pytest.raises(UniresError, match=said) as caught:
        open_method(name, noise, Ours(model, "cpu"))
    assert "\n" not in str(caught.value)


def test_no_expert_for_a_mixture(model: str, data: Path) -> None:
    mixture = sets.open_sets("mixtures", data)[0]
    with pytest.raises(NotApplicable):
        open_method("expert", mixture, Ours(model, "cpu"))
