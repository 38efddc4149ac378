"""Training latent models: the recipe, one process like two, exact continuation, and the round trip."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import unires
from unires.denoise.checkpoint import load_latent
from unires.denoise.convert import convert
from unires.doors.cli import main
from unires.errors import UniresError
from unires.train.latent import LatentTrainer, LatentTraining

ROOT = Path(unires.__file__).parents[2]


@pytest.fixture(scope="module")
def model(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("latent") / "model"
    convert(str(base_folder), out)
    return out


@pytest.fixture(scope="module")
def photos(astronaut: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i in range(4):
        Image.fromarray(astronaut[100 * i : 100 * i + 96, 80 * i : 80 * i + 120]).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def config(tmp_path: Path, model: Path, photos: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(
        f'model = "{model}"\nrun = "{tmp_path / "run"}"\ndata = ["{photos}"]\nbatch = 4\nat_once = 2\nsteps = 6\n'
        'checkpointing = false\nrate = 1e-3\nwarmup = 2\ncrop = 32\nmargin = 4\nprecision = "no"\n'
        "save_steps = 2\nlog_steps = 1\n"
        "[tasks]\ndenoise = 0.6\nsuper-resolution = 0.4\n"
    )
    return path


def train(config: Path, *changes: str) -> list[str]:
    said: list[str] = []
    LatentTrainer(LatentTraining.read(config, changes), said.append).run()
    return said


def weights(run: Path) -> dict[str, torch.Tensor]:
    return {k: v for k, v in load_file(run / "training.safetensors").items() if k.startswith("unet.")}


def losses(lines: list[str]) -> list[float]:
    return [float(line.split()[-1]) for line in lines if line.startswith("step ")]


def test_the_paper_s_recipe() -> None:
    recipe = LatentTraining.read(ROOT / "configs" / "paper.toml")
    assert (recipe.batch, recipe.steps, recipe.rate) == (256, 200_000, 8e-5)
    assert recipe.task_dropout == recipe.condition_dropout == 0.1
    odds = {"super-resolution": 0.32, "motion-deblur": 0.28, "defocus-deblur": 0.18, "denoise": 0.22}
    assert recipe.tasks == odds


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("rat=1", "Unknown option 'rat'; did you mean 'rate'"),
        ("batch=0", "batch must be more than 0"),
        ("tasks={denoize=1}", "did you mean 'denoise'"),
        ('precision="fp8"', "Unknown precision"),
        ("at_once=3", "does not divide"),
        ('model="nothing"', "no checkpoint folder"),
    ],
)
def test_bad_options_are_refused(config: Path, change: str, said: str) -> None:
    with pytest.raises(UniresError, match=said):
        LatentTrainer(LatentTraining.read(config, [change]))


def test_accumulated_or_not_the_loss_is_the_same(config: Path, tmp_path: Path) -> None:
    one = losses(train(config, "at_once=4", f'run="{tmp_path / "one"}"'))
    four = losses(train(config, "at_once=1", "checkpointing=true", f'run="{tmp_path / "four"}"'))
    assert len(one) == 6 and one == pytest.approx(four, abs=2e-5)


def command(config: Path, *changes: str) -> list[str]:
    words = [sys.executable, "-m", "unires", "train-latent", str(config)]
    return words + [word for change in changes for word in ("--set", change)]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", **more}


def two_processes(config: Path, *changes: str) -> list[float]:
    """The losses of a run on two processes, which talk through gloo; each has to end well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    both = [
        subprocess.Popen(
            command(config, *changes), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=environment(RANK=r, LOCAL_RANK=r, WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port),
        )
        for r in "01"
    ]  # fmt: skip
    said = [process.communicate(timeout=600)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    return losses(said[0].splitlines())


def furthest(a: Path, b: Path) -> float:
    """The greatest difference between two runs' weights."""
    x, y = weights(a), weights(b)
    assert x.keys() == y.keys()
    return max(float((x[k] - y[k]).abs().max()) for k in x)


def test_two_processes_give_the_loss_of_one(config: Path, tmp_path: Path) -> None:
    one = losses(train(config))
    assert two_processes(config, f'run="{tmp_path / "two"}"') == pytest.approx(one, abs=2e-5)
    assert furthest(tmp_path / "run", tmp_path / "two") < 1e-3  # Adam's steps magnify sums in another order


def test_two_that_share_the_weights_give_the_loss_of_one(config: Path, tmp_path: Path) -> None:
    """FSDP, also continued: what was saved whole is shared out again; and one process alone goes on with it."""
    one, run = losses(train(config)), f'run="{tmp_path / "shared"}"'
    first = two_processes(config, run, "shard=true", "steps=2")
    rest = two_processes(config, run, "shard=true", "steps=4")
    last = losses(train(config, run))
    assert [len(first), len(rest), len(last)] == [2, 2, 2]
    assert first + rest + last == pytest.approx(one, abs=2e-5)
    assert furthest(tmp_path / "run", tmp_path / "shared") < 1e-3


def test_a_share_is_a_share() -> None:
    """Of two processes each holds half of the weights, of what is in no level as well."""
    code = (
        "import torch, torch.distributed as dist\n"
        "from unires.train.latent import shard\n"
        "dist.init_process_group('gloo')\n"
        "net = torch.nn.Module()\n"
        "net.down_blocks = torch.nn.ModuleList([torch.nn.Linear(8, 8)])\n"
        "net.up_blocks = torch.nn.ModuleList([torch.nn.Linear(8, 8)])\n"
        "net.mid_block, net.conv_out = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)\n"
        "shard(net, torch.device('cpu'), 2)\n"
        "print(sum(p.to_local().numel() for p in net.parameters()), sum(p.numel() for p in net.parameters()))\n"
        "dist.destroy_process_group()\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True,
            env=environment(RANK=r, LOCAL_RANK=r, WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port),
        )
        for r in "01"
    ]  # fmt: skip
    assert [process.communicate(timeout=600)[0].split() for process in both] == [["144", "288"]] * 2


