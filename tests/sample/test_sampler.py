"""Sampling against closed forms: the composed step, the solvers' order, and what callbacks and experts get."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from unires.compose.conditions import Conditions
from unires.compose.consistency import consistent
from unires.compose.experts import Expert
from unires.compose.grid import Axis, Grid
from unires.compose.origin import Origin
from unires.compose.weights import Weights
from unires.degrade.resample import resize
from unires.denoise.compact import TASKS
from unires.denoise.interface import Facts, Hint
from unires.errors import OptionError
from unires.sample import sampler
from unires.sample.sampler import SOLVERS, State, composed_estimate, levels, sample, solve, times


def noise(*shape: int, seed: int = 0, kind: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=kind)


class Toy:
    """A denoiser known exactly: the clean pixels are Gaussian (mean MU[task] plus the condition's share, deviation
    S), so that the best estimate of x from z = alpha x + sigma eps is linear. It keeps what it was asked."""

    MU = {"blind": 0.1, "denoise": -0.4, "dejpeg": 0.3}
    S = 0.6

    def __init__(self) -> None:
        self.asked: list[tuple[Tensor, float, Tensor | None, list[str]]] = []

    @property
    def facts(self) -> Facts:
        return Facts(tuple(self.MU), 3, 1, 1, 0, 0, "float32")

    def encode(self, pixels: Tensor) -> Tensor:
        return pixels * 2 - 1

    def decode(self, sample: Tensor) -> Tensor:
        return (sample + 1) / 2

    def predict(
        self,
        z: Tensor,
        t: float,
        condition: Tensor | None,
        tasks: Sequence[str],
        hints: Sequence[Hint | None] | None = None,
    ) -> Tensor:
        self.asked.append((z, t, condition, list(tasks)))
        alpha, sigma = levels(t)
        mean = torch.tensor([self.MU[task] for task in tasks], dtype=z.dtype).view(-1, 1, 1, 1)
        if condition is not None:
            mean = mean + 0.2 * condition
        return mean + self.S**2 * alpha / (self.S**2 * alpha**2 + sigma**2) * (z - alpha * mean)

    def truth(self, z1: Tensor, mean: Tensor) -> Tensor:
        """Where the flow from z_1 ends: the quantile stays the same, from N(0, 1) to N(mean, S)."""
        return mean + self.S * z1


def weights(text: str) -> Weights:
    return Weights.parse(text, TASKS)


# -- the step ---------------------------------------------------------------------------------------------------------


def test_super_resolution_alone_keeps_to_what_was_enlarged(tiny: Any, photo: Any) -> None:
    x = resize(resize(photo[..., :80, :80], (40, 40)), (80, 80))
    grid, z, hints = Grid(Axis(40, 80), Axis(40, 80)), noise(1, 3, 80, 80), {"denoise": Hint(0.5)}

    def step(text: str, relay: Tensor | None = None, grid: Grid | None = grid) -> Tensor:
        return composed_estimate(tiny, Conditions(tiny, x), weights(text), z, 1.0, 0, relay, hints, Origin(grid))

    small = resize(tiny.encode(x), (40, 40))
    for text, relay in (("super-resolution", None), ("super-resolution@relay", tiny.encode(x))):
        before, after = step(text, relay, None), step(text, relay)
        off, kept = ((resize(v, (40, 40)) - small).square().mean() for v in (before, after))
        assert kept < 0.05 * off
        torch.testing.assert_close(after, consistent(before, tiny.encode(x), grid))
    for text in ("denoise", "super-resolution@down2", "super-resolution=0.6,denoise=0.4"):
        assert torch.equal(step(text), step(text, grid=None))


def test_the_step_is_the_same_over_samples_noises_and_velocities(tiny: Any, photo: Any) -> None:
    """As all experts share alpha and sigma, weights that sum to one give the same step: to 1e-5."""
    x = photo[..., :40, :40]
    w = weights("denoise=1.4,motion-deblur=-0.9,dejpeg@down2=0.3,keep=0.2")
    conditions = Conditions(tiny, x)
    z = noise(1, 3, 40, 40)
    for t, s in ((0.9, 0.6), (0.5, 0.25), (0.3, 0.1)):
        alpha, sigma = levels(t)
        alpha_s, sigma_s = levels(s)
        samples = []
        for expert in w.experts:
            if expert.task == "keep":
                samples.append(tiny.encode(x))
            else:
                samples.append(tiny.predict(z, t, conditions(expert.condition, None), [expert.task]))
        row = w.values[0].tolist()
        noises = [(z - alpha * d) / sigma for d in samples]
        velocities = [alpha * n - sigma * d for n, d in zip(noises, samples, strict=True)]

        def total(parts: list[Tensor], row: list[float] = row) -> Tensor:
            return sum((k * p for k, p in zip(row, parts, strict=True)), torch.zeros_like(z))

        over_noises = total(noises)
        from_noises = alpha_s * (z - sigma * over_noises) / alpha + sigma_s * over_noises
        v = total(velocities)
        from_velocities = alpha_s * (alpha * z - sigma * v) + sigma_s * (sigma * z + alpha * v)

        def estimate(z: Tensor, t: float, step: int, relay: Tensor | None) -> Tensor:
            return composed_estimate(tiny, conditions, w, z, t, step, relay)

        seen: list[State] = []
        solve(SOLVERS["ddim"], estimate, z, [t, s, s / 2], seen.append)
        torch.testing.assert_close(seen[1].z, from_noises, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(seen[1].z, from_velocities, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(seen[0].estimate, total(samples), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_one_step_is_the_estimate(tiny: Any, photo: Any, solver: str) -> None:
    x = photo[..., :33, :20]
    expected = tiny.decode(tiny.predict(torch.zeros_like(x), 1.0, tiny.encode(x), ["denoise"]))
    torch.testing.assert_close(sample(tiny, x, weights("denoise"), solver=solver), expected)
    # noise is not looked at
    torch.testing.assert_close(sample(tiny, x, weights("denoise"), solver=solver, noise=noise(1, 3, 33, 20)), expected)


def test_a_weighted_sum_of_experts(tiny: Any, photo: Any) -> None:
    x = photo[..., :16, :16]
    c = tiny.encode(x)
    parts = [tiny.predict(torch.zeros_like(x), 1.0, c, [task]) for task in ("denoise", "dejpeg")]
    expected = tiny.decode(1.6 * parts[0] - 0.9 * parts[1] + 0.3 * c)
    torch.testing.assert_close(sample(tiny, x, weights("denoise=1.6,dejpeg=-0.9,keep=0.3")), expected)


def test_experts_of_large_pictures_run_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    w, x = weights("denoise=1.5,dejpeg=-0.8,blind@down2=0.3"), torch.rand(2, 3, 10, 12)
    results = []
    for most, batches in ((10_000, [6]), (600, [4, 2]), (1, [2, 2, 2])):
        monkeypatch.setattr(sampler, "AT_ONCE", most)
        toy = Toy()
        results.append(sample(toy, x, w))
        assert [len(tasks) for *_, tasks in toy.asked] == batches
    assert all(torch.allclose(r, results[0], atol=1e-6) for r in results)


def test_weight_maps_choose_the_expert_at_each_place(tiny: Any, photo: Any) -> None:
    x = photo[..., :16, :32]
    half = torch.zeros(1, 2, 16, 32)
    half[:, 0, :, :16] = half[:, 1, :, 16:] = 1
    out = sample(tiny, x, Weights((Expert("denoise"), Expert("keep")), half))
    whole = sample(tiny, x, weights("denoise"))
    torch.testing.assert_close(out[..., :16], whole[..., :16])
    torch.testing.assert_close(out[..., 16:], x[..., 16:])
    assert (whole - x)[..., 16:].abs().mean() > 0.01


# -- solvers ----------------------------------------------------------------------------------------------------------


def orders(errors: list[float]) -> list[float]:
    return [math.log2(a / b) for a, b in pairwise(errors)]


@pytest.mark.parametrize(("solver", "order"), [("ddim", 1), ("multistep", 2)])
def test_the_solvers_converge_with_their_order(solver: str, order: int) -> None:
    """Away from the ends, where log(alpha / sigma) is finite: z at t = 0.2 from z at 0.8, against the exact flow."""
    toy = Toy()
    z = noise(1, 3, 4, 4, seed=2, kind=torch.float64)
    mean = torch.full_like(z, Toy.MU["denoise"])

    def spread(t: float) -> float:
        alpha, sigma = levels(t)
        return math.sqrt(toy.S**2 * alpha**2 + sigma**2)

    def flow(t: float) -> Tensor:
        return levels(t)[0] * mean + spread(t) / spread(0.8) * (z - levels(0.8)[0] * mean)

    errors = []
    for steps in (32, 64, 128, 256):
        ts = [0.8 - 0.6 * i / steps for i in range(steps + 1)]
        states: list[State] = []
        solve(SOLVERS[solver], lambda z, t, *_: toy.predict(z, t, None, ["denoise"]), z, [*ts, 0.1], states.append)
        errors.append(float((states[-1].z - flow(0.2)).abs().max()))
    assert all(abs(o - order) < 0.2 for o in orders(errors)), (errors, orders(errors))


@pytest.mark.parametrize(("solver", "low", "high"), [("ddim", 0.9, 1.1), ("multistep", 1.35, 2.1)])
def test_from_pure_noise_to_the_photo(solver: str, low: float, high: float) -> None:
    """From t = 1 to 0. Near 1, steps in log(alpha / sigma) don't shrink as their number grows (they are log 2,
    log 3/2, ...), so that second order is there steps^-2 log(steps)."""
    toy = Toy()
    pixels = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    z1 = noise(1, 3, 4, 4, seed=2, kind=torch.float64)
    truth = toy.decode(toy.truth(z1, Toy.MU["denoise"] + 0.2 * toy.encode(pixels)))
    errors = []
    for steps in (64, 128, 256, 512):
        out = sample(toy, pixels, weights("denoise"), steps=steps, noise=z1, solver=solver)
        errors.append(float((out - truth).abs().max()))
    assert all(low < o < high for o in orders(errors)), (errors, orders(errors))
    assert errors[-1] < (3e-3 if solver == "ddim" else 2e-4)


def test_second_order_wins_at_few_steps() -> None:
    toy = Toy()
    pixels, z1 = torch.full((1, 3, 2, 2), 0.5, dtype=torch.float64), noise(1, 3, 2, 2, kind=torch.float64)
    truth = toy.decode(toy.truth(z1, torch.full_like(z1, Toy.MU["blind"])))
    error = {}
    for solver in SOLVERS:
        out = sample(toy, pixels, weights("blind"), steps=8, noise=z1, solver=solver)
        error[solver] = float((out - truth).abs().max())
    assert error["multistep"] < 0.5 * error["ddim"]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 50])
def test_an_expert_that_is_certain_is_believed(solver: str, steps: int) -> None:
    """`keep` says the same at every time: whatever the noise and the steps, the result is the photo."""
    pixels = torch.rand(1, 3, 5, 5, generator=torch.Generator().manual_seed(3))
    out = sample(Toy(), pixels, weights("keep"), steps=steps, noise=noise(1, 3, 5, 5), solver=solver)
    torch.testing.assert_close(out, pixels)


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_times_go_from_one_to_zero(steps: int) -> None:
    ts = times(steps)
    assert len(ts) == steps + 1 and ts[0] == 1 and ts[-1] == 0
    assert all(a > b for a, b in pairwise(ts))
    assert levels(1.0) == (0.0, 1.0) and levels(0.0) == (1.0, 0.0)


# -- who gets what ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_callback_gets_each_steps_state(solver: str) -> None:
    toy = Toy()
    states: list[State] = []
    z1 = noise(1, 3, 4, 4)
    pixels = torch.full((1, 3, 4, 4), 0.5)
    out = sample(toy, pixels, weights("denoise"), steps=4, noise=z1, solver=solver, callback=states.append)
    assert [(s.step, s.steps) for s in states] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert [s.t for s in states] == times(4)[:-1] and [s.s for s in states] == times(4)[1:]
    assert torch.equal(states[0].z, z1)
    for state, (z, t, _, _) in zip(states, toy.asked, strict=True):
        assert torch.equal(state.z, z) and state.t == t
    torch.testing.assert_close(out, toy.decode(states[-1].estimate))
    # the first step of every solver is DDIM's, its noise z itself
    alpha, sigma = levels(0.75)
    torch.testing.assert_close(states[1].z, alpha * states[0].estimate + sigma * z1)


@pytest.mark.parametrize("solver", SOLVERS)
def test_relay_gets_the_estimate_of_the_step_before(solver: str) -> None:
    toy = Toy()
    states: list[State] = []
    pixels = torch.rand(1, 3, 4, 4)
    sample(
        toy, pixels, weights("denoise=0.5,dejpeg@relay=0.5"), steps=3, noise=noise(1, 3, 4, 4), solver=solver,
        callback=states.append,
    )
    for step, (_, _, condition, _) in enumerate(toy.asked):
        assert condition is not None
        assert torch.equal(condition[0], toy.encode(pixels)[0])  # denoise always sees the photo
        expected = toy.encode(pixels) if step == 0 else states[step - 1].estimate
        assert torch.equal(condition[1:], expected)


def test_experts_that_see_the_relay_alone_start_afresh(tiny: Any) -> None:
    """Two steps are two experts, one after the other, and what stands for z is the noise that there was."""
    pixels, z1 = torch.rand(2, 3, 16, 16), noise(2, 3, 16, 16)
    told = {"dejpeg": Hint(0.4)}
    two = sample(tiny, pixels, weights("denoise; dejpeg@relay=0.7,keep=0.3"), steps=2, noise=z1, hints=told)
    first = sample(tiny, pixels, weights("denoise"))
    second = 0.7 * sample(tiny, first, weights("dejpeg"), hints=told) + 0.3 * pixels
    torch.testing.assert_close(two, second, atol=1e-5, rtol=0)
    toy = Toy()
    sample(toy, pixels, weights("denoise; dejpeg@relay"), steps=2, noise=z1)
    assert [t for _, t, _, _ in toy.asked] == [1.0, 1.0]
    for z, _, _, _ in toy.asked:
        torch.testing.assert_close(z, z1, atol=1e-4, rtol=0)


def test_it_goes_on_from_what_earlier_steps_made(tiny: Any, photo: Any) -> None:
    w = Weights.parse("keep=0.3,denoise=0.7; keep@relay=0.1,dejpeg@relay=0.6,keep=0.3", tiny.facts.tasks)
    at_once = sample(tiny, photo, w, steps=2, noise=noise(*photo.shape))
    first = sample(tiny, photo, w.first(1))
    torch.testing.assert_close(sample(tiny, photo, w.after(1), relay=first), at_once, atol=1e-5, rtol=0)


def test_the_experts_of_a_step_are_asked_once() -> None:
    toy = Toy()
    pixels = torch.rand(2, 3, 4, 4)
    z1 = noise(2, 3, 4, 4)
    sample(toy, pixels, weights("denoise=0.5,dejpeg=0.2,blind@relay=0.2,keep=0.1"), steps=2, noise=z1)
    assert len(toy.asked) == 2
    z, _, _, tasks = toy.asked[0]
    assert tasks == ["denoise", "denoise", "dejpeg", "dejpeg", "blind", "blind"]  # two pictures, three experts
    assert torch.equal(z, z1.repeat(3, 1, 1, 1))


def test_negligible_weights_and_keep_are_not_run() -> None:
    toy = Toy()
    pixels = torch.rand(1, 3, 4, 4)
    sample(toy, pixels, weights("denoise=0.9995,dejpeg=0.0005"))
    assert toy.asked[0][3] == ["denoise"]
    toy.asked.clear()
    sample(toy, pixels, weights("keep; dejpeg"), steps=2, noise=noise(1, 3, 4, 4))
    assert [a[3] for a in toy.asked] == [["dejpeg"]]


def test_lists_of_weights_belong_to_their_steps() -> None:
    toy = Toy()
    sample(toy, torch.rand(1, 3, 4, 4), weights("denoise; dejpeg; blind"), steps=4, noise=noise(1, 3, 4, 4))
    assert [a[3] for a in toy.asked] == [["denoise"], ["dejpeg"], ["blind"], ["blind"]]


def test_an_unknown_solver_is_refused(tiny: Any) -> None:
    with pytest.raises(OptionError, match="did you mean 'multistep'"):
        sample(tiny, torch.rand(1, 3, 4, 4), weights("denoise"), solver="multi-steps")
