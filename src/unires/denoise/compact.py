"""The compact denoiser: the whole network, in pixel space.

A U-Net over the pixel-unshuffled picture. Three things know about the clean sample x: the noisy sample z with
precision p_z = (alpha/sigma)^2, the condition c with precision p_c, and the network F. They are combined by
precision:

    x_hat = (p_z z/alpha + p_c c) / (p_z + p_c)  +  F(z, c, d, t, tau, severity) / sqrt(p_z + p_c)       (1)

so that F's target has unit scale for every t: at t = 1 it is a residual regressor, near t = 0 a residual denoiser.
Where an expert is told how strong its degradation is, F also sees d, what two classical methods would change of c:
deconvolution of a blur (`deconvolve.py`), shrinkage of noise (`shrink.py`). Then

    x_hat  +=  G_1 d_1 + G_2 d_2                                                                         (2)

with gates G, a number a pixel, that come from the network as F does: it takes over what they do well, and corrects.

Experts share the network's depths. Its surface, the outermost level, where noise, blocks and blurs look least alike, an
expert may have for itself (`CompactConfig.own`): it costs weights, but no time.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unires.denoise.deconvolve import EXTENTS, deconvolve
from unires.denoise.schedule import alpha_sigma
from unires.denoise.shrink import shrink
from unires.errors import OptionError

TASKS = ("blind", "super-resolution", "motion-deblur", "defocus-deblur", "denoise", "dejpeg")
# p_c of these TASKS: one over the mean squared error of a degraded training input, pixels in [-1, 1], measured
PRECISION = (60.0, 100.0, 32.0, 72.0, 50.0, 180.0)
GATE_UNIT = 10.0  # of G, which is near one where F is near a tenth: so both learn at one rate
PRECISION_OF_NOTHING = 3.0  # of a dropped condition (black): one over photographs' mean square


@dataclass(frozen=True)
class CompactConfig:
    """Widths a level (level i works at 1 / 2^(i + 1) of the resolution), blocks a level on the way down and up; tasks
    (TASKS, then those that were added) and p_c of each."""

    widths: tuple[int, ...] = (64, 96, 192, 320)
    down: tuple[int, ...] = (1, 1, 1, 2)
    up: tuple[int, ...] = (1, 1, 1)
    inside: tuple[int, ...] = ()  # widths a level between a block's two convolutions; empty: as `widths`
    wide_from: int = 2  # from this level down, blocks look further with a 7x7 depthwise convolution
    embedding: int = 192
    tasks: tuple[str, ...] = TASKS
    precision: tuple[float, ...] = PRECISION
    own: tuple[str, ...] = ()  # tasks with a surface for themselves; the others share one
    rank: int = 0  # of the matrix from the embedding to what modulates; 0: what its sides allow

    def __post_init__(self) -> None:
        if not len(self.widths) == len(self.down) == len(self.up) + 1 > 1:
            raise OptionError("A network has two levels or more, as many in `down` as in `widths`, one fewer in `up`.")
        if self.tasks[: len(TASKS)] != TASKS or len(set(self.tasks)) != len(self.tasks):
            raise OptionError(f"A network's tasks are {', '.join(TASKS)}, then others, none of them twice.")
        if len(self.precision) != len(self.tasks) or not min(self.precision) > 0:
            raise OptionError("A network needs a `precision` of more than 0 for each of its tasks.")
        if self.inside and not (len(self.inside) == len(self.widths) and min(self.inside) > 0):
            raise OptionError("A network needs as many entries in `inside` as in `widths`, or none.")
        if not set(self.own) <= set(self.tasks) or len(set(self.own)) != len(self.own):
            raise OptionError(f"A network's `own` are some of {', '.join(self.tasks)}, none of them twice.")
        if not 0 <= self.rank <= self.embedding:
            raise OptionError("A network's `rank` is from 0 to its `embedding`.")

    @property
    def within(self) -> tuple[int, ...]:
        """`inside`, or what it is where that is empty."""
        return self.inside or self.widths

    @property
    def multiple(self) -> int:
        """Sides the network works on are multiples of so many pixels; others are mirrored to that and cut."""
        return int(2 ** len(self.widths))


class Block(nn.Module):
    """Two 3x3 convolutions around a skip, modulated (scale and shift a channel) between them; a wide one also adds
    a 7x7 depthwise convolution there, which low in the pyramid costs next to nothing and sees whole blurs."""

    def __init__(self, width: int, inside: int, wide: bool) -> None:
        super().__init__()
        self.a = nn.Conv2d(width, inside, 3, padding=1)
        self.wide = nn.Conv2d(inside, inside, 7, padding=3, groups=inside) if wide else None
        self.b = nn.Conv2d(inside, width, 3, padding=1)
        self.b.weight.data.mul_(0.2)  # a block starts close to the identity

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """x: B x width x H x W; scale, shift: B or 1 x inside x 1 x 1."""
        if len(scale) == 1 and not torch.is_grad_enabled():  # alike for all: kernels are fewer numbers than pixels
            kernels, biases = (v * scale.view(-1, *[1] * (v.dim() - 1)) for v in self.a.parameters())
            h = F.conv2d(x, kernels, biases + shift.flatten(), padding=1)
        else:
            h = torch.addcmul(shift, self.a(x), scale)
        h = F.leaky_relu_(h, 0.2)  # leaky, as plain ReLUs died in all levels but the first
        if self.wide is not None:
            h = self.wide(h).add_(h)
        change: Tensor = self.b(h)
        return change.add_(x)


class Embedding(nn.Module):
    """Time, task and severity as one vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.task = nn.Embedding(len(TASKS), width)
        self.inner = nn.Linear(8 + 8 + 8 + 2, width)
        self.outer = nn.Linear(width, width)

    def forward(self, t: Tensor, task: Tensor, severity: Tensor, has_condition: Tensor) -> Tensor:
        k = torch.arange(8, device=t.device) * math.pi
        known = (severity >= 0).to(t)[:, None]
        strength = torch.cos(severity.clamp(min=0)[:, None] * k) * known
        waves = (torch.cos(t[:, None] * k), torch.sin(t[:, None] * k), strength, known, has_condition[:, None].to(t))
        out: Tensor = self.outer(F.silu(self.inner(torch.cat(waves, dim=1)) + self.task(task)))
        return F.silu(out)


