"""The compact denoiser: the whole network, in pixel space.

A U-Net over the pixel-unshuffled picture. Three things know about the clean sample x: the noisy sample z with
precision p_z = (alpha/sigma)^2, the condition c with precision p_c, and the network F. They are combined by
precision (section 2 of the design):

    x_hat = (p_z z/alpha + p_c c) / (p_z + p_c)  +  F(z, c, d, t, tau, severity) / sqrt(p_z + p_c)       (1)

so that F's target has unit scale for every t: at t = 1 it is a residual regressor, near t = 0 a residual denoiser.
Where an expert is told how strong its degradation is, F also sees d, what two classical methods would change of c:
deconvolution of a blur (`deconvolve.py`), shrinkage of noise (`shrink.py`). Then

    x_hat  +=  G_1 d_1 + G_2 d_2                                                                         (2)

with gates G, a number a pixel, that come from the network as F does: it takes over what they do well, and corrects.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unires.denoise import number_type
from unires.denoise.deconvolve import EXTENTS, deconvolve
from unires.denoise.interface import Facts, Hint
from unires.denoise.schedule import alpha_sigma
from unires.denoise.shrink import shrink
from unires.errors import OptionError, UniresError, nearest

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
    wide_from: int = 2  # from this level down, blocks look further with a 7x7 depthwise convolution
    embedding: int = 192
    tasks: tuple[str, ...] = TASKS
    precision: tuple[float, ...] = PRECISION

    def __post_init__(self) -> None:
        if not len(self.widths) == len(self.down) == len(self.up) + 1:
            raise OptionError("A network needs as many entries in `down` as in `widths`, and one fewer in `up`.")
        if self.tasks[: len(TASKS)] != TASKS or len(set(self.tasks)) != len(self.tasks):
            raise OptionError(f"A network's tasks are {', '.join(TASKS)}, then others, none of them twice.")
        if len(self.precision) != len(self.tasks) or not min(self.precision) > 0:
            raise OptionError("A network needs a `precision` of more than 0 for each of its tasks.")

    @property
    def multiple(self) -> int:
        """Sides the network works on are multiples of so many pixels; others are mirrored to that and cut."""
        return int(2 ** len(self.widths))


class Block(nn.Module):
    """Two 3x3 convolutions around a skip, modulated (scale and shift a channel) between them; a wide one also adds
    a 7x7 depthwise convolution there, which low in the pyramid costs next to nothing and sees whole blurs."""

    def __init__(self, width: int, wide: bool) -> None:
        super().__init__()
        self.a = nn.Conv2d(width, width, 3, padding=1)
        self.wide = nn.Conv2d(width, width, 7, padding=3, groups=width) if wide else None
        self.b = nn.Conv2d(width, width, 3, padding=1)
        self.b.weight.data.mul_(0.2)  # a block starts close to the identity

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """x: B x width x H x W; scale, shift: B or 1 x width x 1 x 1."""
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


class CompactNet(nn.Module):
    """F and G of equations (1) and (2), and the equations themselves."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        pairs = list(pairwise(widths))
        self.embedding = Embedding(config.embedding)
        self.enter = nn.Conv2d(4 * 3 * 4, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            _blocks(w, n, i >= config.wide_from) for i, (w, n) in enumerate(zip(widths, config.down, strict=True))
        )
        self.reduce = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairs)
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in pairs)
        self.up = nn.ModuleList(
            _blocks(w, n, i >= config.wide_from) for i, (w, n) in enumerate(zip(widths, config.up, strict=False))
        )
        self.leave = nn.Conv2d(widths[0], 3 * 4, 3, padding=1)
        self.leave_gates = nn.Conv2d(widths[0], 2 * 4, 3, padding=1)
        down = [w for w, n in zip(widths, config.down, strict=True) for _ in range(n)]
        up = [w for w, n in reversed(list(zip(widths, config.up, strict=False))) for _ in range(n)]
        self.modulated = [2 * w for w in down + up]  # numbers that each block takes, in the order they run
        self.modulate = nn.Linear(config.embedding, sum(self.modulated))
        # of each task beyond TASKS: by how much it differs from the blind one's
        self.added = nn.ParameterList(torch.zeros(sum(self.modulated)) for _ in config.tasks[len(TASKS) :])
        for name, parameter in self.enlarge.named_parameters():
            if name.endswith("weight"):  # coarse x fine x 2 x 2; torch takes what a place gives for what it gets
                parameter.data.mul_((parameter[0].numel() / len(parameter)) ** 0.5)
        for parameter in (*self.leave.parameters(), *self.leave_gates.parameters(), *self.modulate.parameters()):
            nn.init.zeros_(parameter)

    def compute_in(self, kind: torch.dtype) -> CompactNet:
        """Convolutions in `kind` (their sums stay float32 inside), everything else in float32."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                module.to(kind)
        return self.channels_last()

    def channels_last(self) -> CompactNet:
        """Kernels in the order of memory that convolutions are fastest in; those that enlarge, in the usual one."""
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for parameter in self.enlarge.parameters():
            parameter.data = parameter.data.contiguous()
        return self

    def modulation(self, t: Tensor, task: Tensor, severity: Tensor, has_condition: Tensor) -> Tensor:
        """Scale and shift of every block, B x sum(modulated)."""
        new = task - len(TASKS)
        embedding = self.embedding(t, torch.where(new < 0, task, 0), severity, has_condition)
        # scaled so that one optimiser step moves a modulation by about the learning rate, not by `width` times it
        numbers: Tensor = self.modulate(embedding / embedding.shape[1] ** 0.5)
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

    def residual(
        self, z: Tensor | None, c: Tensor, d: Tensor | None, modulation: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """F: B x 3 x H x W, and G: B x 2 x H x W, from z and c of F's shape and d of twice as many channels, sides
        multiples of `config.multiple`. What is zero (z at t = 1, d where nothing is known) is None and costs nothing;
        so is G without d."""
        weight = self.enter.weight
        parts = iter(torch.split(modulation[:, :, None, None], self.modulated, dim=1))
        seen = torch.cat([part for part in (z, c, d) if part is not None], dim=1)
        x = F.pixel_unshuffle(seen.to(weight.dtype), 2).contiguous(memory_format=torch.channels_last)
        first = 4 * c.shape[1] if z is None else 0
        kernels = weight[:, first : first + x.shape[1]].contiguous(memory_format=torch.channels_last)
        x = F.conv2d(x, kernels, self.enter.bias, padding=1)
        skips: list[Tensor] = []
        for i, blocks in enumerate(self.down):
            x = _run(blocks, x, parts)
            if i < len(self.reduce):
                skips.append(x)
                x = self.reduce[i](x)
        for i in reversed(range(len(self.up))):
            x = self.enlarge[i](x).add_(skips.pop())
            x = _run(self.up[i], x, parts)
        gates = None if d is None else F.pixel_shuffle(self.leave_gates(x), 2) * GATE_UNIT
        return F.pixel_shuffle(self.leave(x), 2), gates

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
            out, gates = self.residual(alpha * z, condition, d, modulation)
            base = (alpha / sigma**2 / total * z).addcmul_(p_c / total, condition)
        else:
            out, gates = self.residual(None, condition, d, modulation)
            base = condition
        estimate = torch.addcmul(base, out.float(), total.rsqrt())
        if d is not None and gates is not None:
            for gate, change in zip(torch.split(gates.float(), 1, dim=1), d.chunk(2, dim=1), strict=True):
                estimate = torch.addcmul(estimate, gate, change)
        return estimate


def _blocks(width: int, count: int, wide: bool) -> nn.ModuleList:
    return nn.ModuleList(Block(width, wide) for _ in range(count))


def _run(blocks: nn.Module, x: Tensor, numbers: Iterator[Tensor]) -> Tensor:
    for block in blocks:  # type: ignore[attr-defined]
        scale, shift = next(numbers).chunk(2, dim=1)
        x = block(x, (1 + scale).to(x.dtype), shift.to(x.dtype))
    return x


class CompactDenoiser:
    """The network behind the interface that all denoisers share (`unires.denoise.interface.Denoiser`)."""

    def __init__(self, net: CompactNet, device: str | torch.device = "cpu", kind: torch.dtype | None = None) -> None:
        """kind: what to compute in; None asks the machine (`number_type.choose`)."""
        self.device = torch.device(device)
        self.exact = net.to(self.device).channels_last().eval().requires_grad_(False)
        self.kind = kind or number_type.choose(net, self.device)
        fast = self.kind != torch.float32
        self.net = copy.deepcopy(self.exact).compute_in(self.kind) if fast else self.exact

    @property
    def facts(self) -> Facts:
        return Facts(
            tasks=self.exact.config.tasks,
            channels=3,
            reduction=1,
            multiple=self.exact.config.multiple,
            reach=96,
            parameters=sum(p.numel() for p in self.exact.parameters()),
            number_type=str(self.kind).removeprefix("torch."),
            # six of the widest layers, which have half of the picture's width and height: 5.3 to 5.6 were measured
            memory=6 * self.exact.config.widths[0] // 4 * self.kind.itemsize,
        )

    def encode(self, pixels: Tensor) -> Tensor:
        """[0, 1] to [-1, 1]."""
        return pixels.to(self.device, torch.float32) * 2 - 1

    def decode(self, sample: Tensor) -> Tensor:
        """[-1, 1] to [0, 1], not clipped."""
        return (sample + 1) / 2

    @torch.inference_mode()
    def predict(
        self,
        z: Tensor,
        t: float,
        condition: Tensor | None,
        tasks: Sequence[str],
        hints: Sequence[Hint | None] | None = None,
    ) -> Tensor:
        """x_hat for B samples (see the interface). Any height and width; mirrored to a multiple inside. A result
        that is not finite is computed again in float32. Raises OptionError for an unknown task, UniresError where
        float32 gives no numbers either."""
        offered = self.exact.config.tasks
        for task in tasks:
            if task not in offered:
                raise OptionError(nearest(task, offered, kind="task"))
        count, _, height, width = z.shape
        device = self.device
        unknown = Hint(-1.0)
        known = [(float(h.severity), math.nan if h.angle is None else float(h.angle))
                 for h in (hint or unknown for hint in hints or [None] * count)]
        if len(set(zip(tasks, map(str, known), strict=True))) == 1:  # all alike: see Block
            tasks, known = tasks[:1], known[:1]
        index = torch.tensor([offered.index(task) for task in tasks], device=device)
        strength, angle = torch.tensor(known, device=device).unbind(dim=1)
        seen = torch.full((len(known),), condition is not None, device=device)
        c = torch.zeros_like(z) if condition is None else condition
        times = torch.full((len(known),), float(t), device=device)
        inputs = (_fill(z, self.facts.multiple), times, _fill(c, self.facts.multiple), index, strength, seen, angle)
        out: Tensor = self.net(*inputs)
        if self.net is not self.exact and not math.isfinite(float(out.sum())):
            out = self.exact(*inputs)
        if not math.isfinite(float(out.sum())):
            raise UniresError("The model's result holds values that are no numbers; its weights may be damaged.")
        return out[..., :height, :width]


def _fill(x: Tensor, multiple: int) -> Tensor:
    """Mirror the right and lower edge until both sides are multiples (repeat it where too small to mirror)."""
    down, right = -x.shape[-2] % multiple, -x.shape[-1] % multiple
    if not (down or right):
        return x
    mode = "reflect" if down < x.shape[-2] and right < x.shape[-1] else "replicate"
    return F.pad(x, (0, right, 0, down), mode=mode)
