"""A latent model learns a degradation more, by an embedding or by adapters too; its old experts stay bit for bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from unires.denoise.checkpoint import load_denoiser, load_latent
from unires.denoise.convert import convert
from unires.denoise.latent import PROMPTS, LatentDenoiser
from unires.denoise.schedule import alpha_sigma
from unires.doors.cli import main
from unires.errors import OptionError
from unires.train.expert import Crops, ExpertTraining, add_expert


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def model(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("latent") / "model"
    convert(str(base_folder), out)
    return out


@pytest.fixture
def training(tmp_path: Path, astronaut: Any, model: Path) -> ExpertTraining:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(2):
        Image.fromarray(astronaut[100 * i : 100 * i + 170, 150:320]).save(photos / f"{i}.png")
    return ExpertTraining("haze", photos, tmp_path / "out", model, "haze", steps=40, crop=30, margin=8, batch=2,
                          rate=0.02, device="cpu")  # fmt: skip


def said(folder: Path, tasks: tuple[str, ...]) -> Tensor:
    denoiser = load_denoiser(folder, kind=torch.float32)
    z, c = (torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(2))
    return torch.cat([denoiser.predict(z, t, c, [task]) for task in tasks for t in (1.0, 0.4)])


def loss(training: ExpertTraining, task: str) -> float:
    """Of the trained model, with one task, on samples that it was not trained on."""
    net, g = load_latent(training.out), torch.Generator().manual_seed(99)
    with torch.no_grad():
        x, c = (net.sum_up(net.look((v + 1) / 2)) for v in Crops(replace(training, crop=32)).draw(32, g))
        t, noise = net.times[torch.randint(len(net.times), (32,), generator=g)], torch.randn(x.shape, generator=g)
        alpha, sigma = (v.view(-1, 1, 1, 1) for v in alpha_sigma(t))
        index = torch.tensor([net.config.tasks.index(task)])
        error = net.out(alpha * x + sigma * noise, t, c, index) - noise
    return float(error.square().mean())


@pytest.mark.parametrize("rank", [0, 2])
def test_it_learns_and_the_others_stay(training: ExpertTraining, model: Path, rank: int) -> None:
    training = replace(training, rank=rank)
    add_expert(training, quiet)
    assert torch.equal(said(training.out, tuple(PROMPTS)), said(model, tuple(PROMPTS)))
    assert not torch.allclose(said(training.out, ("haze",)), said(training.out, ("blind",)))
    assert loss(training, "haze") < loss(training, "blind") - 0.003

    old, new = (load_file(folder / "model.safetensors") for folder in (model, training.out))
    own = [n for n in new if ".haze." in n]
    assert bool(own) == bool(rank) and len(new) == len(old) + len(own)
    assert len(new["prompts"]) == len(PROMPTS) + 1 and torch.equal(new["prompts"][:-1], old["prompts"])
    described = json.loads((training.out / "config.json").read_text())
    assert described["adapters"] == ({"haze": rank} if rank else {})
    assert "haze" in (training.out / "README.md").read_text()


def test_experts_with_and_without_adapters_in_one_batch(training: ExpertTraining) -> None:
    add_expert(replace(training, rank=2, steps=5), quiet)
    more = replace(training, name="night", degradation="low_light", model=training.out, steps=5, rank=3,
                   out=training.out.with_name("more"))  # fmt: skip
    add_expert(more, quiet)
    assert torch.equal(said(more.out, ("haze", "denoise")), said(training.out, ("haze", "denoise")))
    denoiser = load_denoiser(more.out, kind=torch.float32)
    assert isinstance(denoiser, LatentDenoiser)
    tasks = ["night", "denoise", "haze", "night"]
    z, c = (torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(2))
    together = denoiser.predict(z, 0.7, c, tasks)
    for i, task in enumerate(tasks):
        alone = denoiser.predict(z[i : i + 1], 0.7, c[i : i + 1], [task])
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-5)


def test_from_the_command_line_to_a_restored_photo(
    training: ExpertTraining, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["add-expert", "haze", "--data", str(training.data), "--degradation", "haze", "-o", str(training.out),
             "--model", str(model), "--rank", "2", "--minutes", "0.01", "--device", "cpu"]  # fmt: skip
    assert main(words) == 0, capsys.readouterr().err
    photo = training.data / "0.png"
    words = ["restore", str(photo), "-o", str(tmp_path / "x.png"), "--model", str(training.out), "--device", "cpu",
             "--weights", "haze=0.8,denoise=0.2"]  # fmt: skip
    assert main(words) == 0, capsys.readouterr().err
    assert (tmp_path / "x.png").is_file()


def test_refusals(training: ExpertTraining) -> None:
    with pytest.raises(OptionError, match="already"):
        add_expert(replace(training, name="denoise"), quiet)
    assert not training.out.exists()
