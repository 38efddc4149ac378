"""Training the router: its error is the composed step's error, and it finds the oracle's weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import unires
from unires.bench.oracle import best_weights, psnr_of
from unires.compose.router import Router
from unires.compose.weights import Weights
from unires.degrade.isolated import TASKS
from unires.denoise.checkpoint import save_net
from unires.denoise.interface import Hint
from unires.errors import UniresError
from unires.restore.restorer import Restorer
from unires.sample.sampler import sample as run_sampler
from unires.train.config import RouterTraining
from unires.train.expert import ExpertTraining, add_expert
from unires.train.router import PLANS, VISIBLE, RouterTrainer


def trainer(photos: Path, tiny_folder: Path, tmp_path: Path, **changes: Any) -> RouterTrainer:
    config = {
        "clean": (str(photos),), "model": str(tiny_folder), "run": str(tmp_path / "run"), "crop": 64, "seen": 96,
        "asked": 32, "margin": 8, "batch": 8, "samples": 8, "report_rounds": 5, "rounds": 5, "charge": 0.0,
    }  # fmt: skip
    return RouterTrainer(RouterTraining(**config | changes), log=lambda line: None)


def test_its_error_is_the_composed_steps_error(photos: Path, tiny_folder: Path, tmp_path: Path) -> None:
    t = trainer(photos, tiny_folder, tmp_path)
    sample = t.samples.open(1, t.router.report)[0]
    t.settle([sample])
    sample.told = dict.fromkeys(TASKS, Hint(-1.0))
    t.ask([sample], 0, 0)
    w = torch.linspace(-0.5, 0.9, len(PLANS[0][0])).double()
    w[-1] += 1 - w.sum()
    text = ",".join(f"{e}={v}" for e, v in zip(PLANS[0][0], w.tolist(), strict=True))
    weights = Weights.parse(text, t.denoiser.facts.tasks)
    restored = run_sampler(t.denoiser, sample.degraded[None], weights)
    error = (restored[0] - sample.clean).square().mean()
    gram = sample.grams[0].double().mean(dim=(0, 1))
    assert float(w @ gram @ w) == pytest.approx(float(error), rel=1e-4)


def test_it_finds_the_oracles_weights(photos: Path, tiny_folder: Path, tmp_path: Path) -> None:
    """Of one photo, whose places are alike to it as far as the photo's mean goes."""
    t = trainer(photos, tiny_folder, tmp_path, rounds=400)
    samples = t.samples.open(2, t.router.report)
    t.settle(samples)
    t.ask(samples, 0, 0)
    samples[1] = samples[0]  # the last tenth is held out: here, the same
    gram = samples[0].grams[0].double().mean(dim=(0, 1))
    start = psnr_of(gram, torch.eye(len(PLANS[0][0])).double()[0])
    t.learn_weights(samples, 0, 0)
    with torch.inference_mode():
        row = t._rows(samples, 0, 0)[0][0]
        reached = -10 * torch.einsum("kyx,yxkl,lyx->yx", row, samples[0].grams[0], row).mean().log10()
    oracle = psnr_of(gram, best_weights([gram]))
    assert oracle > start + 0.3
    assert float(reached) > start + 0.8 * (oracle - start)


def test_a_run_leaves_a_router_that_judges_as_it_did(photos: Path, tiny_folder: Path, tmp_path: Path) -> None:
    """What experts were told in training is what they will be told: the weights' training leaves the report alone."""
    t = trainer(photos, tiny_folder, tmp_path)
    t.run()
    router = Router.load(tmp_path / "run")
    assert router is not None
    sample = t.samples.open(1, t.router.report)[0]
    t.settle([sample])
    known, _ = router.known(router.report(sample.look[None].float()).of(0), sample.plane)
    torch.testing.assert_close(sample.known, known, atol=0.02, rtol=0.02)
    assert all(float(weigh.leave.weight.abs().max()) > 0 for weigh in router.weigh)


def test_a_second_step_is_learnt_from_what_sampling_makes(photos: Path, tiny_folder: Path, tmp_path: Path) -> None:
    """Weights, and the error that the trainer expects of them, against the sampler's own three steps."""
    t = trainer(photos, tiny_folder, tmp_path)
    samples = t.samples.open(2, t.router.report)
    t.settle(samples)
    for sample in samples:
        sample.told = dict.fromkeys(TASKS, Hint(-1.0))
        sample.known = torch.cat((torch.full((len(TASKS),), 0.5), sample.known[len(TASKS) :]))
    t.ask(samples, 0, 0)
    for step in range(3):
        torch.nn.init.normal_(t.router.weigh[1 + step].leave.bias, std=0.5, generator=torch.Generator().manual_seed(9))
        t.ask(samples, 1, step)
    rows = [t._rows(samples[:1], 1, step)[0][0] for step in range(3)]
    experts = [[float(v) for v in row.mean(dim=(1, 2))] for row in rows]  # the same at every place
    text = ";".join(",".join(f"{e}={v}" for e, v in zip(pool, values, strict=True))
                    for pool, values in zip(PLANS[1], experts, strict=True))  # fmt: skip
    weights = Weights.parse(text, t.denoiser.facts.tasks)
    noise = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    restored = run_sampler(t.denoiser, samples[0].degraded[None], weights, steps=3, noise=noise)
    error = (restored[0] - samples[0].clean).square().mean()
    assert float(t._misfit(samples[:1], rows[2][None], 3).exp()) == pytest.approx(float(error) + VISIBLE, rel=0.01)


