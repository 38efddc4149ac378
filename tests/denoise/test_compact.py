"""The compact denoiser: schedule, equation (1), sizes, number types."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from unires.denoise import compact, number_type
from unires.denoise.compact import TASKS, CompactConfig, CompactNet
from unires.denoise.compact_denoiser import CompactDenoiser
from unires.denoise.interface import Hint
from unires.denoise.schedule import alpha_sigma
from unires.errors import OptionError, UniresError


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs(batch: int, size: int = 16) -> tuple[torch.Tensor, ...]:
    """Everything that CompactNet takes, of several times, tasks and severities."""
    z, c = noise(batch, 3, size, size), noise(batch, 3, size, size, seed=1).clamp(-1, 1)
    t = torch.linspace(0.05, 1, batch)
    return z, t, c, torch.arange(batch) % len(TASKS), torch.linspace(-1, 1, batch), torch.ones(batch).bool()


# -- schedule ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_the_schedule(kind: torch.dtype) -> None:
    t = torch.linspace(0, 1, 1001, dtype=kind)
    alpha, sigma = alpha_sigma(t)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t), atol=1e-6, rtol=0)
    assert float(alpha[-1]) == 0 and float(sigma[-1]) == 1  # zero terminal signal, exactly
    assert float(alpha[0]) == 1 and float(sigma[0]) == 0
    assert (alpha.diff() < 0).all() and (sigma.diff() > 0).all()


# -- equation (1) -----------------------------------------------------------------------------------------------------


def test_an_untrained_network_gives_the_precision_weighted_mean() -> None:
    """F = 0: what two noisy measurements of x say, each counted by one over its variance."""
    net = CompactNet(CompactConfig(widths=(8, 8), down=(1, 1), up=(1,)))
    z, t, c, task, severity, seen = inputs(12)
    out = net(z, t, c, task, severity, seen, torch.zeros(1))
    for i in range(12):
        angle = torch.tensor(float(t[i]) * torch.pi / 2, dtype=torch.float64)
        alpha, sigma = (0.0, 1.0) if t[i] == 1 else (float(angle.cos()), float(angle.sin()))
        p_z, p_c = (alpha / sigma) ** 2, compact.PRECISION[int(task[i])]
        mean = p_c * c[i] / (p_z + p_c)
        if alpha:
            mean = mean + p_z * (z[i] / alpha) / (p_z + p_c)
        torch.testing.assert_close(out[i], mean, atol=1e-4, rtol=1e-4)


def test_without_a_condition_the_mean_is_of_the_sample_and_black() -> None:
    net = CompactNet(CompactConfig(widths=(8, 8), down=(1, 1), up=(1,)))
    z, t, _, task, severity, seen = inputs(4)
    out = net(z, t, torch.zeros_like(z), task, severity, ~seen, torch.zeros(1))
    alpha, sigma = (v.view(-1, 1, 1, 1) for v in alpha_sigma(t))
    expected = alpha / sigma**2 * z / ((alpha / sigma) ** 2 + compact.PRECISION_OF_NOTHING)
    torch.testing.assert_close(out, expected)


def test_the_residual_is_scaled_by_the_total_precision(tiny_net: Any) -> None:
    """x_hat - mean = F / sqrt(p_z + p_c) + G_1 d_1 + G_2 d_2: equations (1) and (2) term by term."""
    net = tiny_net()
    z, t, c, task, severity, seen = inputs(6)
    alpha, sigma = (v.view(-1, 1, 1, 1) for v in alpha_sigma(t))
    p_c = torch.tensor(compact.PRECISION)[task].view(-1, 1, 1, 1)
    p_z = (alpha / sigma) ** 2
    d = net.classical(c, task, severity, seen, torch.zeros(1))
    assert d is not None
    f, g = net.residual(alpha * z, c, d, net.modulation(t, task, severity, seen), task)
    expected = (alpha / sigma**2 * z + p_c * c) / (p_z + p_c) + f / (p_z + p_c).sqrt()
    expected = expected + g[:, :1] * d[:, :3] + g[:, 1:] * d[:, 3:]
    torch.testing.assert_close(net(z, t, c, task, severity, seen, torch.zeros(1)), expected)
    torch.testing.assert_close(net.total_precision(t, task, seen), (p_z + p_c).flatten())
    assert float(f.detach().std()) > 0.1 and float(g.detach().std()) > 0.1 and d.any()


def test_what_is_zero_is_left_out_and_changes_nothing(tiny_net: Any) -> None:
    net = tiny_net()
    z, t, c, task, severity, seen = inputs(6)
    d = net.classical(c, task, severity, seen, torch.zeros(1))
    m = net.modulation(torch.ones_like(t), task, severity, seen)
    assert d is not None
    for known in (d, torch.zeros_like(d)):
        whole, _ = net.residual(torch.zeros_like(z), c, known, m, task)
        torch.testing.assert_close(net.residual(None, c, known if known.any() else None, m, task)[0], whole)


def test_at_t_1_nothing_depends_on_the_sample(tiny: Any) -> None:
    c = noise(1, 3, 24, 24, seed=2)
    first, second = (tiny.predict(noise(1, 3, 24, 24, seed=s) * 5, 1.0, c, ["denoise"]) for s in (0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, tiny.predict(noise(1, 3, 24, 24), 0.9, c, ["denoise"]))


def test_near_t_0_the_result_is_the_sample(tiny: Any) -> None:
    z, c = noise(1, 3, 24, 24), noise(1, 3, 24, 24, seed=2)
    for t, most in ((1e-2, 0.5), (1e-4, 5e-3)):
        assert float((tiny.predict(z, t, c, ["dejpeg"]) - z).abs().max()) < most


def test_each_input_matters(tiny: Any) -> None:
    """Task, severity, condition, time: none is forgotten on the way."""
    z, c = noise(1, 3, 24, 24), noise(1, 3, 24, 24, seed=2)
    base = tiny.predict(z, 0.5, c, ["denoise"])
    assert not torch.equal(base, tiny.predict(z, 0.5, c, ["dejpeg"]))
    assert not torch.equal(base, tiny.predict(z, 0.4, c, ["denoise"]))
    assert not torch.equal(base, tiny.predict(z, 0.5, c, ["denoise"], [Hint(0.5)]))
    assert not torch.equal(base, tiny.predict(z, 0.5, None, ["denoise"]))
    assert torch.equal(base, tiny.predict(z, 0.5, c, ["denoise"], [None]))


def test_a_batch_is_its_pictures_one_by_one(tiny: Any) -> None:
    z, c = noise(3, 3, 17, 33), noise(3, 3, 17, 33, seed=2)
    tasks, hints = ["motion-deblur", "blind", "dejpeg"], [Hint(0.2, 1.0), None, Hint(0.9)]
    together = tiny.predict(z, 0.7, c, tasks, hints)
    for i in range(3):
        alone = tiny.predict(z[i : i + 1], 0.7, c[i : i + 1], tasks[i : i + 1], hints[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 3), (17, 33), (16, 16), (31, 4)])
def test_any_height_and_width(tiny: Any, size: tuple[int, int]) -> None:
    out = tiny.predict(noise(1, 3, *size), 1.0, noise(1, 3, *size, seed=1), ["blind"])
    assert out.shape == (1, 3, *size) and torch.isfinite(out).all()


def test_any_size_for_the_default_layout() -> None:
    net = CompactDenoiser(CompactNet(CompactConfig()), "cpu", torch.float32)
    assert 3e6 <= net.facts.parameters <= 8e6
    for size in ((1, 1), (17, 33)):
        assert net.predict(noise(1, 3, *size), 1.0, noise(1, 3, *size), ["blind"]).shape == (1, 3, *size)


def test_a_size_that_fits_needs_no_mirror_and_others_are_mirrored(tiny: Any) -> None:
    c = noise(1, 3, 18, 16)
    mirrored = torch.cat((c, c[..., -3:-1, :].flip(-2)), dim=-2)  # to 20 rows, a multiple of 4
    expected = tiny.predict(torch.zeros_like(mirrored), 1.0, mirrored, ["blind"])[..., :18, :]
    torch.testing.assert_close(tiny.predict(torch.zeros_like(c), 1.0, c, ["blind"]), expected)


def test_pixels_in_and_out(tiny: Any) -> None:
    x = torch.rand(1, 3, 5, 5)
    torch.testing.assert_close(tiny.decode(tiny.encode(x)), x)
    torch.testing.assert_close(tiny.encode(torch.tensor([0.0, 0.5, 1.0])), torch.tensor([-1.0, 0.0, 1.0]))


def test_an_unknown_task_is_refused_with_the_nearest(tiny: Any) -> None:
    with pytest.raises(OptionError, match="did you mean 'denoise'"):
        tiny.predict(noise(1, 3, 8, 8), 1.0, None, ["denois"])
    with pytest.raises(OptionError, match="`up`"):
        CompactConfig(widths=(8, 8), down=(1,), up=(1,))


# -- surfaces and inner widths ----------------------------------------------------------------------------------------


def test_a_surface_of_its_own_starts_as_the_shared_one(tiny_net: Any) -> None:
    net, shared = tiny_net(own=("denoise",)), tiny_net()
    for surface in net.own.values():
        surface.load_state_dict(torch.nn.ModuleDict(net.surfaces()[0]._asdict()).state_dict())
    everything = (*inputs(12), torch.zeros(1))
    torch.testing.assert_close(net(*everything), shared(*everything))


def test_only_its_task_goes_through_a_surface_of_its_own(tiny_net: Any) -> None:
    """And in a batch of many tasks each sample comes out as it does alone."""
    net = tiny_net(own=("denoise", "super-resolution"))
    everything = (*inputs(12), torch.zeros(12))
    before = net(*everything)
    for row in range(12):
        alone = net(*(v[row : row + 1] for v in everything))
        torch.testing.assert_close(before[row : row + 1], alone, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        for p in net.own["denoise"].parameters():
            p += 0.1
    changed = (net(*everything) != before).flatten(1).any(dim=1)
    assert changed.tolist() == [TASKS[task] == "denoise" for task in everything[3]]


def test_gradients_reach_the_surface_that_was_used(tiny_net: Any) -> None:
    net = tiny_net(own=("denoise", "dejpeg"))
    z, t, c, _, severity, seen = inputs(4)
    task = torch.tensor([TASKS.index("denoise"), 0, 1, 2])
    net(z, t, c, task, severity, seen, torch.zeros(4)).square().sum().backward()
    assert all(p.grad is None for p in net.own["dejpeg"].parameters())
    for name in ("enter.weight", "down.0.a.weight", "reduce.weight", "enlarge.weight", "up.0.b.weight", "leave.bias"):
        assert net.own["denoise"].get_parameter(name).grad.any(), name
    assert net.enter.weight.grad.any()


def test_blocks_are_as_wide_inside_as_the_configuration_says() -> None:
    net = CompactNet(CompactConfig(widths=(8, 8), down=(1, 2), up=(1,), inside=(8, 5), wide_from=1))
    assert net.down[1][1].a.weight.shape == (5, 8, 3, 3) and net.down[1][1].wide.weight.shape == (5, 1, 7, 7)
    assert net.modulate.out_features == 2 * (8 + 5 + 5 + 8)
    assert net(*inputs(2), torch.zeros(1)).shape == (2, 3, 16, 16)


def test_a_rank_leaves_fewer_numbers_that_say_what_modulates() -> None:
    net = CompactNet(CompactConfig(widths=(8, 8), down=(1, 1), up=(1,), embedding=32, rank=3))
    torch.nn.init.normal_(net.modulate.weight)
    severity = torch.linspace(0, 1, 40)
    numbers = net.modulation(torch.ones(40), torch.arange(40) % 6, severity, torch.ones(40).bool())
    assert torch.linalg.matrix_rank(numbers - net.modulate.bias) == 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"inside": (8,)}, "`inside`"), ({"inside": (8, 0)}, "`inside`"), ({"own": ("denois",)}, "`own`"),
     ({"own": ("dejpeg", "dejpeg")}, "`own`"), ({"rank": 193}, "`rank`"), ({"rank": -1}, "`rank`"),
     ({"widths": (8,), "down": (1,), "up": ()}, "two levels")],
)  # fmt: skip
def test_shapes_that_cannot_be(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        CompactConfig(**({"widths": (8, 8), "down": (1, 1), "up": (1,)} | changes))


def test_facts(tiny: Any) -> None:
    facts = tiny.facts
    assert facts.tasks == TASKS and facts.channels == 3 and facts.reduction == 1 and facts.multiple == 4
    assert facts.number_type == "float32"
    assert facts.parameters == sum(p.numel() for p in tiny.exact.parameters())


# -- number types -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wide_from", [0, 2])
def test_bf16_agrees_with_float32(tiny_net: Callable[..., Any], wide_from: int) -> None:
    """Within what 8 bits allow: a hundredth of the residual's own size, and no bias."""
    exact = CompactDenoiser(tiny_net(3, wide_from=wide_from), "cpu", torch.float32)
    fast = CompactDenoiser(tiny_net(3, wide_from=wide_from), "cpu", torch.bfloat16)
    assert fast.facts.number_type == "bfloat16"
    c = noise(1, 3, 64, 64).clamp(-1, 1)
    for t in (1.0, 0.4):
        a, b = (d.predict(noise(1, 3, 64, 64, seed=4), t, c, ["blind"]) for d in (exact, fast))
        size = float((a - c).std())
        assert b.dtype == torch.float32
        assert 0 < float((a - b).square().mean().sqrt()) < 0.02 * size
        assert float((a - b).mean().abs()) < 0.005 * size


