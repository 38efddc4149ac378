"""The compact network behind the interface that all denoisers share."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from unires.denoise import number_type
from unires.denoise.compact import CompactNet
from unires.denoise.interface import Facts, Hint
from unires.errors import OptionError, UniresError, nearest


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
