"""The loop: a run that was killed ends as one that wasn't, processes agree, the loss falls, pairs are used."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import unires
from unires.degrade import isolated
from unires.denoise.checkpoint import load_denoiser, load_net, save_net
from unires.denoise.compact import TASKS, CompactConfig, CompactNet
from unires.errors import UniresError
from unires.train import relay
from unires.train.ahead import ahead
from unires.train.config import TrainConfig
from unires.train.loop import Batch, Trainer
from unires.train.state import read_state


@pytest.fixture
def config(photos: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        clean=(str(photos),), run=str(tmp_path / "run"), crop=32, margin=8, batch=4, steps=6, warmup=3,
        model=CompactConfig(widths=(8, 8), down=(1, 1), up=(1,), wide_from=1, embedding=16),
    )  # fmt: skip


def quiet(line: str) -> None:
    pass


def state(folder: str) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "training.safetensors") | {
        f"ema.{k}": v for k, v in load_file(Path(folder) / "model.safetensors").items()
    }


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys() and len(a) > 20
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


# -- resuming ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_run_that_was_killed_ends_as_one_that_was_not(config: TrainConfig, optimizer: str) -> None:
    config = replace(config, optimizer=optimizer, relay_share=0.5)
    unbroken = replace(config, run=config.run + "-unbroken")
    Trainer(unbroken, quiet).run()

    trainer = Trainer(config, quiet)
    trainer.started = 0.0
    for _ in range(3):
        trainer.train_step(trainer.batch(trainer.step))
    trainer.save()
    for _ in range(2):  # done, and lost with the process
        trainer.train_step(trainer.batch(trainer.step))
    again = Trainer(config, quiet)
    assert again.step == 3
    again.run()
    assert again.step == 6
    assert_same(state(config.run), state(unbroken.run))


def test_a_kill_while_saving_leaves_the_state_before(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(config, quiet)
    trainer.started = 0.0
    trainer.train_step(trainer.batch(trainer.step))
    trainer.save()
    before = state(config.run)
    trainer.train_step(trainer.batch(trainer.step))

    def killed(handle: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", killed)
        with pytest.raises(KeyboardInterrupt):
            trainer.save()
    assert_same(state(config.run), before)
    again = Trainer(config, quiet)
    assert again.step == 1
    again.train_step(again.batch(again.step))
    again.started = 0.0
    again.save()
    continued = state(config.run)
    trainer.save()
    assert_same(state(config.run), continued)


def test_a_gpus_next_samples_are_made_beside_and_in_order(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU: what stands for its streams notes what waits for what."""
    events: list[str] = []

    class Stream:
        def record_event(self) -> str:
            return f"made {len(events)}"

        def wait_event(self, event: str) -> None:
            events.append(event)

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: None)
    trainer = Trainer(config, quiet)
    expected = [trainer.batch(step).degraded for step in (2, 3, 4)]
    makers: list[int] = []

    def batch(step: int) -> Any:
        makers.append(threading.get_ident())
        return Batch(expected[step - 2], *[torch.zeros(1)] * 5, torch.Generator(), ())

    monkeypatch.setattr(trainer, "batch", lambda step: batch(min(step, 4)))
    trainer.step, trainer.device = 2, torch.device("cuda")
    batches = ahead(trainer.batch, trainer.step, trainer.device)
    assert all(torch.equal(next(batches).clean, x) for x in expected)
    batches.close()
    assert len(events) == 3 and len(makers) == 4 and threading.get_ident() not in makers


def test_each_step_has_its_own_sample_and_always_the_same(config: TrainConfig) -> None:
    trainer, other = Trainer(config, quiet), Trainer(replace(config, run=config.run + "2"), quiet)
    first, second = trainer.batch(0), trainer.batch(1)
    for a, b in zip(first[:4], other.batch(0)[:4], strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first[0], second[0])
    assert not torch.equal(first[0], Trainer(replace(config, seed=1, run=config.run + "3"), quiet).batch(0)[0])