def test_a_result_that_is_not_finite_is_computed_again(tiny_net: Callable[..., Any]) -> None:
    denoiser = CompactDenoiser(tiny_net(), "cpu", torch.bfloat16)
    right = CompactDenoiser(tiny_net(), "cpu", torch.float32)
    assert denoiser.net is not denoiser.exact
    with torch.no_grad():
        denoiser.net.enter.bias.fill_(float("nan"))
    z, c = noise(1, 3, 16, 16), noise(1, 3, 16, 16, seed=1)
    again = denoiser.predict(z, 0.6, c, ["denoise"])
    torch.testing.assert_close(again, right.predict(z, 0.6, c, ["denoise"]))


def test_a_result_that_stays_not_finite_is_refused(tiny_net: Callable[..., Any]) -> None:
    for kind in (torch.bfloat16, torch.float32):
        net = tiny_net()
        torch.nn.init.constant_(net.leave.bias, float("inf"))
        denoiser = CompactDenoiser(net, "cpu", kind)
        with pytest.raises(UniresError, match="no numbers"):
            denoiser.predict(noise(1, 3, 8, 8), 1.0, noise(1, 3, 8, 8), ["blind"])


class Machine:
    """A processor whose clock and bf16 arithmetic are made up: `number_type` must believe what it measures."""

    def __init__(self, patch: pytest.MonkeyPatch, *, speed: float = 3.0, error: float = 0.0, has: bool = True) -> None:
        self.now = 0.0
        real = torch.nn.functional.conv2d

        def conv2d(x: torch.Tensor, *args: Any, **keywords: Any) -> torch.Tensor:
            fast = x.dtype == torch.bfloat16
            if fast and not has:
                raise RuntimeError("no such kernel")
            self.now += 1.0 / speed if fast else 1.0
            y = real(x, *args, **keywords)
            return y * (1 + error) if fast else y

        patch.setattr(torch.nn.functional, "conv2d", conv2d)
        patch.setattr(number_type.time, "perf_counter", lambda: self.now)
        patch.setattr(number_type, "has_bf16", lambda: True)
        patch.setattr(number_type, "_faster", functools.cache(number_type._faster.__wrapped__))  # asked anew


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        ({"speed": 3.0}, torch.bfloat16),
        ({"speed": 1.05}, torch.float32),  # hardly faster
        ({"speed": 0.1}, torch.float32),  # emulated
        ({"speed": 3.0, "error": 0.1}, torch.float32),  # fast and wrong
        ({"speed": 3.0, "error": float("nan")}, torch.float32),
        ({"speed": 3.0, "has": False}, torch.float32),
    ],
)
def test_bf16_is_chosen_only_where_it_is_faster_and_right(
    tiny_net: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, machine: dict[str, Any], expected: torch.dtype
) -> None:
    net = tiny_net(widths=(16, 16))
    Machine(monkeypatch, **machine)
    assert number_type.choose(net, torch.device("cpu")) == expected


