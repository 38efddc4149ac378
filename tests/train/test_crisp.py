"""The expert `crisp` learns from what the others leave, and `unires train` can train on mixtures, to compare."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from unires.denoise.checkpoint import load_denoiser, load_net, save_net
from unires.denoise.compact import TASKS, CompactConfig
from unires.errors import OptionError
from unires.train.config import TrainConfig
from unires.train.crisp import Left, grid, loss
from unires.train.expert import ExpertTraining, add_expert, with_task
from unires.train.lpips import Lpips
from unires.train.mixed import MixedTrainer


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, astronaut: Any) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    Image.fromarray(astronaut[:160, 150:350]).save(folder / "1.png")
    return folder


@pytest.fixture
def training(tmp_path: Path, photos: Path, tiny_net: Callable[..., Any], lpips_file: Path) -> ExpertTraining:
    model = tmp_path / "model"
    net = tiny_net(3, widths=(16, 16))
    net.leave.weight.data.mul_(0.3)
    save_net(net, model)
    (model / "README.md").write_text("# A model\n")
    return ExpertTraining("crisp", photos, tmp_path / "out", model, steps=12, crop=64, margin=16, batch=4, device="cpu",
                          rate=0.05, lpips=lpips_file)  # fmt: skip


def test_it_sees_what_the_experts_leave(training: ExpertTraining) -> None:
    net = load_net(training.model).requires_grad_(False)
    left = Left(training, net, torch.float32)
    clean, given = left.draw(6, torch.Generator().manual_seed(1))
    assert clean.shape == given.shape == (6, 3, 64, 64) and float(given.abs().max()) <= 1
    assert not torch.equal(clean, given) and float((clean - given).square().mean()) < 0.2
    again = left.draw(6, torch.Generator().manual_seed(1))
    assert torch.equal(again[0], clean) and torch.equal(again[1], given)


def test_it_learns_and_the_others_stay(training: ExpertTraining, capsys: pytest.CaptureFixture[str]) -> None:
    add_expert(training, lambda line: None)
    old, new = load_net(training.model), load_net(training.out)
    assert new.config.tasks == (*TASKS, "crisp")
    for name, tensor in old.state_dict().items():
        assert torch.equal(new.state_dict()[name], tensor), name
    assert "LPIPS" in (training.out / "README.md").read_text()
    before = with_task(old, "crisp", new.config.precision[-1])
    assert training.lpips is not None
    judge, left = Lpips(training.lpips), Left(training, old.requires_grad_(False), torch.float32)
    pair = left.draw(24, torch.Generator().manual_seed(9))
    with torch.no_grad():
        value = {net: float(loss(net, judge, *pair, torch.float32)) for net in (before, new)}
    assert value[new] < value[before]
    assert "crisp" in load_denoiser(training.out, kind=torch.float32).facts.tasks


def test_it_can_be_trained_on(training: ExpertTraining, tmp_path: Path) -> None:
    add_expert(training, lambda line: None)
    more = ExpertTraining(**{**vars(training), "model": training.out, "out": tmp_path / "more", "seed": 1})
    add_expert(more, lambda line: None)
    first, second = load_net(training.out), load_net(more.out)
    assert second.config == first.config and not torch.equal(second.added[0], first.added[0])
    with pytest.raises(OptionError, match="already"):
        add_expert(ExpertTraining(**{**vars(more), "name": "denoise", "out": tmp_path / "third"}), lambda line: None)


def test_it_gets_a_surface_when_trained_on(training: ExpertTraining, tmp_path: Path) -> None:
    add_expert(training, lambda line: None)
    changes = {"model": training.out, "out": tmp_path / "more", "surface": True, "rate": 0.01}
    add_expert(ExpertTraining(**{**vars(training), **changes}), lambda line: None)
    first, second = load_net(training.out), load_net(tmp_path / "more")
    assert second.config.own == ("crisp",) and second.config.tasks == first.config.tasks
    for name, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor) != (name == "added.0"), name
    assert not torch.equal(second.own["crisp"].leave.weight, first.leave.weight)


def test_no_degradation_beside_it(training: ExpertTraining) -> None:
    with pytest.raises(OptionError, match="--degradation"):
        ExpertTraining(**{**vars(training), "degradation": "haze"})


def test_training_on_mixtures(tmp_path: Path, photos: Path) -> None:
    model = CompactConfig(widths=(8, 8), down=(1, 1), up=(1,), embedding=16)
    config = TrainConfig(clean=(str(photos),), run=str(tmp_path / "run"), model=model, crop=64, batch=6, steps=2,
                         mixtures=True, relay_share=0.4)  # fmt: skip
    trainer = MixedTrainer(config, lambda line: None)
    batch = trainer.batch(0)
    assert batch.task.tolist() == [0] * 6 and not torch.equal(batch.clean, batch.degraded)
    assert float(batch.severity.min()) >= 0 and not batch.relayed.any()
    before = trainer.net.leave.weight.clone()
    trainer.run()
    assert not torch.equal(before, trainer.net.leave.weight) and (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize("period", [2, 4])
@pytest.mark.parametrize("along", [2, 3])
def test_a_grid_is_charged_for(period: int, along: int) -> None:
    """Stripes that repeat by one level of 255, up and down, cost their mean square; what photos have costs little."""
    level = 2 / 255
    sign = torch.tensor([1.0, -1.0] if period == 2 else [1.0, 1.0, -1.0, -1.0]).repeat(128 // period)
    stripes = level * sign.view(1, 1, -1, 1).transpose(2, along).expand(1, 3, 128, 128)
    assert float(grid(stripes)) == pytest.approx(level**2, rel=0.01)
    noise = level * torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    ramp = torch.linspace(-1, 1, 128).expand(1, 3, 128, 128)
    assert float(grid(noise)) < 0.03 * level**2 and float(grid(0.3 * ramp)) < 0.5 * level**2