def test_the_samples(config: TrainConfig) -> None:
    trainer = Trainer(replace(config, batch=400, tasks={"denoise": 3.0, "dejpeg": 1.0}), quiet)
    clean, degraded, task, severity, *_ = trainer.batch(0)
    assert clean.shape == degraded.shape == (400, 3, 32, 32)
    assert float(clean.min()) >= -1 and float(clean.max()) <= 1 and float(clean.min()) < -0.5
    share = {name: float((task == TASKS.index(name)).float().mean()) for name in TASKS}
    assert share["denoise"] == pytest.approx(0.75, abs=0.06) and share["dejpeg"] == pytest.approx(0.25, abs=0.06)
    levels = (degraded + 1) / 2 * 255
    assert float((levels - levels.round()).abs().max()) < 1e-3
    error = (degraded - clean).square().mean(dim=(1, 2, 3))
    assert float(error[severity == 0].max()) == 0 and float(error[severity > 0].min()) > 0


def test_some_samples_show_what_another_expert_has_cleaned(config: TrainConfig) -> None:
    tasks = {"motion-deblur": 1.0, "dejpeg": 1.0}
    share = Trainer(replace(config, batch=200, tasks=tasks, relay_share=0.4), quiet).batch(0)
    motion = share.task == TASKS.index("motion-deblur")
    for own in (motion, ~motion):
        assert float((share.relayed[own] > 0).float().mean()) == pytest.approx(0.4, abs=0.12)
    assert (Trainer(replace(config, run=config.run + "2"), quiet).batch(0).relayed == 0).all()


def test_noise_and_blocks_are_taken_out_of_soft_photos_too(config: TrainConfig) -> None:
    """Which stay soft; whom a blur is the degradation of gets none before it."""
    tasks = {"denoise": 1.0, "motion-deblur": 1.0}
    sharp, soft = (
        Trainer(replace(config, batch=120, tasks=tasks, soft_share=share), quiet).batch(0) for share in (0.0, 1.0)
    )

    def detail(batch: Batch, task: str) -> float:
        x = batch.clean[batch.task == TASKS.index(task)]
        return float((x[..., 1:] - x[..., :-1]).square().mean())

    assert detail(soft, "denoise") < 0.6 * detail(sharp, "denoise")
    assert detail(soft, "motion-deblur") > 0.8 * detail(sharp, "motion-deblur")
    noise = (soft.degraded - soft.clean)[soft.task == TASKS.index("denoise")]
    assert abs(float(noise.mean())) < 0.02 and float(noise.std()) > 0.03