class Killed(Exception):
    """Stands for a machine that is gone: nothing is saved any more."""


@pytest.mark.parametrize("at", [3, 4])
def test_a_killed_run_ends_in_the_same_weights(config: Path, tmp_path: Path, at: int) -> None:
    """Killed between saves, or right before one, it goes on from the last and ends exactly as if it had not been."""
    whole = losses(train(config))

    def until(line: str) -> None:
        if line.startswith(f"step {at} "):
            raise Killed

    changes = [f'run="{tmp_path / "killed"}"']
    with pytest.raises(Killed):
        LatentTrainer(LatentTraining.read(config, changes), until).run()
    rest = losses(train(config, *changes))
    assert len(rest) == 6 - (at - 1) // 2 * 2 and rest == whole[-len(rest) :]
    a, b = weights(tmp_path / "run"), weights(tmp_path / "killed")
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_process_that_is_killed_at_a_random_step(config: Path, tmp_path: Path) -> None:
    """By the system, whatever it is doing after that step, saving included."""
    at, changes = random.randint(1, 5), [f'run="{tmp_path / "killed"}"']
    with subprocess.Popen(command(config, *changes), stdout=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout is not None
        seen = next((line for line in process.stdout if line.startswith(f"step {at} ")), "")
        process.kill()
    assert seen and process.returncode != 0, at
    train(config)
    train(config, *changes)
    a, b = weights(tmp_path / "run"), weights(tmp_path / "killed")
    assert all(torch.equal(a[k], b[k]) for k in a), at


def test_a_missing_and_a_broken_shard_are_named_once_and_skipped(config: Path, tmp_path: Path, photos: Path) -> None:
    (tmp_path / "cut.tar").write_bytes(b"\1" * 700)
    whole = [str(photos), str(tmp_path / "cut.tar"), str(tmp_path / "none.tar")]
    said = train(config, f"data={json.dumps(whole)}")
    for name in ("cut.tar", "none.tar"):
        assert len([line for line in said if "skipped" in line and name in line]) == 1, said
    assert len(losses(said)) == 6


def test_a_run_that_can_t_be_continued(config: Path, tmp_path: Path) -> None:
    train(config, "steps=2")
    with pytest.raises(UniresError, match="another seed"):
        train(config, "seed=5")
    (tmp_path / "run" / "training.safetensors").write_bytes(b"\x08")
    with pytest.raises(UniresError, match="damaged"):
        train(config)


def test_from_conversion_to_a_composed_restore(
    base_folder: Path, config: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole way, through the command line."""
    base, out = tmp_path / "converted", tmp_path / "out.png"
    assert main(["convert", str(base_folder), str(base)]) == 0
    assert main(["train-latent", str(config), "--set", f'model="{base}"']) == 0, capsys.readouterr().err
    before, after = load_latent(base), load_latent(tmp_path / "run")
    assert not before.unet.conv_in.weight[:, 4:].any() and after.unet.conv_in.weight[:, 4:].any()
    assert torch.equal(before.vae.decoder.conv_in.weight, after.vae.decoder.conv_in.weight)
    words = ["restore", str(photos / "0.png"), "-o", str(out), "--model", str(tmp_path / "run"), "--device", "cpu"]
    assert main([*words, "--weights", "denoise=1.3,super-resolution@relay=-0.3", "--steps", "2"]) == 0
    with Image.open(out) as restored:
        assert restored.size == (120, 96)
