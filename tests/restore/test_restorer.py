"""Restorer: tiles without seams, scale, seeds, progress, options, and what importing it costs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unires
from unires.compose.experts import Expert
from unires.compose.router import Router, RouterConfig
from unires.compose.weights import Weights
from unires.degrade import isolated
from unires.degrade.recipe import Recipe
from unires.denoise.checkpoint import SHIPPED, load_denoiser
from unires.denoise.compact import TASKS, CompactConfig, CompactNet
from unires.denoise.compact_denoiser import CompactDenoiser
from unires.errors import OptionError, UniresError
from unires.photo.tiles import Window, cut
from unires.restore import restorer as module
from unires.restore.restorer import Restorer, pick_device
from unires.sample.sampler import sample
from unires.train.expert import with_task

LEVEL = 1 / 255


# -- tiles ------------------------------------------------------------------------------------------------------------


def gradient(height: int, width: int) -> torch.Tensor:
    """Flat: two levels of 255 over the whole picture, so that any seam shows."""
    y, x = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)[None, :]
    return (0.4 + 2 * LEVEL * (x + y) / 2).expand(1, 3, height, width).contiguous()


def picture(kind: str, photo: Any, height: int = 300, width: int = 421) -> torch.Tensor:
    """Sides that are no multiples of anything."""
    if kind == "gradient":
        return gradient(height, width)
    wide = torch.cat((photo, photo.flip(-1)), dim=-1)
    return torch.cat((wide, wide.flip(-2)), dim=-2)[..., :height, :width]


def seams(restorer: Restorer, x: torch.Tensor, **options: Any) -> tuple[float, float, float]:
    """Mean and greatest difference of tiled and untiled, in levels; and how much was changed at all."""
    untiled = restorer.pixels(x, tile=10_000, **options)
    assert restorer.report is not None and restorer.report.tiles == 1
    tiled = restorer.pixels(x, tile=256, **options)
    assert restorer.report.tiles > 1
    off = (tiled - untiled).abs() / LEVEL
    return float(off.mean()), float(off.max()), float((untiled - x).abs().mean() / LEVEL)


@pytest.mark.parametrize("kind", ["photo", "gradient"])
@pytest.mark.parametrize(
    "options",
    [
        {"weights": "denoise"},
        {"weights": "denoise=1.5,dejpeg=-0.8,keep=0.3"},
        {"weights": "denoise@down4=0.5,blind=0.5"},
        {"weights": "denoise; dejpeg@relay=0.7,blind=0.3", "steps": 4, "solver": "multistep"},
    ],
    ids=lambda o: o["weights"],
)
def test_tiles_leave_no_seams(restorer: Restorer, photo: Any, kind: str, options: dict[str, Any]) -> None:
    mean, most, changed = seams(restorer, picture(kind, photo), **options)
    assert changed > 2  # the network does something
    assert mean < 1 and most < 4
    # this network sees no further than the margin: nothing is left but what scratch files round off between steps
    assert most < (0.5 if "steps" in options else 0.05)


@pytest.mark.parametrize("kind", ["photo", "gradient"])
def test_tiles_leave_no_seams_with_the_default_layout(photo: Any, kind: str) -> None:
    """Untrained, yet as deep as the shipped one: it sees further than the margin."""
    torch.manual_seed(0)
    net = CompactNet(CompactConfig())
    for p in (*net.leave.parameters(), *net.modulate.parameters()):
        torch.nn.init.normal_(p, std=0.07)
    x = picture(kind, photo, 270, 391)
    mean, most, changed = seams(Restorer(CompactDenoiser(net, "cpu", torch.float32)), x, weights="blind")
    assert changed > 2 and mean < 1 and most < 4


@pytest.mark.parametrize("weights", ["denoise", "dejpeg", "motion-deblur", "defocus-deblur", "blind"])
def test_tiles_leave_no_seams_with_the_shipped_model(photo: Any, weights: str) -> None:
    restorer = Restorer(load_denoiser(None, "cpu", torch.float32))
    for kind in ("photo", "gradient"):
        x = Recipe.parse("noise(sigma=8) + jpeg(quality=40)")(picture(kind, photo, 270, 391), 0)
        mean, most, _ = seams(restorer, x, weights=weights)
        assert mean < 1 and most < 4, (kind, mean, most)


def test_weight_maps_are_cut_as_the_picture_is(restorer: Restorer, photo: Any) -> None:
    ramp = torch.linspace(0, 1, 421).expand(300, 421)
    maps = Weights((Expert("denoise"), Expert("keep")), torch.stack((ramp, 1 - ramp))[None])
    x = picture("photo", photo)
    mean, most, changed = seams(restorer, x, weights=maps)
    assert changed > 1 and mean < 0.1 and most < 1
    whole = restorer.pixels(x, weights="denoise")
    torch.testing.assert_close(restorer.pixels(x, weights=maps), ramp * whole + (1 - ramp) * x, atol=1e-4, rtol=0)


def test_a_batch_is_its_pictures_one_by_one(restorer: Restorer, photo: Any) -> None:
    x = torch.cat((photo[..., :50, :60], photo[..., 100:150, 100:160]))
    options: dict[str, Any] = {"weights": "denoise; dejpeg@relay", "seed": 5}
    together = restorer(x, **options)
    for i in range(2):
        torch.testing.assert_close(together[i : i + 1], restorer(x[i : i + 1], **options), atol=1e-5, rtol=0)


# -- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2)])
def test_the_smallest_pictures(restorer: Restorer, size: tuple[int, int]) -> None:
    x = np.full((*size, 3), 90, np.uint8)
    for options in ({}, {"scale": 4}, {"fidelity": 0.5}, {"weights": "super-resolution@down4"}):
        out = restorer(x, **options)
        assert out.dtype == np.uint8 and out.size >= x.size


def test_seeds(restorer: Restorer, photo: Any) -> None:
    x = photo[..., :40, :40]
    first = restorer(x, steps=3, seed=1)
    assert torch.equal(first, restorer(x, steps=3, seed=1))
    assert not torch.equal(first, restorer(x, steps=3, seed=2))
    assert torch.equal(restorer(x, steps=1, seed=1), restorer(x, steps=1, seed=2))  # one step has nothing random
    torch.manual_seed(0)
    state = torch.get_rng_state()
    restorer(x, steps=3, seed=1)
    assert torch.equal(state, torch.get_rng_state())  # the user's own generator is left alone


def test_fidelity_chooses_steps_and_weights(restorer: Restorer, photo: Any) -> None:
    x = photo[..., :40, :40]
    for fidelity, steps in ((None, 1), (1, 1), (0.5, 4), (0, 8)):
        restorer(x, fidelity=fidelity)
        report = restorer.report
        assert report is not None and abs(report.steps - steps) <= 1
        assert ("down2" in str(report.weights)) == (fidelity not in (None, 1))


def test_the_report(restorer: Restorer, photo: Any) -> None:
    restorer(photo[..., :40, :40], weights="denoise=0.5,keep=0.5; dejpeg", steps=3, scale=2)
    report = restorer.report
    assert report is not None
    assert (report.steps, report.scale, report.passes, report.tiles) == (3, 2, 3, 1)
    assert (report.device, report.number_type) == ("cpu", "float32")
    assert str(report.weights) == "denoise=0.5,keep=0.5; dejpeg=1"


def test_a_step_that_starts_afresh_is_not_repeated(routed: Restorer, photo: Any) -> None:
    """What it undoes would be undone again."""
    with pytest.raises(OptionError, match="does not go on by itself"):
        routed.pixels(photo, weights="denoise; motion-deblur@relay", steps=3)
    routed.pixels(photo, weights="denoise; motion-deblur@relay,dejpeg=0", steps=2)
    routed.pixels(photo, weights="denoise; motion-deblur@relay=0.5,dejpeg=0.5", steps=3)
    assert routed.report is not None and routed.report.steps == 3
    longest = routed.pixels(photo, steps=50)
    assert routed.report is not None and routed.report.steps == routed.report.weights.steps == 2
    torch.testing.assert_close(longest, routed.pixels(photo, steps=2), atol=1e-6, rtol=0)


def test_fidelity_holds_for_weights_by_hand_too(restorer: Restorer, photo: Any) -> None:
    for steps in (None, 3):
        restorer.pixels(photo, weights="denoise", fidelity=0.5, steps=steps)
        assert restorer.report is not None and "down2=0.15" in str(restorer.report.weights)


@pytest.mark.parametrize("options", [{}, {"steps": 3}, {"tile": 256}, {"tile": 256, "steps": 2}, {"weights": "keep"}])
def test_progress_climbs_to_one(restorer: Restorer, photo: Any, options: dict[str, Any]) -> None:
    x = picture("photo", photo) if "tile" in options else photo[..., :40, :40]
    seen: list[float] = []
    restorer(x, progress=seen.append, **options)
    assert seen == sorted(seen) and seen[-1] == 1
    assert all(0 < s <= 1 for s in seen)
    assert restorer.report is not None
    assert len(set(seen)) == restorer.report.steps * restorer.report.tiles


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weights": "denoize"}, "did you mean 'denoise'"),
        ({"weights": "denoise=0.5"}, "sum to 0.5"),
        ({"weights": "denoise; blind", "steps": 1}, "weights for 2 steps"),
        ({"steps": 0}, "1 to 50"),
        ({"steps": 51}, "1 to 50"),
        ({"steps": 1.5}, "1 to 50"),
        ({"scale": 0.5}, "1 to 4"),
        ({"scale": 4.01}, "1 to 4"),
        ({"scale": float("nan")}, "1 to 4"),
        ({"scale": "2"}, "1 to 4"),
        ({"fidelity": -0.1}, "0 to 1"),
        ({"fidelity": 1.1}, "0 to 1"),
        ({"fidelity": float("nan")}, "0 to 1"),
        ({"fidelity": "high"}, "0 to 1"),
        ({"seed": 2**63}, "seed"),
        ({"seed": "abc"}, "seed"),
        ({"solver": "ddpm", "steps": 2}, "did you mean 'ddim'"),
    ],
)
def test_refusals(restorer: Restorer, options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError) as refused:
        restorer(np.zeros((8, 8, 3), np.uint8), **options)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == "cpu"
    for name, said in (("cuda", "no cuda device"), ("mps", "no mps device"), ("gpu", "auto, cpu, cuda or mps")):
        with pytest.raises(OptionError, match=said):
            pick_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == pick_device("cuda") == "cuda"


# -- the package ------------------------------------------------------------------------------------------------------


def test_the_package_function(tiny_folder: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    for _ in range(2):  # twice: what is loaded by the first call must not be in the way of the second
        out = unires.restore(x, weights="denoise", model=tiny_folder, device="cpu")
        assert out.shape == x.shape and out.dtype == np.uint8
        assert unires.degrade(x, "noise(sigma=5)").shape == x.shape
    again = unires.Restorer.from_pretrained(tiny_folder, "cpu")
    assert np.abs(again(x, weights="denoise").astype(int) - out).max() <= 1
    with pytest.raises(UniresError, match="no checkpoint folder"):
        unires.restore(x, model=tiny_folder / "missing")
    assert unires.Weights is Weights
    with pytest.raises(AttributeError):
        _ = unires.nothing


def test_the_shipped_model_restores() -> None:
    assert SHIPPED.is_dir()
    x = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    assert unires.restore(x).shape == x.shape
    assert np.array_equal(unires.restore(x, weights="keep"), x)


def python(code: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(Path(unires.__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("what", ["import unires", "import unires.photo, unires.doors.cli, unires.errors"])
def test_importing_loads_neither_torch_nor_pillow_nor_numpy(what: str) -> None:
    loaded = python(f"{what}\nimport sys\nprint([m for m in ('torch', 'PIL', 'numpy') if m in sys.modules])")
    assert loaded.strip() == "[]"


def test_importing_costs_milliseconds() -> None:
    """In time of the processor, as other programs may be running; the best of three."""
    code = "import time\nt = time.process_time()\nimport unires\nprint(time.process_time() - t)"
    assert min(float(python(code)) for _ in range(3)) < 0.1


def test_the_functions_stay_functions(tiny_net: Callable[..., Any]) -> None:
    code = (
        "import unires, unires.restore.restorer, unires.degrade.recipe\n"
        "from unires.degrade import kernels\n"
        "print(callable(unires.restore), callable(unires.degrade))"
    )
    assert python(code).strip() == "True True"


# -- with a router ----------------------------------------------------------------------------------------------------


def test_fewer_steps_take_a_shorter_plan(tiny: Any, photo: Any) -> None:
    plans = ((("blind", "denoise"),), (("denoise", "keep"), ("motion-deblur@relay",)))
    router = Router(RouterConfig(isolated.TASKS, plans, 16, 8)).eval().requires_grad_(False)
    restorer = Restorer(tiny, router=router)
    for options, text in (
        ({}, "denoise=1; motion-deblur@relay=1"), ({"steps": 2}, "denoise=1; motion-deblur@relay=1"),
        ({"steps": 1}, "blind=1"),
    ):  # fmt: skip
        restorer.pixels(photo, **options)
        assert restorer.report is not None and str(restorer.report.weights) == text
    restorer.pixels(photo, fidelity=0.5)
    assert restorer.report is not None and restorer.report.weights.steps == 1
    assert any(str(e) == "blind" for e in restorer.report.weights.experts)


def test_the_router_chooses(routed: Restorer, photo: Any) -> None:
    out = routed.pixels(photo)
    report = routed.report
    assert report is not None and report.reading is not None
    assert report.steps == 2 and report.weights.values.dim() == 4 and 1 <= report.passes <= 4
    by_hand = routed.pixels(photo, weights=report.reading.weights)
    torch.testing.assert_close(out, by_hand, atol=1e-5, rtol=0)
    assert not torch.allclose(out, routed.pixels(photo, weights="blind"), atol=1e-3)
    assert routed.pixels(photo, steps=1).shape == photo.shape
    assert routed.report is not None and routed.report.steps == 1
    routed.pixels(photo, fidelity=0.5)
    assert routed.report.steps > 2 and routed.report.weights.steps == 1
    used = routed.report.weights.active(0)
    assert all(routed.report.weights.experts[i].condition != "relay" for i in used)


def test_after_the_first_steps_the_router_looks_again(
    routed: Restorer, photo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert routed.router is not None
    seen: list[torch.Tensor] = []
    look_again = routed.router.look_again

    def spy(reading: Any, cleaned: Any) -> Any:
        seen.append(cut(cleaned, Window(0, 0, *photo.shape[-2:])))
        return look_again(reading, cleaned)

    monkeypatch.setattr(routed.router, "look_again", spy)
    routed.pixels(photo)
    assert routed.report is not None and routed.report.reading is not None
    first = sample(routed.denoiser, photo, routed.report.weights.first(1), hints=routed.report.reading.told)
    torch.testing.assert_close(seen[0], first, atol=1e-5, rtol=0)
    routed.router.second.both[2].bias[:5] = -30.0  # what was thought to be there isn't
    keeps = routed.pixels(photo)
    assert not routed.report.reading.found and not routed.read(photo).found and len(seen) == 3
    torch.testing.assert_close(keeps, first, atol=1e-5, rtol=0)  # and no expert's gate is open
    monkeypatch.setattr(module, "TILE", 64)  # from which on it lies in a scratch file
    torch.testing.assert_close(routed.pixels(photo), first, atol=1e-5, rtol=0)
    done: list[float] = []
    routed(photo, progress=done.append)
    assert done == sorted(done) and done[-1] == 1
    for options in ({"steps": 1}, {"steps": 2}, {"weights": "denoise"}, {"fidelity": 0.5}):
        routed.pixels(photo, **options)
    assert len(seen) == 5


def test_fidelity_turns_to_the_expert_for_it(routed: Restorer, photo: Any, tiny_net: Any) -> None:
    net = with_task(tiny_net(), "crisp", 50.0)
    net.added[-1].data.normal_(std=0.3, generator=torch.Generator().manual_seed(2))
    crisps = Restorer(CompactDenoiser(net, "cpu", torch.float32), router=routed.router)
    truest = crisps.pixels(photo)
    torch.testing.assert_close(truest, routed.pixels(photo), atol=1e-5, rtol=0)
    crispest = crisps.pixels(photo, fidelity=0.0)
    assert crisps.report is not None
    passes = crisps.report.passes
    assert crisps.report.steps == 3 and str(crisps.report.weights).endswith("; keep@relay=-0.4,crisp@relay=1.4")
    alone = sample(crisps.denoiser, truest, Weights.parse("crisp", crisps.denoiser.facts.tasks))
    torch.testing.assert_close(crispest, truest.lerp(alone, 1.4), atol=1e-4, rtol=0)
    assert not torch.allclose(crispest, truest, atol=1e-3)
    between = crisps.pixels(photo, fidelity=0.25)  # the ends, blended
    torch.testing.assert_close(between, truest.lerp(crispest, 0.75), atol=1e-5, rtol=0)
    assert crisps.report.passes == passes
    crisps.pixels(photo, fidelity=0.25, steps=4)  # who asks for steps gets samples
    assert crisps.report.steps == 4 and "down2" in str(crisps.report.weights)
    crisps.pixels(photo, fidelity=0.25, weights="denoise")
    assert str(crisps.report.weights) == "denoise=1; keep@relay=-0.05,crisp@relay=1.05"


def test_experts_are_told_what_was_read(routed: Restorer, photo: Any) -> None:
    told = routed.pixels(photo, weights="denoise")
    reading = routed.read(photo)
    assert set(reading.told) == set(isolated.TASKS)
    expected = sample(
        routed.denoiser, photo, Weights.parse("denoise", TASKS), hints={"denoise": reading.told["denoise"]}
    )
    assert torch.equal(told, expected)
    assert not torch.allclose(told, sample(routed.denoiser, photo, Weights.parse("denoise", TASKS)))


def test_a_routed_batch_is_what_each_would_become_alone(routed: Restorer, photo: Any) -> None:
    batch = torch.cat((photo, photo.flip(-1) * 0.5))
    done: list[float] = []
    together = routed(batch, progress=done.append)
    assert torch.equal(together[0], routed(batch[0])) and torch.equal(together[1], routed(batch[1]))
    assert done[-1] == 1 and routed(batch, scale=1.5).shape == (2, 3, 384, 384)


def test_routed_tiles_leave_no_seams(routed: Restorer, photo: Any) -> None:
    mean, most, changed = seams(routed, picture("photo", photo))
    assert changed > 2 and mean < 0.1 and most < 0.5


def test_without_a_router_nothing_is_read(restorer: Restorer, routed: Restorer, photo: Any) -> None:
    with pytest.raises(UniresError, match="has no router"):
        restorer.read(photo)
    with pytest.raises(UniresError, match="one at a time"):
        routed.read(photo.repeat(2, 1, 1, 1))
