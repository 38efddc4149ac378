"""W: reading, sums, maps, saving; experts, conditions and presets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unires.compose import presets
from unires.compose.conditions import Conditions
from unires.compose.experts import CONDITIONS, KEEP, Expert
from unires.compose.weights import NEGLIGIBLE, Weights
from unires.degrade import resample
from unires.denoise.compact import TASKS
from unires.errors import OptionError, UniresError

A, B, K = Expert("denoise"), Expert("dejpeg", "relay"), Expert(KEEP)


def parse(text: str) -> Weights:
    return Weights.parse(text, TASKS)


# -- reading ----------------------------------------------------------------------------------------------------------


def test_reading() -> None:
    w = parse(" denoise = 0.7 , motion-deblur@down2=0.3 ; denoise@relay ")
    assert w.experts == (Expert("denoise"), Expert("motion-deblur", "down2"), Expert("denoise", "relay"))
    torch.testing.assert_close(w.values, torch.tensor([[0.7, 0.3, 0], [0, 0, 1]]))
    assert w.steps == 2
    assert parse("denoise@lq").experts == parse("denoise").experts


def test_weights_may_be_negative_and_large() -> None:
    w = parse("denoise=2.5,blind=-1.5")
    assert w.values.tolist() == [[2.5, -1.5]] and w.active(0) == [0, 1]


def test_what_rounding_leaves_is_spread() -> None:
    w = parse("denoise=0.333,dejpeg=0.333,blind=0.333")
    assert float(w.values.sum()) == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(w.values, torch.full((1, 3), 1 / 3))


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=5, unique=True), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_what_is_printed_is_read_again(free: list[float], steps: int) -> None:
    experts = [*TASKS[: len(free)], KEEP]
    rows = [{Expert.parse(e, TASKS): v for e, v in zip(experts, [*free, 1 - sum(free)], strict=True)}] * steps
    w = Weights.from_steps(rows)
    again = parse(str(w))
    assert again.steps == w.steps
    for i, expert in enumerate(w.experts):
        if i in w.active(0):
            value = again.values[0, again.experts.index(expert)]
            assert float(value) == pytest.approx(float(w.values[0, i]), abs=5e-3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("denois", "did you mean 'denoise'?"),
        ("dejpg=1", "did you mean 'dejpeg'?"),
        ("keap", "did you mean 'keep'?"),
        ("superresolution", "did you mean 'super-resolution'?"),
        ("Denoise=1", "did you mean 'denoise'?"),
        ("denoise@relais", "did you mean 'relay'?"),
        ("denoise@", "condition"),
        ("keep@down2", "not reduced"),
        ("denoise=0.7,dejpeg=0.4", "sum to 1.1"),
        ("denoise=0.7", "sum to 0.7"),
        ("denoise; dejpeg=0.5", "step 2 sum to 0.5"),
        ("denoise=abc", "no number"),
        ("denoise=", "no number"),
        ("denoise=nan", "finite"),
        ("denoise=inf,dejpeg=-inf", "finite"),
        ("denoise=1e39", "finite"),
        ("denoise=0.5,denoise=0.5", "twice"),
        ("denoise=0.5,denoise@lq=0.5", "twice"),
        ("", "without an expert"),
        ("denoise;", "without an expert"),
        (",", "without an expert"),
        ("=1", "Unknown expert ''"),
    ],
)
def test_refusals(text: str, said: str) -> None:
    with pytest.raises(OptionError) as refused:
        parse(text)
    assert said in str(refused.value) and "\n" not in str(refused.value)


@given(st.text(alphabet="denoisjpgkblau=.,;@-0123456789 \n", max_size=30))
@settings(max_examples=200, deadline=None)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        w = parse(text)
    except OptionError as error:
        assert "\n" not in str(error)
    else:
        torch.testing.assert_close(w.values.sum(1), torch.ones(w.steps))


@pytest.mark.parametrize("shape", [(2,), (0, 2), (1, 3), (1, 2, 4), (1, 2, 4, 4, 1)])
def test_shapes_that_do_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(OptionError, match="shape"):
        Weights((A, B), torch.full(shape, 0.5))


# -- use --------------------------------------------------------------------------------------------------------------


def test_negligible_weights_do_not_count_and_the_rest_sums_to_one() -> None:
    w = Weights((A, B, K), torch.tensor([[0.5005, 0.4999, -0.0004]]))
    assert w.active(0) == [0, 1]
    assert float(w.at(0, 0, (1, 1)) + w.at(0, 1, (1, 1))) == pytest.approx(1, abs=1e-6)
    assert Weights((A, B), torch.tensor([[1 - NEGLIGIBLE, NEGLIGIBLE]])).active(0) == [0, 1]


def test_the_last_row_goes_on() -> None:
    w = parse("denoise; dejpeg")
    assert [w.active(s) for s in range(4)] == [[0], [1], [1], [1]]
    assert float(w.at(9, 1, (1, 1))) == 1


def test_passes_count_networks_only() -> None:
    w = parse("denoise=0.5,keep=0.5; denoise=0.5,dejpeg=0.5; keep")
    assert [w.passes(n) for n in (1, 2, 3, 5)] == [1, 3, 3, 3]


def test_only_keep() -> None:
    assert parse("keep").only_keep and parse("keep=1.0001,denoise=-0.0001").only_keep
    assert parse("denoise; keep").only_keep  # whatever came before, the last step gives the photo
    assert not parse("keep; denoise").only_keep and not parse("keep=0.99,denoise=0.01").only_keep


def maps() -> Weights:
    left = torch.linspace(0, 1, 5).expand(3, 5)
    return Weights((A, K), torch.stack((left, 1 - left))[None])


def test_maps_are_enlarged_and_sum_to_one_everywhere() -> None:
    w = maps()
    a, k = w.at(0, 0, (30, 50)), w.at(0, 1, (30, 50))
    assert a.shape == (1, 1, 30, 50)
    torch.testing.assert_close(a + k, torch.ones_like(a), atol=1e-6, rtol=0)
    assert float(a[..., 0].max()) == 0 and float(a[..., -1].min()) == 1
    assert (a.diff(dim=-1) >= -1e-6).all()
    assert not w.only_keep and w.active(0) == [0, 1]
    assert str(w) == "denoise=0.5,keep=0.5"


def test_a_map_counts_if_it_counts_anywhere() -> None:
    one = torch.zeros(1, 2, 4, 4)
    one[0, 1] = 1
    assert Weights((A, K), one).active(0) == [1] and Weights((A, K), one).only_keep
    spot = one.clone()
    spot[0, :, 2, 3] = torch.tensor([-0.5, 1.5])
    assert Weights((A, K), spot).active(0) == [0, 1]


def test_maps_must_sum_to_one_everywhere() -> None:
    wrong = torch.full((2, 2, 4, 4), 0.5)
    wrong[1, 0, 2, 2] = 0.6
    with pytest.raises(OptionError, match="step 2"):
        Weights((A, B), wrong)


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [parse("denoise=1.7,dejpeg@relay=-0.7; keep"), maps()], ids=["numbers", "maps"])
def test_saved_and_loaded(tmp_path: Path, weights: Weights) -> None:
    (tmp_path / "w.json").write_text(weights.as_json())
    again = Weights.load(tmp_path / "w.json", TASKS)
    assert again.experts == weights.experts
    torch.testing.assert_close(again.values, weights.values)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        "\0",
        '{"experts": ["denoise"]}',
        '{"experts": 1, "values": [[1]]}',
        '{"experts": ["denoise"], "values": "x"}',
        '{"experts": ["denoise"], "values": [[1], [1, 2]]}',
        '{"experts": ["denoise"], "values": [["a"]]}',
    ],
)
def test_files_that_hold_no_weights(tmp_path: Path, content: str) -> None:
    (tmp_path / "w.json").write_text(content)
    with pytest.raises(UniresError, match=r"holds no weights\.$"):
        Weights.load(tmp_path / "w.json", TASKS)


def test_files_of_other_models(tmp_path: Path) -> None:
    with pytest.raises(UniresError, match="There is no file"):
        Weights.load(tmp_path / "missing.json", TASKS)
    (tmp_path / "w.json").write_text(json.dumps({"experts": ["derain"], "values": [[1.0]]}))
    with pytest.raises(OptionError, match="Unknown expert 'derain'"):
        Weights.load(tmp_path / "w.json", TASKS)
    (tmp_path / "w.json").write_text(json.dumps({"experts": ["denoise"], "values": [[0.5]]}))
    with pytest.raises(OptionError, match=r"sum to 0\.5"):
        Weights.load(tmp_path / "w.json", TASKS)


# -- conditions and presets -------------------------------------------------------------------------------------------


def test_conditions(tiny: Any, photo: Any) -> None:
    x = photo[..., :50, :71]
    conditions = Conditions(tiny, x)
    lq = conditions("lq", None)
    assert torch.equal(lq, tiny.encode(x)) and conditions("lq", None) is lq  # made once
    for name, factor in (("down2", 2), ("down4", 4)):
        small = resample.resize(x, resample.reduced_size(50, 71, factor), "area")
        expected = tiny.encode(resample.resize(small, (50, 71), "bicubic").clamp(0, 1))
        torch.testing.assert_close(conditions(name, None), expected)
    assert torch.equal(conditions("relay", None), lq)  # nothing was estimated yet
    estimate = torch.zeros_like(lq)
    assert conditions("relay", estimate) is estimate
    assert torch.equal(conditions("relay", None), lq)


def test_experts_print_as_they_are_read() -> None:
    for task in TASKS:
        for condition in CONDITIONS:
            expert = Expert.parse(f"{task}@{condition}", TASKS)
            assert Expert.parse(str(expert), TASKS) == expert


@pytest.mark.parametrize("scale", [1, 1.5, 4])
@pytest.mark.parametrize("fidelity", [0, 0.3, 1])
def test_presets_are_weights(scale: float, fidelity: float) -> None:
    w = presets.inventive(presets.default_weights(scale, TASKS), fidelity)
    torch.testing.assert_close(w.values.sum(1), torch.ones(w.steps))
    steps = presets.default_steps(fidelity, w)
    assert steps == {0: 8, 0.3: 6, 1: 1}[fidelity]
    invents = sum(float(w.values[0, i]) for i, e in enumerate(w.experts) if e.condition == "down2")
    assert invents == pytest.approx(0.3 * (1 - fidelity), abs=1e-5)


def test_lower_fidelity_keeps_maps_and_steps() -> None:
    maps = torch.rand(2, 2, 3, 4)
    w = presets.inventive(Weights((A, K), maps / maps.sum(dim=1, keepdim=True)), 0.5)
    torch.testing.assert_close(w.values.sum(dim=1), torch.ones(2, 3, 4))
    assert float(w.values[1, 2].mean()) == pytest.approx(0.15)
    assert w.first(1).steps == 1 and w.first(5).steps == 2


@pytest.mark.parametrize("fidelity", [0, 0.3, 1])
def test_crisper_is_one_step_more(fidelity: float) -> None:
    maps = torch.rand(2, 2, 3, 4)
    before = Weights((A, Expert("keep", "relay")), maps / maps.sum(dim=1, keepdim=True))
    w = presets.crisper(before, fidelity)
    if fidelity == 1:
        assert w is before
        return
    assert w.steps == 3
    torch.testing.assert_close(w.first(2).values[:, :2], before.values)
    last = {str(w.experts[i]): float(w.values[2, i].mean()) for i in w.active(2)}
    expected = {"keep@relay": 1 - 1.4 * (1 - fidelity), "crisp@relay": 1.4 * (1 - fidelity)}
    assert last == pytest.approx({name: share for name, share in expected.items() if share})


def test_what_needs_nothing_is_not_made_crisp() -> None:
    assert presets.crisper(parse("keep"), 0.0).only_keep


def test_as_many_steps_as_lists() -> None:
    assert presets.default_steps(1.0, parse("denoise; blind; dejpeg")) == 3
