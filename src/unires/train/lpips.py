"""LPIPS, how different two pictures look (Zhang et al. 2018, "The unreasonable effectiveness of deep features as a
perceptual metric"): what `crisp` is trained by, and a measure of every benchmark."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from unires.errors import UniresError, shown

HELP = (
    "a safetensors file with SqueezeNet's `features.*` and LPIPS v0.1's `lin0.weight` to `lin6.weight`; "
    "give it with --lpips FILE"
)


class Lpips:
    """LPIPS v0.1 with the SqueezeNet backbone (Zhang et al. 2018), from a safetensors file; torch only."""

    FIRES = {3: (), 4: (1,), 6: (), 7: (2,), 9: (3,), 10: (4,), 11: (5,), 12: (6,)}  # layer -> the tap after it
    POOLS = (3, 6, 9)  # layers that a 3 x 3 max-pool of stride 2 stands before

    def __init__(self, path: Path, device: str = "cpu") -> None:
        """Raises UniresError if the file is not there or not what it has to be."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            self.weights = load_file(path, device=device)
        except (OSError, SafetensorError) as error:
            raise UniresError(f"{shown(path)} can't be read as LPIPS weights; wanted is {HELP}.") from error
        for name in ("features.0.weight", "features.12.expand3x3.bias", "lin6.weight"):
            if name not in self.weights:
                raise UniresError(f"{shown(path)} has no {name}; wanted is {HELP}.")
        self.shift = torch.tensor((-0.030, -0.088, -0.188), device=device).view(1, 3, 1, 1)
        self.scale = torch.tensor((0.458, 0.448, 0.450), device=device).view(1, 3, 1, 1)

    def _conv(self, x: Tensor, name: str, **options: int) -> Tensor:
        return F.relu(F.conv2d(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], **options))

    def _taps(self, pixels: Tensor) -> list[Tensor]:
        x = self._conv((pixels * 2 - 1 - self.shift) / self.scale, "features.0", stride=2)
        taps = [x]
        for layer, tap in self.FIRES.items():
            if layer in self.POOLS:
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
            x = self._conv(x, f"features.{layer}.squeeze")
            small = self._conv(x, f"features.{layer}.expand1x1")
            large = self._conv(x, f"features.{layer}.expand3x3", padding=1)
            x = torch.cat((small, large), dim=1)
            if tap:
                taps.append(x)
        return taps

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance, 0 for identical pictures: B, float64 on the CPU; B x 3 x H x W in [0, 1], both."""
        total = torch.zeros(a.shape[0], device=self.scale.device)
        x, y = a.to(self.scale), b.to(self.scale)
        for i, (p, q) in enumerate(zip(self._taps(x), self._taps(y), strict=True)):
            p, q = (t / (t.square().sum(dim=1, keepdim=True).clamp(min=1e-20).sqrt() + 1e-10) for t in (p, q))
            total += F.conv2d((p - q).square(), self.weights[f"lin{i}.weight"]).mean(dim=(1, 2, 3))
        return total.double().cpu()
