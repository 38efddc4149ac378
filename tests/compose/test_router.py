"""The router: what it promises about its weights, and that a checkpoint keeps it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from unires.compose import router as module
from unires.compose.experts import Expert
from unires.compose.grid import Axis, Grid
from unires.compose.report import SEEN, Judgement
from unires.compose.router import FILE, LEAST, Router, RouterConfig
from unires.compose.spectrum import CELL, light
from unires.degrade.isolated import TASKS, strength_of
from unires.degrade.jpeg import encode_decode
from unires.degrade.operators import round8
from unires.degrade.recipe import Recipe
from unires.degrade.resample import resize
from unires.errors import UniresError

STEPS = (("blind", "denoise", "keep"), ("keep@relay", "denoise@relay"))
PLANS = (STEPS,)


@pytest.fixture
def router() -> Router:
    torch.manual_seed(1)
    return Router(RouterConfig(TASKS, PLANS, 16, 8)).eval().requires_grad_(False)


def stirred(router: Router) -> Router:
    for weigh in router.weigh:
        torch.nn.init.normal_(weigh.leave.weight, std=0.3)
    return router


def test_untrained_it_trusts_the_first_of_each_step(router: Router, photo: Any) -> None:
    assert str(router.read(photo).weights) == "blind=1"  # a second step that only keeps is none


def test_weights_sum_to_one_at_every_place(
    router: Router, photo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, power = stirred(router).report.see(photo), light(photo)
    assert look.shape == (1, SEEN, 256 // CELL, 256 // CELL)
    plane = power[0].mean(dim=(0, 1))
    judged = router.report(look)._replace(presence=torch.zeros(1, len(TASKS)))
    monkeypatch.setattr(router.report, "forward", lambda look: judged)
    known, _ = router.known(judged.of(0), plane)
    for step in range(2):
        row, passes = router.decide(look, known[None], 0, step)
        assert passes.shape == (1, len(STEPS[step])) and float(passes.min()) == 0 < float(passes.max()) < 1
        torch.testing.assert_close(row.sum(dim=1), torch.ones_like(row[:, 0]))
    monkeypatch.setattr(module, "LEAST", 0.0)
    w = router.reading(look, plane).weights
    torch.testing.assert_close(w.values.sum(dim=1), torch.ones_like(w.values[:, 0]))
    assert w.steps == 2 and w.values.dim() == 4


def test_small_weights_cost_no_pass(router: Router) -> None:
    first = torch.tensor([0.6, 0.385, 0.015])[:, None, None].expand(3, 4, 5).clone()
    second = torch.tensor([1.0 + LEAST / 2, -LEAST / 2])[:, None, None].expand(2, 4, 5)
    w = router.weights([first, second], STEPS)
    assert [w.experts[i] for i in w.active(0)] == [Expert("blind"), Expert("denoise")]
    assert w.steps == 1 and w.passes(1) == 2
    first[2, 1, 1] = 0.5  # where one place needs an expert, it runs
    first[0, 1, 1] = 0.13
    assert router.weights([first, second], STEPS).passes(1) == 2
    assert len(router.weights([first, second], STEPS).active(0)) == 3


def test_where_all_are_small_the_largest_stays() -> None:
    plan = (("blind", *TASKS, "keep"), ("keep@relay",))
    rows = [torch.tensor([0.2, 0.16, 0.16, 0.12, 0.12, 0.12, 0.12])[:, None, None], torch.ones(1, 1, 1)]
    assert str(Router(RouterConfig(TASKS, (plan,), 16, 8)).weights(rows, plan)) == "blind=1"


def test_a_step_that_only_keeps_is_left_out() -> None:
    plan = (("keep", "denoise"), ("keep@relay", "dejpeg@relay"), ("keep@relay", "motion-deblur@relay", "keep"))
    router = Router(RouterConfig(TASKS, (plan,), 16, 8))
    for rows, text in {
        ((0.0, 1.0), (1.0, 0.0), (0.5, 0.5, 0.0)): "denoise=1; keep@relay=0.5,motion-deblur@relay=0.5",
        # who sees the relay before anything was done sees the photo
        ((1.0, 0.0), (0.5, 0.5), (0.0, 1.0, 0.0)): "keep=0.5,dejpeg=0.5; motion-deblur@relay=1",
        ((1.0, 0.0), (1.0, 0.0), (-0.5, 1.25, 0.25)): "keep=-0.25,motion-deblur=1.25",
        ((0.0, 1.0), (1.0, 0.0), (0.0, 0.0, 1.0)): "denoise=1; keep=1",  # that is something else
        ((1.0, 0.0), (1.0, 0.0), (0.5, 0.0, 0.5)): "keep=1",
    }.items():
        assert str(router.weights([torch.tensor(v)[:, None, None] for v in rows], plan)) == text


def test_whose_degradation_is_not_even_possible_costs_no_pass(router: Router, photo: Any) -> None:
    look = stirred(router).report.see(photo)
    known = torch.zeros(1, router.weigh[0].gate.in_features - 8)
    for possible in (0.0, 0.3):
        known[0, TASKS.index("denoise")] = possible
        for step, names in enumerate(STEPS):
            row, passes = router.decide(look, known, 0, step)
            k = [name.partition("@")[0] for name in names].index("denoise")
            assert bool(row[:, k].any()) == bool(passes[0, k]) == (possible > 0)
            torch.testing.assert_close(row.sum(dim=1), torch.ones_like(row[:, 0]))
    only = Router(RouterConfig(TASKS, ((("denoise",),),), 16, 8)).eval()
    row, _ = only.decide(look, torch.zeros_like(known), 0, 0)
    assert bool((row == 1).all())  # nobody else is there


@pytest.mark.parametrize(("logits", "alone"), [
    ((-4.0, 3.0, -4.0, -4.0, -4.0), "motion-deblur=1"),
    ((-4.0, 3.0, 0.0, -4.0, -4.0), None),  # another may be there, too
    ((-4.0, -0.5, -4.0, -4.0, -4.0), None),  # likely, not sure
    ((-4.0, 1.2, -4.0, -4.0, -4.0), None),  # not sure enough for a blur: it may be the background's
    ((-4.0, -4.0, -4.0, 0.3, -4.0), "denoise=1"),
    ((-4.0, -1.0, -4.0, -4.0, -4.0), "keep=1"),  # none is likely
])  # fmt: skip
def test_where_nothing_is_to_be_composed_the_right_expert_works_alone(
    router: Router, photo: Any, monkeypatch: pytest.MonkeyPatch, logits: tuple[float, ...], alone: str | None
) -> None:
    look, power = router.report.see(photo), light(photo)
    judged = router.report(look)._replace(presence=torch.tensor([logits]))
    plane = power[0].mean(dim=(0, 1))
    monkeypatch.setattr(router.report, "forward", lambda look: judged)
    reading = router.reading(look, plane)
    assert str(reading.weights) == (alone or "blind=1")
    assert len(reading.others) == (1 if alone else 0)
    with_haze = router.with_expert("haze")  # which the report can't know of: its column decides
    monkeypatch.setattr(with_haze.report, "forward", lambda look: judged)
    assert str(with_haze.reading(look, plane).weights) == "blind=1"


def test_a_shut_gate_costs_no_pass(router: Router, photo: Any) -> None:
    stirred(router).weigh[0].gate.bias[0] = -4.0
    w = router.read(photo).weights
    assert Expert("blind") not in [w.experts[i] for i in w.active(0)] and w.passes(1) == 1
    for weigh in router.weigh:
        weigh.gate.bias.fill_(-4.0)
    assert str(router.read(photo).weights) == "keep=1"  # what runs no network has no gate


@pytest.mark.parametrize("large", [100, 1000])
def test_a_large_photo_is_read_in_tiles(
    router: Router, photo: Any, monkeypatch: pytest.MonkeyPatch, large: int
) -> None:
    part = photo[..., :250, :201]
    monkeypatch.setattr(module, "LARGE", large)
    whole = stirred(router).read(part)
    monkeypatch.setattr(module, "TILE", 64)
    tiled = router.read(part)
    torch.testing.assert_close(whole.where, tiled.where)
    torch.testing.assert_close(whole.weights.values, tiled.weights.values)


def test_what_is_found_is_sorted_and_told(router: Router, photo: Any) -> None:
    present, severity = torch.tensor([0.9, 0.2, 0.01, 0.8, 0.6]), torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])
    changes = {"present": present, "harm": torch.tensor([-30.0, 0.0, 0.0, -20.0, -25.0])}
    reading = router.read(photo)
    assert type(reading)(**{**vars(reading), **changes}).found == ["denoise", "dejpeg", "super-resolution"]
    judged = Judgement(present.logit(), severity, torch.zeros(5), torch.zeros(2), torch.zeros(5, 1, 1))
    _, told = router.known(judged, light(photo)[0].mean(dim=(0, 1)))
    assert {task: hint.severity for task, hint in told.items()} == pytest.approx(
        {"denoise": 0.4, "dejpeg": 0.5, "super-resolution": 0.1, "motion-deblur": 0.2}
    )  # noise is there: the blur's size stays as it was read


def test_a_direction_that_noise_hides_is_read_in_what_the_first_steps_left(router: Router, photo: Any) -> None:
    blurred = Recipe.parse("motion(length=13, angle=40)")(photo, 0)
    noisy = Recipe.parse("noise(sigma=60) + jpeg(quality=15)")(blurred, 0)
    present, severity = torch.tensor([0.01, 0.9, 0.01, 0.95, 0.01]), torch.full((5,), 0.6)
    judged = Judgement(present.logit(), severity, torch.zeros(5), torch.zeros(2), torch.zeros(5, 1, 1))
    hidden, shown = (light(x)[0].mean(dim=(0, 1)) for x in (noisy, blurred))
    known, told = router.known(judged, hidden)
    assert told["motion-deblur"].angle is None
    seen, better = router.known(judged, hidden, shown)
    angle = better["motion-deblur"].angle
    assert angle is not None and math.degrees(angle) == pytest.approx(40, abs=3)
    place = 3 * len(TASKS)  # of the evidence for a motion
    assert float(seen[place]) > float(known[place]) + 0.1
    assert router.known(judged, shown, hidden)[1]["motion-deblur"] == better["motion-deblur"]


@pytest.mark.parametrize(("present", "counts"), [
    ((0.3, 0.2, 0.4, 0.9, 0.9), False),
    ((0.3, 0.2, 0.6, 0.9, 0.9), True),  # likelier than not
    ((0.3, 0.2, 0.4, 0.9, 0.1), True),  # under one of the two it can be told
    ((0.3, 0.2, 0.4, 0.1, 0.9), True),
])  # fmt: skip
def test_a_softness_under_noise_and_jpeg_is_left_alone_unless_it_is_likely(
    router: Router, photo: Any, present: tuple[float, ...], counts: bool
) -> None:
    sure = torch.tensor(present)
    judged = Judgement(sure.logit(), sure, torch.zeros(5), torch.zeros(2), torch.zeros(5, 1, 1))
    known, told = router.known(judged, light(photo)[0].mean(dim=(0, 1)))
    assert bool((known[:3] > 0).all()) == bool((known[:3] > 0).any()) == counts
    torch.testing.assert_close(known[3:5].logit(), module.DECIDED * sure[3:].logit())
    assert len(told) == 5  # for who names an expert all the same


def test_a_folder_keeps_it(router: Router, photo: Any, tmp_path: Path) -> None:
    assert Router.load(tmp_path) is None
    stirred(router).half().float().save(tmp_path)
    again = Router.load(tmp_path)
    assert again is not None and again.config == router.config
    a, b = router.read(photo), again.read(photo)
    assert torch.equal(a.weights.values, b.weights.values) and torch.equal(a.present, b.present)


def test_the_last_plan_is_the_default_and_fewer_steps_are_at_hand(photo: Any, tmp_path: Path) -> None:
    one, two = (("blind", "denoise"),), (("blind", "keep"), ("denoise@relay",))
    three = (("blind",), ("denoise@relay", "keep"), ("dejpeg@relay",))
    torch.manual_seed(1)
    router = Router(RouterConfig(TASKS, (one, two, three), 16, 8)).eval().requires_grad_(False)
    texts = "blind=1; denoise@relay=1; dejpeg@relay=1", "blind=1; denoise@relay=1", "blind=1"
    router.save(tmp_path)
    again = Router.load(tmp_path)
    assert again is not None
    for each in (router, again):
        reading = each.read(photo)
        assert tuple(str(w) for w in (reading.weights, *reading.others)) == texts
        for steps in (1, 2, 3, 9):
            assert str(reading.within(steps)) == texts[max(0, 3 - steps)]
    assert str(Router(RouterConfig(TASKS, (two,), 16, 8)).eval().read(photo).within(1)) == "blind=1"


def test_damage_is_one_sentence(router: Router, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"nothing")
    with pytest.raises(UniresError, match="is damaged"):
        Router.load(tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / FILE)
    with pytest.raises(UniresError, match="is damaged"):
        Router.load(tmp_path)


# -- what a photo was enlarged from -----------------------------------------------------------------------------------


def said(router: Router, monkeypatch: pytest.MonkeyPatch, **logits: float) -> None:
    """Let the report say this of each photo, and nothing else."""
    n = len(TASKS)
    presence = torch.full((1, n), -6.0)
    for task, value in logits.items():
        presence[0, TASKS.index(task.replace("_", "-"))] = value
    judged = Judgement(presence, torch.full((1, n), 0.6), torch.zeros(1, n), torch.zeros(1, 2), torch.zeros(1, n, 2, 2))
    monkeypatch.setattr(router.report, "forward", lambda look: judged)


def test_what_shows_is_certain(router: Router, photo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    enlarged = Recipe.parse("resize(scale=2.2) + noise(sigma=4)")(photo, 0)
    said(router, monkeypatch, super_resolution=-2.5, denoise=5.0, defocus_deblur=1.0)
    reading = router.read(enlarged)
    assert reading.grid is not None and reading.grid.rows.small == reading.grid.columns.small == 116
    k = TASKS.index("super-resolution")
    assert float(reading.present[k]) > 0.99
    assert strength_of("super-resolution", float(reading.severity[k])) == pytest.approx(256 / 116, rel=1e-3)
    assert reading.told["super-resolution"].severity == pytest.approx(float(reading.severity[k]))
    assert float(reading.present[TASKS.index("defocus-deblur")]) == pytest.approx(0.731, abs=1e-3)  # as it was said
    assert router.read(photo).grid is None  # sharp


def test_it_is_not_looked_for_where_it_would_not_matter(
    router: Router, photo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    enlarged = Recipe.parse("resize(scale=2.2)")(photo, 0)
    said(router, monkeypatch, super_resolution=-2.5, defocus_deblur=1.0)  # no noise that could hide its edge
    assert router.read(enlarged).grid is None
    said(router, monkeypatch, super_resolution=-1.0)
    assert router.read(enlarged).grid is not None


def test_what_is_known_is_not_looked_for(router: Router, photo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    said(router, monkeypatch)
    grid = Grid(Axis(128, 256), Axis(128, 256))
    monkeypatch.setattr(module, "find", None)
    reading = router.read(photo, grid)
    assert reading.grid == grid and reading.found == ["super-resolution"]
    assert str(reading.weights) == "super-resolution=1"


def test_what_few_pixels_explain_is_not_out_of_focus(
    router: Router, photo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Doubtful defocus is none where the small photo shows none, before and after the first steps have cleaned it."""
    grid, k = Grid(Axis(100, 256), Axis(100, 256)), TASKS.index("defocus-deblur")
    with torch.no_grad():
        router.weigh[0].leave.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))  # denoise first
    for seems, small, there in ((-0.5, -3.0, False), (-0.5, -1.0, True), (0.5, -3.0, True)):
        said(router, monkeypatch, denoise=3.0, defocus_deblur=seems)
        monkeypatch.setattr(router, "_soft", lambda picture, grid, small=small: float(torch.tensor(small).sigmoid()))
        reading = router.read(photo, grid)
        again = router.look_again(reading, photo)
        for r in (reading, again):
            assert (float(r.present[k]) > 0.01) == there == ("defocus-deblur" in r.told)