def test_the_last_step_learns_from_what_the_first_ones_made(photos: Path, tiny_folder: Path, tmp_path: Path) -> None:
    """Not from what they would make, had they known what the second look tells."""
    t = trainer(photos, tiny_folder, tmp_path)
    samples = t.samples.open(2, t.router.report)
    t.settle(samples)
    for step in range(2):
        made = torch.Generator().manual_seed(9)
        for part in (t.router.weigh[1 + step].inner, t.router.weigh[1 + step].leave):  # type: ignore[union-attr]
            torch.nn.init.normal_(part.weight, std=0.2, generator=made)  # type: ignore[arg-type]
        t.ask(samples, 1, step)
    before = t._estimate(samples, 1, 1)
    t.look_again(samples)
    looked = [i for i, s in enumerate(samples) if s.first is not None]
    assert looked
    for i in looked:
        samples[i].known = torch.rand_like(samples[i].known)  # whatever it tells
        assert torch.equal(t._estimate([samples[i]], 1, 1)[0], before[i])


def test_errors_in_the_rim_do_not_count(photos: Path, tiny_folder: Path, tmp_path: Path) -> None:
    """The same answers, and the same weights of the whole centre; errors and their weights of its inner cells alone."""
    narrow = trainer(photos, tiny_folder, tmp_path, asked=96)
    wide = trainer(photos, tiny_folder, tmp_path, asked=96, rim=32)
    pair = [t.samples.open(1, t.router.report) for t in (narrow, wide)]
    for t, samples in zip((narrow, wide), pair, strict=True):
        t.settle(samples)
        samples[0].told = dict.fromkeys(TASKS, Hint(-1.0))
        t.ask(samples, 0, 0)
    (whole,), (inner,) = pair
    assert torch.equal(whole.answers, inner.answers)
    torch.testing.assert_close(inner.grams[0], whole.grams[0][1:2, 1:2])
    assert wide._rows([inner], 0, 0)[0].shape[-2:] == (1, 1)
    assert wide._estimate([inner], 0, 0).shape == (1, 3, 96, 96)


def test_a_report_is_kept_for_new_experts(photos: Path, tiny_folder: Path, tmp_path: Path) -> None:
    trainer(photos, tiny_folder, tmp_path).run()
    known = Router.load(tmp_path / "run")
    t = trainer(photos, tiny_folder, tmp_path, start_from=str(tmp_path / "run"), run=str(tmp_path / "second"), seed=3)
    t.run()
    again = Router.load(tmp_path / "second")
    assert known is not None and again is not None
    for name, value in known.report.state_dict().items():
        assert torch.equal(value, again.report.state_dict()[name]), name
    assert not torch.equal(known.weigh[0].leave.weight, again.weigh[0].leave.weight)


def test_the_last_step_alone_is_learnt_on(photos: Path, tiny_folder: Path, tmp_path: Path) -> None:
    """From the weights at hand, on what the steps before make of samples; the other plan isn't asked."""
    trainer(photos, tiny_folder, tmp_path).run()
    first, second = tmp_path / "run", tmp_path / "second"
    t = trainer(photos, tiny_folder, tmp_path, start_from=str(first), run=str(second), last_step_only=True, seed=3)
    asked = list[tuple[int, int]]()
    ask = t.ask
    t.ask = lambda samples, plan, step: (asked.append((plan, step)), ask(samples, plan, step))  # type: ignore
    t.run()
    known, again = Router.load(first), Router.load(second)
    assert known is not None and again is not None
    assert asked == [(1, 0), (1, 1), (1, 2)]
    for place, (old, new) in enumerate(zip(known.weigh, again.weigh, strict=True)):
        same = [torch.equal(a, b) for a, b in zip(old.parameters(), new.parameters(), strict=True)]
        assert all(same) == (place < 3)
        assert float((old.leave.bias - new.leave.bias).abs().max()) < 0.05  # in so few rounds: not begun anew
    with pytest.raises(UniresError, match="`start_from`"):
        trainer(photos, tiny_folder, tmp_path, last_step_only=True)