def test_the_blind_expert_sees_nothing_that_was_cleaned(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(replace(config, batch=60, relay_share=0.5, task_dropout=0.9), quiet)
    relayed = trainer.batch(0).relayed > 0
    asked: list[torch.Tensor] = []
    forward = CompactNet.forward

    def listen(net: CompactNet, *inputs: torch.Tensor) -> torch.Tensor:
        asked.append(inputs[3])
        return forward(net, *inputs)

    monkeypatch.setattr(CompactNet, "forward", listen)
    trainer.started = 0.0
    trainer.train_step(trainer.batch(trainer.step))
    blind = asked[-1] == TASKS.index("blind")  # the calls before are of experts that clean
    assert relayed.any() and not blind[relayed].any() and float(blind[~relayed].float().mean()) > 0.7


def test_of_what_was_cleaned_an_expert_is_told_less_exactly(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    c = replace(config, batch=120, tasks={"motion-deblur": 1.0}, relay_share=0.5, task_dropout=0.0,
                severity_dropout=0.0, severity_jitter=0.0, angle_dropout=0.0, relay_jitter=0.1, relay_angle_dropout=0.6)
    trainer = Trainer(c, quiet)
    told: list[tuple[torch.Tensor, ...]] = []
    forward = CompactNet.forward

    def listen(net: CompactNet, *inputs: torch.Tensor) -> torch.Tensor:
        told.append(inputs)
        return forward(net, *inputs)

    batch = trainer.batch(trainer.step)
    monkeypatch.setattr(CompactNet, "forward", listen)
    trainer.started = 0.0
    trainer.train_step(batch)
    *_, severity, _, angle = told[-1]
    second, off = batch.relayed > 0, severity - batch.severity
    assert (off[~second] == 0).all() and 0.05 < float(off[second].std()) < 0.12
    moves = ~batch.angle.isnan()
    assert not angle[moves & ~second].isnan().any()
    assert 0.4 < float(angle[moves & second].isnan().float().mean()) < 0.8


def test_the_folder_is_a_checkpoint(config: TrainConfig) -> None:
    Trainer(config, quiet).run()
    denoiser = load_denoiser(Path(config.run), kind=torch.float32)
    assert denoiser.facts.tasks == TASKS
    x = torch.rand(1, 3, 20, 20)
    assert denoiser.predict(x, 1.0, x, ["blind"]).shape == x.shape
    saved = read_state(Path(config.run))
    assert saved["step"] == 6 and saved["seconds"] > 0
    assert not list(Path(config.run).glob("*.tmp"))


def test_a_run_of_another_model_is_not_continued(config: TrainConfig) -> None:
    Trainer(config, quiet).run()
    with pytest.raises(UniresError, match="can't be continued"):
        Trainer(replace(config, model=CompactConfig(widths=(8, 16), down=(1, 1), up=(1,))), quiet)
    (Path(config.run) / "training.safetensors").write_bytes(b"x")
    with pytest.raises(UniresError, match="can't be continued"):
        Trainer(config, quiet)


def test_starting_from_a_checkpoint(config: TrainConfig, tmp_path: Path, tiny_net: Any) -> None:
    save_net(tiny_net(wide_from=1, embedding=16), tmp_path / "start", torch.float32)
    trainer = Trainer(replace(config, start_from=str(tmp_path / "start")), quiet)
    for name, value in tiny_net(wide_from=1, embedding=16).state_dict().items():
        assert torch.equal(trainer.net.state_dict()[name], value)
        assert torch.equal(trainer.ema.state_dict()[name], value)
    with pytest.raises(UniresError, match="no checkpoint folder"):
        Trainer(replace(config, start_from=str(tmp_path / "nowhere")), quiet)
    save_net(tiny_net(), tmp_path / "other", torch.float32)
    with pytest.raises(UniresError, match="differs"):
        Trainer(replace(config, start_from=str(tmp_path / "other")), quiet)


# -- learning ---------------------------------------------------------------------------------------------------------


def test_the_loss_falls(config: TrainConfig, photos: Path) -> None:
    """Noise is learnt within seconds: after 700 steps of a tiny network, the same fixed noisy crops come out better
    by more than 2 dB, from the averaged weights. Never told how strong it is, it has no classical method's help."""
    config = replace(config, tasks={"denoise": 1.0}, batch=8, rate=4e-3, ema=0.95, severity_dropout=1.0)
    trainer = Trainer(config, quiet)
    trainer.started = 0.0
    x = trainer.photos.crops(trainer.photos.places(8, 48, torch.Generator().manual_seed(1)))
    noisy = (x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2))).clamp(0, 1)

    def gain() -> float:
        with torch.no_grad():
            unknown = torch.full((8,), torch.nan)
            better = trainer.predict(isolated.Degraded(noisy, torch.full((8,), -1.0), unknown), "denoise")
        return float(10 * torch.log10((noisy - x).square().mean() / (better - x).square().mean()))

    assert abs(gain()) < 0.2  # an untrained network changes nothing
    losses = [trainer.train_step(trainer.batch(trainer.step)) for _ in range(700)]
    assert np.mean(losses[-20:]) < np.mean(losses[:20]) - 0.5
    assert gain() > 2


