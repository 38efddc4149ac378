"""A new expert learns its degradation; the old ones stay what they were, bit for bit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from unires.compose.router import Router, RouterConfig
from unires.degrade import isolated
from unires.degrade.recipe import Recipe
from unires.denoise.checkpoint import load_denoiser, load_net, save_net
from unires.denoise.compact import TASKS
from unires.denoise.interface import Hint
from unires.doors.cli import main
from unires.errors import OptionError, UniresError
from unires.train.expert import Crops, ExpertTraining, add_expert, measure, with_task

HAZE = "haze(beta=1, airlight=0.8)"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, astronaut: Any) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i in range(2):
        Image.fromarray(astronaut[100 * i : 100 * i + 90, 150:260]).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def model(tmp_path: Path, tiny_net: Callable[..., Any]) -> Path:
    """In half precision, as the shipped one, and with a router."""
    folder = tmp_path / "model"
    net = tiny_net(3, widths=(16, 16))
    net.leave.weight.data.mul_(0.3)  # does something, but no great harm
    save_net(net, folder)
    Router(RouterConfig(isolated.TASKS, ((("blind", "denoise", "keep"), ("keep@relay",)),), 16, 8)).save(folder)
    (folder / "README.md").write_text("# A model\n")
    return folder


@pytest.fixture
def training(tmp_path: Path, photos: Path, model: Path) -> ExpertTraining:
    return ExpertTraining(
        "haze", photos, tmp_path / "out", model, HAZE, steps=60, crop=32, margin=8, rate=0.1, device="cpu"
    )


def quiet(line: str) -> None:
    pass


def outputs(folder: Path) -> str:
    """SHA-256 of what the experts that every model has say at two times, with and without a hint."""
    denoiser = load_denoiser(folder, kind=torch.float32)
    z, c = (torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(i)) for i in range(2))
    total = hashlib.sha256()
    for task in TASKS:
        for t, hints in ((1.0, None), (0.4, [Hint(0.3, 0.5)])):
            total.update(denoiser.predict(z, t, c, [task], hints).numpy().tobytes())
    return total.hexdigest()


def test_it_learns_and_the_others_stay(training: ExpertTraining, model: Path) -> None:
    before = {p.name: p.read_bytes() for p in model.iterdir()}
    add_expert(training, quiet)
    assert {p.name: p.read_bytes() for p in model.iterdir()} == before  # the model itself isn't touched

    old, new = load_net(model), load_net(training.out)
    assert new.config == replace(old.config, tasks=(*TASKS, "haze"), precision=new.config.precision)
    assert new.config.precision[:-1] == old.config.precision
    clean, degraded = Crops(training).draw(40, torch.Generator().manual_seed(9))
    assert 1 / new.config.precision[-1] == pytest.approx(float((clean - degraded).square().mean()), rel=0.15)

    a, b = (load_file(folder / "model.safetensors") for folder in (model, training.out))
    assert b.keys() - a.keys() == {"added.0"} and b["added.0"].dtype == torch.float16 and b["added.0"].any()
    for name, value in a.items():
        assert value.dtype == b[name].dtype and torch.equal(value, b[name]), name
    assert outputs(training.out) == outputs(model)
    for name in ("router.safetensors", "README.md"):
        assert (training.out / name).read_bytes().startswith(before[name])
    assert "haze" in (training.out / "README.md").read_text()
    assert {p.name for p in training.out.iterdir()} == set(before) and not list(training.out.parent.glob("*.tmp"))

    untrained = measure(with_task(old, "haze", new.config.precision[-1]), "haze", clean, degraded)
    trained = measure(new, "haze", clean, degraded)
    assert trained > untrained + 1
    assert trained > max(measure(new, task, clean, degraded) for task in TASKS) + 1


def test_a_second_one_beside_the_first(training: ExpertTraining) -> None:
    add_expert(replace(training, steps=3), quiet)
    more = replace(training, name="night", model=training.out, out=training.out.with_name("more"), steps=3)
    add_expert(replace(more, degradation="low_light"), quiet)
    first, second = load_net(training.out), load_net(more.out)
    assert second.config.tasks == (*TASKS, "haze", "night")
    assert torch.equal(second.added[0], first.added[0]) and not torch.equal(second.added[1], first.added[0])
    assert outputs(more.out) == outputs(training.out)


def test_with_a_surface_it_learns_more(training: ExpertTraining, model: Path) -> None:
    """And the others, those with surfaces among them, stay what they were, bit for bit."""
    add_expert(replace(training, minutes=1e6), quiet)
    more = replace(training, minutes=1e6, surface=True, out=training.out.with_name("more"))
    add_expert(more, quiet)
    plain, own = load_net(training.out), load_net(more.out)
    assert own.config == replace(plain.config, own=("haze",)) and outputs(more.out) == outputs(model)
    clean, degraded = Crops(training).draw(40, torch.Generator().manual_seed(9))
    assert measure(own, "haze", clean, degraded) > measure(plain, "haze", clean, degraded)

    second = replace(more, name="night", degradation="low_light", model=more.out, out=more.out.with_name("both"))
    add_expert(replace(second, steps=3), quiet)
    assert load_net(second.out).config.own == ("haze", "night") and outputs(second.out) == outputs(model)
    for name, value in own.own.state_dict().items():
        assert torch.equal(load_net(second.out).own.state_dict()[name], value), name
    with pytest.raises(OptionError, match="can't be called 'items'"):
        add_expert(replace(more, name="items", out=more.out.with_name("third")), quiet)


def test_from_pairs_to_a_restored_photo(
    training: ExpertTraining, photos: Path, tmp_path: Path, astronaut: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the command line, from pairs in a folder."""
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    x = torch.from_numpy(astronaut[:280, :280].copy()).permute(2, 0, 1)[None] / 255
    for name, pixels in (("a_gt", x), ("a_lq", Recipe.parse(HAZE)(x, 3))):
        Image.fromarray((pixels[0] * 255).round().byte().permute(1, 2, 0).numpy()).save(pairs / f"{name}.png")
    words = ["--model", str(training.model), "--device", "cpu", "--minutes", "0.005", "--surface"]
    assert main(["add-expert", "brume-2", "--data", str(pairs), "-o", str(tmp_path / "out"), *words]) == 0
    assert "Added brume-2" in capsys.readouterr().out and load_net(tmp_path / "out").config.own == ("brume-2",)
    photo, out = str(photos / "0.png"), tmp_path / "out.png"
    words = ["restore", photo, "-o", str(out), "--device", "cpu", "--model", str(tmp_path / "out")]
    assert main([*words, "--weights", "brume-2=1.3,denoise@relay=-0.3"]) == 0
    assert "brume-2=1.3" in capsys.readouterr().out
    with Image.open(out) as restored:
        assert restored.size == (110, 90)
    assert main([*words, "--overwrite"]) == 0  # what the router chooses still works
    assert main([*words, "--overwrite", "--weights", "brume-3"]) == 2
    assert "did you mean 'brume-2'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "a,b", "a@relay", "a=1", "a;b", "a b", "w.json", "-a", "keep"])
