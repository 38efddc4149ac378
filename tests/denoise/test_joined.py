"""A whole network as an expert beside the others: it answers as it does alone, and so do they."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from unires.denoise.checkpoint import digest, load_denoiser, save_net
from unires.denoise.compact import TASKS
from unires.denoise.interface import Hint
from unires.doors.cli import main
from unires.errors import OptionError, UniresError
from unires.train.expert import ExpertTraining, add_expert, add_network


@pytest.fixture
def folders(tmp_path: Path, tiny_net: Callable[..., Any]) -> tuple[Path, Path]:
    """A model, and another network of other widths."""
    for name, seed, widths in (("model", 1, (16, 16)), ("other", 2, (16, 24))):
        save_net(tiny_net(seed, widths=widths), tmp_path / name)
    return tmp_path / "model", tmp_path / "other"


def noise(seed: int, count: int = 1) -> Tensor:
    return torch.randn(count, 3, 24, 24, generator=torch.Generator().manual_seed(seed))


def test_everyone_says_what_they_say_alone(folders: tuple[Path, Path], tmp_path: Path) -> None:
    model, other = folders
    add_network("mine", other, "denoise", tmp_path / "out", model)
    joined, old, new = (load_denoiser(f, kind=torch.float32) for f in (tmp_path / "out", model, other))
    assert joined.facts.tasks == (*TASKS, "mine")
    assert joined.facts.multiple == max(old.facts.multiple, new.facts.multiple)
    assert joined.facts.parameters == old.facts.parameters + new.facts.parameters
    z, c = noise(0, 4), noise(1, 4)
    for t, condition in ((1.0, c), (0.4, c), (0.4, None)):
        tasks, hints = ["dejpeg", "mine", "blind", "mine"], [None, Hint(0.4), None, Hint(0.7)]
        together = joined.predict(z, t, condition, tasks, hints)
        for i, task in enumerate(tasks):
            part = slice(i, i + 1)
            seen = None if condition is None else condition[part]
            owner, asked = (new, "denoise") if task == "mine" else (old, task)
            alone = owner.predict(z[part], t, seen, [asked], hints[part])
            torch.testing.assert_close(together[part], alone, atol=1e-5, rtol=1e-5)
    with pytest.raises(OptionError, match="did you mean 'mine'"):
        joined.predict(z[:1], 1.0, c[:1], ["mime"])


def test_it_is_kept_when_another_expert_is_added(folders: tuple[Path, Path], tmp_path: Path, astronaut: Any) -> None:
    model, other = folders
    add_network("mine", other, "blind", tmp_path / "one", model)
    (tmp_path / "photos").mkdir()
    Image.fromarray(astronaut[:60, :60]).save(tmp_path / "photos" / "a.png")
    add_expert(ExpertTraining("haze", tmp_path / "photos", tmp_path / "two", tmp_path / "one", "haze", steps=2, crop=32,
                              margin=8, device="cpu"), lambda line: None)  # fmt: skip
    add_network("yours", model, "dejpeg", tmp_path / "three", tmp_path / "two")
    three = load_denoiser(tmp_path / "three", kind=torch.float32)
    assert three.facts.tasks == (*TASKS, "haze", "mine", "yours")
    z, c = noise(0), noise(1)
    said = three.predict(z, 0.5, c, ["mine"])
    assert torch.equal(said, load_denoiser(other, kind=torch.float32).predict(z, 0.5, c, ["blind"]))
    assert len({digest(tmp_path / name) for name in ("model", "one", "two", "three")}) == 4
    weights = tmp_path / "three" / "networks" / "mine" / "model.safetensors"
    before = digest(tmp_path / "three")
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert digest(tmp_path / "three") != before


def test_from_the_command_line_to_a_photo(
    folders: tuple[Path, Path], tmp_path: Path, astronaut: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    model, other = folders
    photo, out = tmp_path / "photo.png", tmp_path / "out"
    Image.fromarray(astronaut[:50, :70]).save(photo)
    words = ["add-expert", "mine", "--network", str(other), "--task", "denoise", "-o", str(out), "--model", str(model)]
    assert main(words) == 0, capsys.readouterr().err
    pixels = []
    for folder, weights in ((out, "mine"), (other, "denoise"), (out, "denoise")):
        target = tmp_path / f"{folder.name}-{weights}.png"
        words = ["restore", str(photo), "-o", str(target), "--model", str(folder), "--device", "cpu"]
        assert main([*words, "--weights", weights]) == 0, capsys.readouterr().err
        with Image.open(target) as image:
            pixels.append(np.asarray(image))
    assert np.array_equal(pixels[0], pixels[1]) and not np.array_equal(pixels[0], pixels[2])
    words[2:4] = []
    assert main(["add-expert", "x", "-o", str(out)]) != 0  # neither photos nor a network


def test_refusals(folders: tuple[Path, Path], tmp_path: Path) -> None:
    model, other = folders
    out = tmp_path / "out"
    for name, network, task, said in (
        ("denoise", other, "blind", "already"),
        ("a b", other, "blind", "letters"),
        ("mine", other, "denoize", "did you mean 'denoise'"),
        ("mine", tmp_path / "nothing", "blind", "no checkpoint folder"),
    ):
        with pytest.raises(UniresError, match=said):
            add_network(name, network, task, out, model)
        assert not out.exists()
    add_network("mine", other, "blind", out, model)
    with pytest.raises(UniresError, match="already"):
        add_network("mine", other, "blind", tmp_path / "more", out)
    config = out / "config.json"
    config.write_text(config.read_text().replace('"blind"\n', '"no-such"\n'))
    with pytest.raises(UniresError, match="no task"):
        load_denoiser(out)
