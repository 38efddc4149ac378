"""Checkpoints: there and back, and one sentence about each thing that can be wrong with one."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import unires
from unires.denoise.checkpoint import SHIPPED, load_denoiser, load_net, save_net
from unires.denoise.compact import PRECISION, TASKS
from unires.errors import UniresError

PACKAGE = Path(unires.__file__).parent


@pytest.fixture
def folder(tmp_path: Path, tiny_net: Callable[..., Any]) -> Path:
    save_net(tiny_net(5), tmp_path / "model", torch.float32)
    return tmp_path / "model"


def test_there_and_back(folder: Path, tiny_net: Callable[..., Any]) -> None:
    net, again = tiny_net(5), load_net(folder)
    assert again.config == net.config
    for name, value in net.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_half_precision_by_default(tmp_path: Path, tiny_net: Callable[..., Any]) -> None:
    net = tiny_net(5)
    save_net(net, tmp_path)
    again = load_net(tmp_path)
    for name, value in net.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value.half().float(), atol=0, rtol=0)
    assert (tmp_path / "model.safetensors").stat().st_size < 2.3 * sum(p.numel() for p in net.parameters()) + 10_000


def test_every_option_of_the_network_is_kept(tmp_path: Path, tiny_net: Callable[..., Any]) -> None:
    net = tiny_net(1, widths=(8, 16, 8), down=(1, 0, 2), up=(2, 1), wide_from=1, embedding=24)
    save_net(net, tmp_path)
    assert load_net(tmp_path).config == net.config


def test_a_checkpoint_from_before_tasks_could_be_added(tmp_path: Path, folder: Path) -> None:
    """Its config.json names neither tasks nor precision: those that every network has are meant."""
    old = tmp_path / "old"
    shutil.copytree(folder, old)
    change(old, tasks=None, precision=None)
    assert "tasks" not in json.loads((old / "config.json").read_text())
    net, again = load_net(folder), load_net(old)
    assert again.config == net.config and again.config.tasks == TASKS and again.config.precision == PRECISION
    a, b = (load_denoiser(f, kind=torch.float32) for f in (folder, old))
    x = torch.linspace(-1, 1, 3 * 16 * 16).view(1, 3, 16, 16)
    for task in TASKS:
        assert torch.equal(a.predict(x, 0.5, x, [task]), b.predict(x, 0.5, x, [task]))


def change(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config = {k: v for k, v in (config | values).items() if v is not None}
    (folder / "config.json").write_text(json.dumps(config))


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors"),
    "empty weights": (lambda f: (f / "model.safetensors").write_bytes(b""), "damaged"),
    "cut weights": (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-100]),
                    "damaged"),
    "no weights at all": (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 1000), "damaged"),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{"), "damaged"),
    "config is no text": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\0"), "damaged"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), "damaged"),
    "config is empty": (lambda f: (f / "config.json").write_text("{}"), "damaged"),
    "other kind": (lambda f: change(f, kind="other"), "kind that this version does not know"),
    "unknown option": (lambda f: change(f, depth=3), "damaged"),
    "no number": (lambda f: change(f, widths="wide"), "damaged"),
    "uneven": (lambda f: change(f, up=[1, 1]), "damaged"),
    "too few tasks": (lambda f: change(f, tasks=["blind"], precision=[60]), "tasks are blind"),
    "a task twice": (lambda f: change(f, tasks=[*TASKS, "blind"], precision=[*PRECISION, 60]), "none of them twice"),
    "no precision": (lambda f: change(f, tasks=[*TASKS, "haze"]), "`precision`"),
    "zero precision": (lambda f: change(f, precision=[0] * len(TASKS)), "`precision`"),
    "a task without weights": (
        lambda f: change(f, tasks=[*TASKS, "haze"], precision=[*PRECISION, 60]), "don't fit"),
    "other widths": (lambda f: change(f, widths=[8, 16]), "don't fit"),
    "negative widths": (lambda f: change(f, widths=[8, -8]), "fit|damaged"),
    "other depth": (lambda f: change(f, down=[1, 2]), "don't fit"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_checkpoint_is_refused_in_one_sentence(folder: Path, what: str) -> None:
    damage, said = DAMAGE[what]
    damage(folder)
    with pytest.raises(UniresError) as refused:
        load_denoiser(folder)
    text = str(refused.value)
    assert re.search(said, text), text
    assert "\n" not in text and text.endswith(".") and len(text) < 400


@pytest.mark.parametrize("name", ["missing", "a file", "strange\nname"])
def test_a_folder_that_is_none(tmp_path: Path, name: str) -> None:
    (tmp_path / "a file").write_text("x")
    with pytest.raises(UniresError, match="no checkpoint folder") as refused:
        load_denoiser(tmp_path / name)
    assert "\n" not in str(refused.value)


def test_nothing_is_ever_unpickled() -> None:
    """No way to load a pickle is so much as named in the package."""
    banned = re.compile(
        r"torch\.load|import pickle|from pickle|pickle\.|cloudpickle|joblib|shelve|marshal|allow_pickle\s*=\s*True"
        r"|weights_only|torch\.jit\.load|(?<![\w.])eval\(|(?<![\w.])exec\("
    )
    for path in PACKAGE.rglob("*.py"):
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            assert not banned.search(line), f"{path.name}:{number}: {line.strip()}"


def test_the_shipped_checkpoint() -> None:
    """Whole, of at most 15 MiB, in half precision, finite, with weights that are no padding."""
    net = load_net()
    assert sum(p.stat().st_size for p in SHIPPED.iterdir()) <= 15 * 2**20
    assert 3e6 <= sum(p.numel() for p in net.parameters()) <= 8e6
    for name, value in net.state_dict().items():
        assert torch.isfinite(value).all(), name
        assert torch.equal(value, value.half().float()), name
