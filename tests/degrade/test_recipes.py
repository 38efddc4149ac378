"""Recipes: how they are read and refused, that a seed decides everything, and that the test mixtures are new."""

from __future__ import annotations

import inspect
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import unires
from unires.degrade import jpeg, operators, recipes
from unires.degrade.recipe import OPERATORS, Recipe
from unires.errors import OptionError

NUMBER = st.one_of(st.integers(-1000, 1000), st.floats(-1e6, 1e6, allow_nan=False))
VALUE = st.one_of(NUMBER, st.sampled_from(["4:2:0", "4:4:4", "bicubic", "area"]), st.none())


@st.composite
def recipe_steps(draw: Any) -> tuple[Any, ...]:
    steps = []
    for name in draw(st.lists(st.sampled_from(sorted(OPERATORS)), min_size=1, max_size=4)):
        known = list(inspect.signature(OPERATORS[name]).parameters)[2:]
        chosen = draw(st.lists(st.sampled_from(known), unique=True))
        steps.append((name, tuple((k, draw(VALUE)) for k in chosen)))
    return tuple(steps)


@given(recipe_steps())
@settings(max_examples=100, deadline=None)
def test_what_is_printed_is_read_again(steps: tuple[Any, ...]) -> None:
    recipe = Recipe(steps)
    assert Recipe.parse(str(recipe)) == recipe


@given(st.text(max_size=60))
@settings(max_examples=150, deadline=None)
def test_any_text_is_read_or_refused_in_one_sentence(text: str) -> None:
    try:
        Recipe.parse(text)
    except OptionError as error:
        assert str(error).endswith((".", "?"))
        assert "\n" not in str(error)


def test_reading() -> None:
    expected = Recipe((("defocus", (("radius", 3),)), ("noise", ()), ("jpeg", (("quality", 30),))))
    assert Recipe.parse(" defocus( radius = 3 )+noise + jpeg(quality=30)") == expected
    assert Recipe.parse("gaussian-blur(sigma=2)") == Recipe.parse("gaussian_blur(sigma=2)")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nois(sigma=3)", "did you mean 'noise'?"),
        ("noise(sigm=3)", "did you mean 'sigma'?"),
        ("motion(lenght=3)", "did you mean 'length'?"),
        ("resize(kernel='bicubc')", "did you mean 'bicubic'?"),
        ("jpeg(subsampling='4:2:1')", "did you mean '4:2:0'?"),
        ("noise(sigma=-1)", "sigma=-1 is out of range"),
        ("noise(sigma=1e999)", "sigma=inf is out of range"),
        ("noise(sigma=True)", "sigma=True is out of range"),
        ("noise(sigma='5')", "sigma='5' is out of range"),
        ("noise(sigma=None)", "sigma=None is out of range"),
        ("noise(sigma=3, sigma=4)", "noise's sigma twice"),
        ("jpeg(quality=0)", "from 1 to 100"),
        ("jpeg(quality=101)", "from 1 to 100"),
        ("defocus(radius=0)", "out of range"),
        ("defocus(blades=2)", "from 3 to 20"),
        ("defocus(blades=6, rotation='a')", "rotation='a' is out of range"),
        ("motion(angle='a')", "angle='a' is out of range"),
        ("motion(bend=None)", "bend=None is out of range"),
        ("resize(scale=0.5)", "from 1 to 64"),
        ("haze(beta=-1)", "beta=-1 is out of range"),
        ("haze(airlight=2)", "from 0 to 1"),
        ("low_light(exposure=1.5)", "exposure=1.5 is out of range"),
        ("low-light(gane=3)", "did you mean 'gain'?"),
        ("noise(sigma=x)", "not a number or a text"),
        ("noise(sigma={[]: 1})", "not a number or a text"),
        ("noise(**{})", "parameter of noise"),
        ("noise(25)", "can't be read"),
        ("noise - jpeg", "can't be read"),
        ("noise(sigma=3", "can't be read"),
        ("", "can't be read"),
        ("\0", "can't be read"),
        ("open('x').read()", "can't be read"),
        ("__import__('os')", "can't be read"),
        ("+".join(["noise"] * 5000), "can't be read"),
    ],
)
def test_refusals(text: str, said: str) -> None:
    with pytest.raises(OptionError) as refused:
        Recipe.parse(text)(torch.zeros(1, 3, 8, 8))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", OPERATORS)