def test_what_seems_to_be_alone_is_not_weighed(photos: Path, tiny_folder: Path, tmp_path: Path) -> None:
    t = trainer(photos, tiny_folder, tmp_path)
    t.run()
    known = Router.load(tmp_path / "run")
    assert known is not None
    for other, match in (("denoise", "Of 8 samples 0"), ("dejpeg", None)):
        known.report.whole[4].bias[: len(TASKS)] = -99.0
        known.report.whole[4].bias[[TASKS.index("denoise"), TASKS.index(other)]] = 99.0
        known.save(tmp_path / "run")
        again = trainer(photos, tiny_folder, tmp_path, start_from=str(tmp_path / "run"), run=str(tmp_path / "again"))
        if match:
            with pytest.raises(UniresError, match=match):
                again.run()
        else:
            again.run()


def test_regions_stay_clean(photos: Path, tiny_folder: Path, tmp_path: Path) -> None:
    t = trainer(photos, tiny_folder, tmp_path, region_share=1.0)
    clean, mixture, where = t.samples.draw(3, 16, 64)
    outside = (where == 0).expand_as(clean)
    assert outside.any() and (where == 1).any()
    assert torch.equal(mixture.degraded[outside], clean[outside])


def test_refusals(photos: Path, tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UniresError, match="names no folder"):
        RouterTrainer(RouterTraining(model=str(tiny_folder)))
    with pytest.raises(UniresError, match="no router of this shape"):
        trainer(photos, tiny_folder, tmp_path, start_from=str(tmp_path))
    for sizes in ({"crop": 60}, {"asked": 40}, {"seen": 112}, {"seen": 32, "asked": 96}, {"rim": 8}, {"rim": 32}):
        with pytest.raises(UniresError, match="whole cells of 32"):
            trainer(photos, tiny_folder, tmp_path, **sizes)
    file = tmp_path / "r.toml"
    file.write_text("sampels = 3\n")
    with pytest.raises(UniresError, match="samples"):
        RouterTraining.read(file)


def test_a_new_column_from_a_short_run(photos: Path, tiny_net: Any, tmp_path: Path) -> None:
    """The router learns when an added expert is worth its weight; of the old columns nothing is changed."""
    model, haze = tmp_path / "model", "haze(beta=1, airlight=0.8)"
    net = tiny_net(3, widths=(16, 16))
    net.leave.weight.data.mul_(0.05)  # does little, so that nothing else helps
    save_net(net, model)
    trainer(photos, model, tmp_path, run=str(model)).run()  # a router of the model's own
    mine = tmp_path / "mine"
    add_expert(ExpertTraining("haze", photos, mine, model, haze, steps=150, crop=32, margin=8, rate=0.1, device="cpu"),
               lambda line: None)  # fmt: skip
    lines: list[str] = []
    changes: dict[str, Any] = {"start_from": str(mine), "add": "haze", "degradation": haze, "samples": 40,
                               "rounds": 200, "run": str(tmp_path / "more")}  # fmt: skip
    t = trainer(photos, mine, tmp_path, **changes)
    t.log = lines.append
    t.run()
    old, new = Router.load(mine), Router.load(tmp_path / "more")
    assert old is not None and new is not None
    assert new.config.plans == tuple(
        tuple((*pool, f"haze{'@relay' * bool(step)}") for step, pool in enumerate(plan)) for plan in PLANS
    )
    for name, value in old.state_dict().items():
        assert torch.equal(new.state_dict()[name][: len(value)], value), name
    assert any(bool(w.leave.weight[-1].any()) for w in new.weigh)
    samples = t.samples.open(24, t.router.report)
    t.settle(samples)
    t.ask(samples, 0, 0)

    def reached(router: Router) -> float:
        t.router = router
        rows = t._rows(samples, 0, 0)[0]
        grams = torch.stack([s.grams[0] for s in samples])[..., : rows.shape[1], : rows.shape[1]]
        return -10 * float(torch.einsum("bkyx,byxkl,blyx->byx", rows, grams, rows).mean().log10())

    assert reached(new) > reached(old) + 0.2
    # and the photo is restored with it
    (mine / "router.safetensors").write_bytes((tmp_path / "more" / "router.safetensors").read_bytes())
    hazy = unires.degrade(Image.open(sorted(photos.iterdir())[0]), haze)
    restorer = Restorer.from_pretrained(mine)
    restorer(hazy)


@pytest.mark.parametrize(("changes", "said"), [
    ({"add": "haze"}, "needs"),
    ({"degradation": "haze"}, "needs"),
    ({"add": "haze", "degradation": "haze", "start_from": "nothing"}, "no router"),
])  # fmt: skip
def test_what_a_new_column_needs(
    photos: Path, tiny_folder: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UniresError, match=said):
        trainer(photos, tiny_folder, tmp_path, **changes)