def test_rates(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Warm-up, then constant; a decay only where a release asks for it."""
    trainer = Trainer(replace(config, warmup=10, rate=1.0), quiet)
    for step, expected in ((0, 0.1), (4, 0.5), (9, 1.0), (10_000, 1.0)):
        trainer.step = step
        assert trainer.rate() == pytest.approx(expected)
    trainer = Trainer(replace(config, warmup=10, rate=1.0, minutes=30, decay_minutes=20), quiet)
    trainer.step = 100
    for minutes, expected in ((0, 1.0), (10, 1.0), (20, 0.5), (29, 0.05), (31, 0.0)):
        monkeypatch.setattr(trainer, "seconds_now", lambda m=minutes: m * 60)
        assert trainer.rate() == pytest.approx(expected)


def test_a_decay_that_was_killed_goes_on_where_it_was(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    release = replace(config, warmup=1, rate=1.0, minutes=30, decay_minutes=20, validation=())

    def at(minutes: float, config: TrainConfig = release) -> Trainer:
        trainer = Trainer(config, quiet)
        monkeypatch.setattr(trainer, "seconds_now", lambda: minutes * 60)
        return trainer

    at(16).save()
    assert at(4).rate() == pytest.approx(0.5) and at(4).spent() == pytest.approx(20 * 60)
    at(4).save()
    assert at(5).rate() == pytest.approx(0.25)
    assert at(5, replace(release, minutes=40)).rate() == 1.0  # another schedule begins anew
    assert at(5, replace(release, decay_minutes=0)).spent() == 5 * 60
    last = at(31)
    last.run()  # to its end
    assert at(0).rate() == 1.0


def test_a_gradient_that_is_no_number_is_skipped(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    from unires.train import objective

    trainer = Trainer(config, quiet)
    trainer.started = 0.0
    before = {k: v.clone() for k, v in trainer.net.state_dict().items()}
    real = objective.loss
    monkeypatch.setattr(objective, "loss", lambda *a, **k: (real(*a, **k)[0] * float("nan"), None))
    trainer.train_step(trainer.batch(trainer.step))
    for name, value in trainer.net.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert trainer.step == 1


def test_validation(config: TrainConfig, photos: Path) -> None:
    lines: list[str] = []
    trainer = Trainer(replace(config, validation=(str(photos),)), lines.append)
    trainer.started = 0.0
    gains = trainer.validate()  # before anything was saved, with photos smaller than its crops
    assert gains.keys() == set(isolated.TASKS)
    assert all(abs(g) < 0.5 for g in gains.values())  # an untrained network changes nothing
    row = json.loads((Path(config.run) / "validation.jsonl").read_text())
    assert row["step"] == 0 and lines and lines[0].startswith("validation ")
    assert trainer.validate() == gains  # fixed degradations
    relayed = Trainer(replace(config, validation=(str(photos),), relay_share=0.5), quiet)
    relayed.started = 0.0
    assert relayed.validate().keys() == {*isolated.TASKS, *(f"{task}@relay" for task in relay.AFTER)}


def test_validation_with_sides_that_are_no_multiples(config: TrainConfig, tmp_path: Path, astronaut: Any) -> None:
    Image.fromarray(astronaut[:51, :70]).save(tmp_path / "odd.png")
    trainer = Trainer(replace(config, validation=(str(tmp_path),)), quiet)
    trainer.started = 0.0
    assert trainer.validate().keys() == set(isolated.TASKS)


def test_time_is_kept(config: TrainConfig) -> None:
    """`minutes` end a run; the state sums over continuations."""
    lines: list[str] = []
    trainer = Trainer(replace(config, steps=10**9, minutes=0.02), lines.append)
    trainer.run()
    first = read_state(Path(config.run))
    assert first["step"] > 0 and 1 < first["seconds"] < 20
    Trainer(replace(config, steps=10**9, minutes=0.02), lines.append).run()
    second = read_state(Path(config.run))
    assert second["step"] > first["step"] and second["seconds"] > first["seconds"] + 1


def test_a_checkpoint_has_its_card_and_can_be_used(config: TrainConfig) -> None:
    Trainer(replace(config, steps=2)).run()
    folder = Path(config.run)
    assert "2 steps" in (folder / "README.md").read_text()
    net, state = load_net(folder), load_file(folder / "training.safetensors")
    assert all(torch.equal(v, state[f"ema.{k}"]) for k, v in net.state_dict().items())


# -- folders ----------------------------------------------------------------------------------------------------------


def test_paired_folders(config: TrainConfig, tmp_path: Path, astronaut: Any) -> None:
    """Their samples are the pairs' own, the same place in both."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    for i in range(2):
        good = astronaut[200 * i : 200 * i + 100, 50:150]
        Image.fromarray(good).save(folder / f"{i}_gt.png")
        Image.fromarray(255 - good).save(folder / f"{i}_lq.png")
    config = replace(config, paired={"denoise": (str(folder),)}, paired_share=0.5, batch=64, tasks={"denoise": 1.0})
    trainer = Trainer(config, quiet)
    clean, degraded, task, severity, *_ = trainer.batch(0)
    inverse = (clean + degraded).abs().amax(dim=(1, 2, 3)) < 1e-5
    assert (severity[inverse] == -1).all() and (severity[~inverse] > 0).all()  # nobody knows how bad real ones are
    assert float(inverse.float().mean()) == pytest.approx(0.5, abs=0.2)
    assert (task == TASKS.index("denoise")).all()
    Image.new("RGB", (90, 100)).save(folder / "1_lq.png")
    with pytest.raises(UniresError, match="differ in size"):
        Trainer(config, quiet)
    (folder / "1_lq.png").unlink()
    with pytest.raises(UniresError, match="can't be read as a photo"):
        Trainer(config, quiet)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"clean": ()}, "names no folder"),
        ({"clean": ("/nowhere/at/all",)}, "no photo in"),
        ({"tasks": {"denoize": 1.0}}, "did you mean 'denoise'"),
        ({"paired": {"derain": ("x",)}}, "Unknown task 'derain'"),
        ({"crop": 400}, "at least 416 pixels"),
        ({"relay_share": 0.5, "margin": 7}, "multiple of 4"),
    ],
)
def test_refusals(config: TrainConfig, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UniresError, match=said):
        Trainer(replace(config, **changes), quiet)


