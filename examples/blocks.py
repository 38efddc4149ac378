"""Which block makes the best network for a processor? Each kind is trained for equal minutes, from nothing.

    python examples/blocks.py plain --minutes 5    # prints speed, loss and validation

Two runs of one thread each, side by side, are fair to each other. What it gave stands in docs/training.md. A kind
takes `Block`'s place in the network (`unires/denoise/compact.py`): everything else stays as it is."""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unires.denoise import compact
from unires.denoise.compact import CompactConfig, CompactNet
from unires.denoise.compact_denoiser import CompactDenoiser
from unires.train.config import TrainConfig
from unires.train.loop import Trainer

CONFIG = Path(__file__).parent.parent / "configs" / "compact.toml"


class Norm(nn.Module):
    """Layer normalisation of each pixel's channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(x.permute(0, 2, 3, 1))
        return out.permute(0, 3, 1, 2)


class NAFBlock(nn.Module):
    """Chen et al. 2022 (NAFNet), figure 3c: depthwise convolution, gates in place of activations, channel attention.
    The modulation follows the first norm."""

    def __init__(self, width: int, inside: int, wide: bool) -> None:
        super().__init__()
        self.first, self.second = Norm(width), Norm(width)
        self.spread = nn.Conv2d(width, 2 * width, 1)
        self.depthwise = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width)
        self.attention, self.mix = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.inner, self.outer = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(width, width, 1)
        self.mix.weight.data.mul_(0.2)
        self.outer.weight.data.mul_(0.2)

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        a, b = self.depthwise(self.spread(torch.addcmul(shift, self.first(x), scale))).chunk(2, dim=1)
        h = a * b
        x = x + self.mix(h * self.attention(h.mean(dim=(2, 3), keepdim=True)))
        a, b = self.inner(self.second(x)).chunk(2, dim=1)
        out: Tensor = x + self.outer(a * b)
        return out


class NextBlock(nn.Module):
    """Liu et al. 2022 (ConvNeXt), figure 4: 7x7 depthwise convolution, norm, two pointwise layers."""

    def __init__(self, width: int, inside: int, wide: bool) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), Norm(width)
        self.inner, self.outer = nn.Conv2d(width, 4 * width, 1), nn.Conv2d(4 * width, width, 1)
        self.outer.weight.data.mul_(0.2)

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        h = torch.addcmul(shift, self.norm(self.depthwise(x)), scale)
        out: Tensor = x + self.outer(F.gelu(self.inner(h)))
        return out


PlainBlock = compact.Block


class AttentionBlock(PlainBlock):
    """The shipped block; at the lowest level, self-attention over all its pixels follows (Vaswani et al. 2017)."""

    lowest = CompactConfig().widths[-1]

    def __init__(self, width: int, inside: int, wide: bool) -> None:
        super().__init__(width, inside, wide)
        self.attention = nn.MultiheadAttention(width, 5, batch_first=True) if width == self.lowest else None
        self.norm = Norm(width)

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        x = super().forward(x, scale, shift)
        if self.attention is not None:
            rows = self.norm(x).flatten(2).transpose(1, 2)
            x = x + self.attention(rows, rows, rows, need_weights=False)[0].transpose(1, 2).view_as(x)
        return x


KINDS: dict[str, tuple[type[nn.Module], CompactConfig, str]] = {  # widths: so that all take about as long
    "plain": (PlainBlock, CompactConfig(), "muon"),
    "small-kernels": (PlainBlock, CompactConfig(wide_from=9), "muon"),
    "attention": (AttentionBlock, CompactConfig(), "muon"),
    "nafnet": (NAFBlock, CompactConfig(widths=(48, 96, 160, 320)), "muon"),
    "convnext": (NextBlock, CompactConfig(widths=(40, 80, 160, 320)), "muon"),
    "adamw": (PlainBlock, CompactConfig(), "adamw"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--rate", type=float, default=1e-3)
    options = parser.parse_args()
    block, model, optimizer = KINDS[options.kind]
    compact.Block = block  # type: ignore[misc, assignment]
    torch.set_num_threads(1)

    denoiser = CompactDenoiser(CompactNet(model), kind=torch.float32)
    z, times = torch.zeros(1, 3, 512, 512), []
    for _ in range(5):
        start = time.perf_counter()
        denoiser.predict(z, 1.0, z, ["denoise"])
        times.append(time.perf_counter() - start)
    size = denoiser.facts.parameters / 1e6
    print(f"{options.kind}: {size:.1f} M parameters, a pass of 512 x 512 in {sorted(times)[2]:.2f} s on one thread")
    with tempfile.TemporaryDirectory() as folder:
        config = replace(
            TrainConfig.read(CONFIG), model=model, optimizer=optimizer, run=folder, threads=1, crop=128, batch=8,
            rate=options.rate, warmup=50, minutes=options.minutes, decay_minutes=options.minutes, ema=0.98,
            relay_share=0.0,
        )  # fmt: skip
        trainer = Trainer(config)
        trainer.run()
        print(f"{options.kind}: {trainer.step} steps of {config.batch} crops")


if __name__ == "__main__":
    main()