def test_same_seed_same_bytes(photo: Any, name: str) -> None:
    x = photo[..., :64, :64]
    recipe = Recipe.parse(f"{name} + noise(sigma=3)")
    first = recipe(x, 7)
    assert torch.equal(first, recipe(x, 7))
    assert not torch.equal(first, recipe(x, 8))
    assert torch.equal(first, operators.round8(first))
    assert first.shape == x.shape and not torch.equal(first, x)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (3, 2)])
@pytest.mark.parametrize("name", OPERATORS)
def test_the_smallest_pictures(name: str, size: tuple[int, int]) -> None:
    out = Recipe.parse(name)(torch.full((1, 3, *size), 0.5), 0)
    assert out.shape == (1, 3, *size) and torch.isfinite(out).all()


def test_a_recipe_is_its_operators_in_order(photo: Any) -> None:
    noisy = operators.srgb_gaussian_noise(photo, 15.0, torch.Generator().manual_seed(4))
    expected = jpeg.encode_decode(noisy, [30], ["4:2:0"])
    assert torch.equal(Recipe.parse("noise(sigma=15) + jpeg(quality=30)")(photo, 4), expected)


def test_degrade_gives_back_what_it_got(astronaut: Any) -> None:
    from PIL import Image

    crop = astronaut[:40, :50]
    text = "noise(sigma=10) + jpeg(quality=40)"
    worse = unires.degrade(crop, text, seed=3)
    assert worse.dtype == np.uint8 and worse.shape == crop.shape
    picture = unires.degrade(Image.fromarray(crop), text, seed=3)
    assert picture.mode == "RGB" and np.array_equal(np.asarray(picture), worse)
    tensor = unires.degrade(torch.from_numpy(crop.copy()).permute(2, 0, 1)[None] / 255, text, seed=3)
    assert np.array_equal((tensor[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy(), worse)
    deep = unires.degrade(crop.astype(np.uint16) * 257, text, seed=3)
    assert deep.dtype == np.uint16 and np.array_equal(deep, worse.astype(np.uint16) * 257)


@pytest.mark.parametrize("seed", [-(2**63) - 1, 2**64, 1.5, "1"])
def test_a_seed_that_is_none_is_refused(seed: Any) -> None:
    with pytest.raises(OptionError, match="seed"):
        unires.degrade(np.zeros((8, 8, 3), np.uint8), "noise", seed)


def test_no_test_mixture_is_a_tuning_mixture_or_close_to_one() -> None:
    """The same operators in the same order count as another recipe only if some parameter is more than a tenth off."""

    def filled(text: str) -> list[tuple[str, dict[str, Any]]]:
        steps = []
        for name, given_values in Recipe.parse(text).steps:
            known = list(inspect.signature(OPERATORS[name]).parameters.items())[2:]
            steps.append((name, {k: dict(given_values).get(k, p.default) for k, p in known}))
        return steps

    def near(a: Any, b: Any) -> bool:
        if isinstance(a, (int, float)) and isinstance(b, (int, float)):
            return abs(a - b) <= 0.1 * max(abs(a), abs(b))
        return bool(a == b)

    for test, tuning in product(recipes.TEST, recipes.TUNING):
        a, b = filled(test), filled(tuning)
        alike = [n for n, _ in a] == [n for n, _ in b] and all(
            near(p[k], q[k]) for (_, p), (_, q) in zip(a, b, strict=True) for k in p
        )
        assert not alike, (test, tuning)
    assert len(set(recipes.TEST)) == len(recipes.TEST) and len(set(recipes.TUNING)) == len(recipes.TUNING)


def test_every_listed_recipe_runs_and_every_single_has_an_expert(photo: Any) -> None:
    x = photo[..., :96, :96]
    for text in (*recipes.SINGLES.values(), *recipes.TUNING, *recipes.TEST):
        out = Recipe.parse(text)(x, 1)
        assert 0 < float((out - x).square().mean()) < 0.05, text
    assert {name.split()[0] for name in recipes.SINGLES} == set(recipes.EXPERT_FOR)