def test_the_small_photo_is_looked_at(router: Router, photo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[torch.Tensor]()
    see = router.report.see
    monkeypatch.setattr(router.report, "see", lambda x: (seen.append(x), see(x))[1])
    small = round8(photo[..., :96, :128])
    large = resize(small, (240, 320))
    assert router._soft(large, None) is None
    assert router._soft(large, Grid(Axis(96, 240), Axis(128, 320))) is not None
    torch.testing.assert_close(seen[0], small, atol=1.5 / 255, rtol=0)
    monkeypatch.setattr(module, "TILE", 160)  # of a large one, its centre
    router._soft(large, Grid(Axis(96, 240), Axis(128, 320)))
    torch.testing.assert_close(seen[1], small[..., 17:79, 33:95], atol=4 / 255, rtol=0)


def test_how_much_it_was_compressed_is_certain(router: Router, photo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """But not that it did harm; and estimates are kept to the cells where no noise was compressed."""
    lq = encode_decode(photo, [40], ["4:2:0"])
    said(router, monkeypatch, dejpeg=2.0)
    reading = router.read(lq)
    k = TASKS.index("dejpeg")
    assert reading.cells is not None and reading.cells.quality == 40 and reading.origin.cells == reading.cells
    assert strength_of("dejpeg", float(reading.severity[k])) == pytest.approx(61, abs=0.1)
    assert float(reading.present[k]) == pytest.approx(0.881, abs=1e-3)
    assert router.read(photo).cells is None
    said(router, monkeypatch, dejpeg=2.0, denoise=1.0)
    reading = router.read(lq)
    assert reading.cells is not None and reading.origin.cells is None
    said(router, monkeypatch, denoise=2.0)
    assert router.read(lq).cells is None  # not looked for where nothing speaks for it


def test_a_second_look_keeps_it(router: Router, photo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    said(router, monkeypatch, super_resolution=1.0, denoise=3.0)
    with torch.no_grad():
        router.weigh[0].leave.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))  # denoise first
    grid = Grid(Axis(100, 256), Axis(100, 256))
    reading = router.read(photo, grid)
    assert reading.cleaning == 1
    again = router.look_again(reading, photo)
    k = TASKS.index("super-resolution")
    assert again.grid == grid and float(again.present[k]) > 0.99
    assert strength_of("super-resolution", float(again.severity[k])) == pytest.approx(2.56, rel=1e-3)


def test_a_router_of_other_tasks_knows_no_enlargement(photo: Any) -> None:
    torch.manual_seed(1)
    router = Router(RouterConfig(("denoise",), ((("denoise", "keep"),),), 16, 8)).eval().requires_grad_(False)
    assert router.read(photo, Grid(Axis(100, 256), Axis(100, 256))).tasks == ("denoise",)