# -- several processes ------------------------------------------------------------------------------------------------

WORKER = """
import json, sys
from dataclasses import replace
import torch
from safetensors.torch import save_file
from unires.denoise.compact import CompactConfig
from unires.train.config import TrainConfig
from unires.train.loop import Trainer
torch.set_num_threads(1)
values = json.loads(sys.argv[1])
values["model"] = CompactConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in values["model"].items()})
trainer = Trainer(TrainConfig(**values), lambda line: None)
sample = trainer.batch(0)[0].contiguous()
trainer.run()
tensors = {k: v.contiguous() for k, v in trainer.net.state_dict().items()}
save_file(tensors | {"sample": sample}, f"{sys.argv[2]}/rank{trainer.rank}.safetensors")
torch.distributed.destroy_process_group()
"""


def test_two_processes_agree_and_see_different_samples(config: TrainConfig, tmp_path: Path) -> None:
    from dataclasses import asdict

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    values = json.dumps(asdict(replace(config, steps=3)))
    environment = os.environ | {
        "PYTHONPATH": str(Path(unires.__file__).parent.parent), "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, values, str(tmp_path)],
            env=environment | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    for process in started:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    one, two = (load_file(tmp_path / f"rank{rank}.safetensors") for rank in range(2))
    assert not torch.equal(one.pop("sample"), two.pop("sample"))
    assert_same(one, two)
    # and what the first one saved is what both have
    saved = load_file(Path(config.run) / "training.safetensors")
    for name, value in one.items():
        assert torch.equal(saved[f"net.{name}"], value)
    alone = Trainer(replace(config, steps=3, run=config.run + "-alone"), quiet)
    alone.run()
    assert any(not torch.equal(alone.net.state_dict()[n], v) for n, v in one.items())