class Surface(NamedTuple):
    """The outermost level, in and out, at half of the resolution."""

    enter: nn.Module
    down: nn.Module
    reduce: nn.Module
    enlarge: nn.Module
    up: nn.Module
    leave: nn.Module
    leave_gates: nn.Module


class CompactNet(nn.Module):
    """F and G of equations (1) and (2), and the equations themselves."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        pairs = list(pairwise(widths))
        self.embedding = Embedding(config.embedding)
        self.enter = nn.Conv2d(4 * 3 * 4, widths[0], 3, padding=1)
        levels = [(w, n, i >= config.wide_from) for i, (w, n) in enumerate(zip(widths, config.within, strict=True))]
        self.down = nn.ModuleList(_blocks(*level, n) for level, n in zip(levels, config.down, strict=True))
        self.reduce = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairs)
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in pairs)
        self.up = nn.ModuleList(_blocks(*level, n) for level, n in zip(levels, config.up, strict=False))
        self.leave = nn.Conv2d(widths[0], 3 * 4, 3, padding=1)
        self.leave_gates = nn.Conv2d(widths[0], 2 * 4, 3, padding=1)
        down = [w for w, n in zip(config.within, config.down, strict=True) for _ in range(n)]
        up = [w for w, n in reversed(list(zip(config.within, config.up, strict=False))) for _ in range(n)]
        self.modulated = [2 * w for w in down + up]  # numbers that each block takes, in the order they run
        self.narrow = nn.Linear(config.embedding, config.rank, bias=False) if config.rank else nn.Identity()
        self.modulate = nn.Linear(config.rank or config.embedding, sum(self.modulated))
        # of each task beyond TASKS: by how much it differs from the blind one's
        self.added = nn.ParameterList(torch.zeros(sum(self.modulated)) for _ in config.tasks[len(TASKS) :])
        for name, parameter in self.enlarge.named_parameters():
            if name.endswith("weight"):  # coarse x fine x 2 x 2; torch takes what a place gives for what it gets
                parameter.data.mul_((parameter[0].numel() / len(parameter)) ** 0.5)
        for parameter in (*self.leave.parameters(), *self.leave_gates.parameters(), *self.modulate.parameters()):
            nn.init.zeros_(parameter)
        self.own = nn.ModuleDict()
        shared = nn.ModuleDict(self.surfaces()[0]._asdict())
        self.own.update({task: copy.deepcopy(shared) for task in config.own})

    def surfaces(self) -> list[Surface]:
        """The one that is shared, then those that tasks have for themselves (`CompactConfig.own`)."""
        outward = (self.enlarge[0], self.up[0], self.leave, self.leave_gates)
        shared = Surface(self.enter, self.down[0], self.reduce[0], *outward)
        return [shared, *(Surface(*own.values()) for own in self.own.values())]  # type: ignore[operator]

    def compute_in(self, kind: torch.dtype) -> CompactNet:
        """Convolutions in `kind` (their sums stay float32 inside), everything else in float32."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                module.to(kind)
        return self.channels_last()

    def channels_last(self) -> CompactNet:
        """Kernels in the order of memory that convolutions are fastest in; those that enlarge, in the usual one."""
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for module in self.modules():
            if isinstance(module, nn.ConvTranspose2d):
                module.weight.data = module.weight.data.contiguous()
        return self

    def modulation(self, t: Tensor, task: Tensor, severity: Tensor, has_condition: Tensor) -> Tensor:
        """Scale and shift of every block, B x sum(modulated)."""
        new = task - len(TASKS)
        embedding = self.embedding(t, torch.where(new < 0, task, 0), severity, has_condition)
        # scaled so that one optimiser step moves a modulation by about the learning rate, not by `width` times it
        numbers: Tensor = self.modulate(self.narrow(embedding / embedding.shape[1] ** 0.5))
        if not len(self.added):
            return numbers
        return torch.where(new[:, None] < 0, numbers, numbers + torch.stack(list(self.added))[new.clamp(min=0)])

    def classical(
        self, c: Tensor, task: Tensor, severity: Tensor, has_condition: Tensor, angle: Tensor
    ) -> Tensor | None:
        """d: B x 6 x H x W, d_1 and d_2 of equation (2), the changes that two methods make; zero where the task has
        none or what they take (severity, and a motion's direction) isn't known; None if it is zero everywhere."""
        out: Tensor | None = None
        for name in ("denoise", *EXTENTS):
            chosen = (task == self.config.tasks.index(name)) & (severity >= 0) & has_condition
            if name == "motion-deblur":
                chosen = chosen & ~angle.isnan()
            if bool(chosen.any()):
                chosen = chosen.expand(len(c))
                out = c.new_zeros(len(c), 2 * c.shape[1], *c.shape[-2:]) if out is None else out
                known, turned = severity.expand(len(c))[chosen], angle.expand(len(c))[chosen]
                seen = c[chosen]
                out[chosen] = shrink(seen, known) if name == "denoise" else deconvolve(seen, name, known, turned)
        return out

    def _groups(self, task: Tensor) -> list[tuple[Surface, list[int]]]:
        """Which samples (B tasks) go through which surface, in the order in which they come first."""
        surfaces, rows = self.surfaces(), dict[int, list[int]]()
        own = {self.config.tasks.index(name): i for i, name in enumerate(self.config.own, 1)}
        for sample, index in enumerate(task.tolist()):
            rows.setdefault(own.get(index, 0), []).append(sample)
        return [(surfaces[i], samples) for i, samples in rows.items()]

    def residual(
        self, z: Tensor | None, c: Tensor, d: Tensor | None, modulation: Tensor, task: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """F: B x 3 x H x W, and G: B x 2 x H x W, from z and c of F's shape and d of twice as many channels, sides
        multiples of `config.multiple`. What is zero (z at t = 1, d where nothing is known) is None and costs nothing;
        so is G without d. task: B, or 1 for all."""
        seen = torch.cat([part for part in (z, c, d) if part is not None], dim=1)
        first = 4 * c.shape[1] if z is None else 0
        groups, back = self._groups(task), None
        if len(groups) > 1:  # the samples of one surface come to lie side by side
            order = torch.tensor([row for _, rows in groups for row in rows], device=c.device)
            seen, modulation, back = seen[order], modulation[order], order.argsort()
        counts = [len(rows) for _, rows in groups]
        parts = torch.split(modulation[:, :, None, None], self.modulated, dim=1)
        outer, inner = len(self.down[0]), len(parts) - len(self.up[0])  # type: ignore[arg-type]

        def each(run: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> tuple[Tensor, ...]:
            """Every sample through its own surface."""
            if len(groups) == 1:
                return run(groups[0][0], *inputs)
            own = zip(*(torch.split(v, counts) for v in inputs), strict=True)
            said = [run(surface, *mine) for (surface, _), mine in zip(groups, own, strict=True)]
            return tuple(torch.cat(same) for same in zip(*said, strict=True))

        def enter(surface: Surface, seen: Tensor, *numbers: Tensor) -> tuple[Tensor, Tensor]:
            weight: Tensor = surface.enter.weight  # type: ignore[assignment]
            x = F.pixel_unshuffle(seen.to(weight.dtype), 2).contiguous(memory_format=torch.channels_last)
            kernels = weight[:, first : first + x.shape[1]].contiguous(memory_format=torch.channels_last)
            x = F.conv2d(x, kernels, surface.enter.bias, padding=1)  # type: ignore[arg-type]
            x = _run(surface.down, x, iter(numbers))
            return x, surface.reduce(x)

        def leave(surface: Surface, x: Tensor, skip: Tensor, *numbers: Tensor) -> tuple[Tensor, ...]:
            x = _run(surface.up, surface.enlarge(x).add_(skip), iter(numbers))
            residual = F.pixel_shuffle(surface.leave(x), 2)
            return (residual,) if d is None else (residual, F.pixel_shuffle(surface.leave_gates(x), 2) * GATE_UNIT)

        skip, x = each(enter, seen, *parts[:outer])
        skips, numbers = [skip], iter(parts[outer:inner])
        for i in range(1, len(self.down)):
            x = _run(self.down[i], x, numbers)
            if i < len(self.reduce):
                skips.append(x)
                x = self.reduce[i](x)
        for i in reversed(range(1, len(self.up))):
            x = self.enlarge[i](x).add_(skips.pop())
            x = _run(self.up[i], x, numbers)
        said = each(leave, x, skips.pop(), *parts[inner:])
        out, *gates = said if back is None else (v[back] for v in said)
        return out, gates[0] if gates else None

    def condition_precision(self, task: Tensor, has_condition: Tensor) -> Tensor:
        """p_c, B."""
        p = torch.tensor(self.config.precision, device=task.device)[task]
        return torch.where(has_condition, p, PRECISION_OF_NOTHING)

    def total_precision(self, t: Tensor, task: Tensor, has_condition: Tensor) -> Tensor:
        """p_z + p_c, B."""
        alpha, sigma = alpha_sigma(t)
        return (alpha / sigma) ** 2 + self.condition_precision(task, has_condition)

    def forward(
        self, z: Tensor, t: Tensor, condition: Tensor, task: Tensor, severity: Tensor, has_condition: Tensor,
        angle: Tensor,
    ) -> Tensor:
        """x_hat, B x 3 x H x W. z, condition: B x 3 x H x W in [-1, 1] (condition zero where has_condition is
        false); t in (0, 1], task (index into the configuration's tasks), severity (negative: unknown), has_condition,
        angle (radians, of motion; not a number: unknown): B, or 1 for all."""
        alpha, sigma = (v.view(-1, 1, 1, 1) for v in alpha_sigma(t))
        p_c = self.condition_precision(task, has_condition).view(-1, 1, 1, 1)
        total = (alpha / sigma) ** 2 + p_c
        modulation = self.modulation(t, task, severity, has_condition)
        d = self.classical(condition, task, severity, has_condition, angle)
        if bool(alpha.any()):
            # alpha z, not z: what carries no signal at t = 1 must not carry noise into the network either
            out, gates = self.residual(alpha * z, condition, d, modulation, task)
            base = (alpha / sigma**2 / total * z).addcmul_(p_c / total, condition)
        else:
            out, gates = self.residual(None, condition, d, modulation, task)
            base = condition
        estimate = torch.addcmul(base, out.float(), total.rsqrt())
        if d is not None and gates is not None:
            for gate, change in zip(torch.split(gates.float(), 1, dim=1), d.chunk(2, dim=1), strict=True):
                estimate = torch.addcmul(estimate, gate, change)
        return estimate


def _blocks(width: int, inside: int, wide: bool, count: int) -> nn.ModuleList:
    return nn.ModuleList(Block(width, inside, wide) for _ in range(count))


def _run(blocks: nn.Module, x: Tensor, numbers: Iterator[Tensor]) -> Tensor:
    for block in blocks:  # type: ignore[attr-defined]
        scale, shift = next(numbers).chunk(2, dim=1)
        x = block(x, (1 + scale).to(x.dtype), shift.to(x.dtype))
    return x