def test_a_name_that_weights_can_t_tell(name: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="letters, digits and hyphens"):
        ExpertTraining(name, tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "denoise"}, "an expert 'denoise' already"),
        ({"degradation": "hase"}, "did you mean 'haze'"),
        ({"degradation": "haze(beta=-1)"}, "beta=-1 is out of range"),
        ({"degradation": "resize(scale=1)"}, "nothing to learn"),
        ({"degradation": ""}, "no pairs NAME_lq, NAME_gt"),
        ({"crop": 256}, "at least 272 pixels"),
    ],
)
def test_refusals(training: ExpertTraining, changes: dict[str, Any], said: str) -> None:
    there = sorted(training.out.parent.iterdir())
    with pytest.raises(UniresError, match=said):
        add_expert(replace(training, **changes), quiet)
    assert sorted(training.out.parent.iterdir()) == there


def test_folders_that_are_refused(training: ExpertTraining, tmp_path: Path, photos: Path) -> None:
    (tmp_path / "empty").mkdir()
    for data in ("empty", "nowhere"):
        with pytest.raises(UniresError, match="no photo"):
            add_expert(replace(training, data=tmp_path / data), quiet)
    (tmp_path / "single").mkdir()
    (tmp_path / "single" / "a_gt.png").write_bytes((photos / "0.png").read_bytes())
    with pytest.raises(UniresError, match=r"a_lq\.png can't be read"):
        add_expert(replace(training, data=tmp_path / "single", degradation=""), quiet)
    with pytest.raises(OptionError, match="minutes"):
        replace(training, minutes=0)
    training.out.mkdir()
    with pytest.raises(UniresError, match="there already"):
        add_expert(training, quiet)
    assert not list(training.out.iterdir())


def test_adapters_are_for_latent_models(training: ExpertTraining) -> None:
    with pytest.raises(OptionError, match="own modulation"):
        add_expert(replace(training, rank=4), quiet)
    with pytest.raises(OptionError, match="rank must be"):
        replace(training, rank=-1)


def test_the_same_seed_gives_the_same_expert(training: ExpertTraining) -> None:
    other = replace(training, out=training.out.with_name("other"))
    # the rate falls with time: two runs are alike where time hardly counts
    add_expert(replace(training, steps=3, minutes=1e6), quiet)
    add_expert(replace(other, steps=3, minutes=1e6), quiet)
    a, b = (load_file(c.out / "model.safetensors")["added.0"] for c in (training, other))
    assert torch.equal(a, b)