def test_the_choice_stays_what_it_was(tiny_net: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is when another network of that size is loaded: results don't change in a process."""
    machine = Machine(monkeypatch, speed=3.0)
    first = number_type.choose(tiny_net(widths=(16, 16)), torch.device("cpu"))
    timed = machine.now
    assert number_type.choose(tiny_net(1, widths=(16, 16)), torch.device("cpu")) == first and machine.now == timed > 0


def test_a_processor_without_bf16_is_not_even_timed(
    tiny_net: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch)
    monkeypatch.setattr(number_type, "has_bf16", lambda: False)
    assert number_type.choose(tiny_net(widths=(16, 16)), torch.device("cpu")) == torch.float32 and machine.now == 0


@pytest.mark.parametrize("there", [True, False])
def test_a_gpu_is_asked_and_not_timed(
    tiny_net: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: there)
    kind = number_type.choose(tiny_net(widths=(16, 16)), torch.device("cuda"))  # where there is none: nothing is run
    assert kind == (torch.bfloat16 if there else torch.float32)


def test_the_choice_is_quick(tiny_net: Callable[..., Any]) -> None:
    import time

    net = CompactNet(CompactConfig())
    start = time.process_time()
    kind = number_type.choose(net, torch.device("cpu"))
    assert kind in (torch.float32, torch.bfloat16)
    assert time.process_time() - start < 2
