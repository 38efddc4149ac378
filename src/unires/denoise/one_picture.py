"""An autoencoder's tiles as what they are, parts of one picture.

Its group normalisation takes mean and variance over all of its input: tiles on their own would come out each with a
brightness and contrast of its own. Either all tiles go on side by side, from one normalisation to the next, where they
wait for each other (`side_by_side`: exact, and what waits takes memory); or a batch of crops from all over the picture
goes first, and its statistics are everyone's (`OnePicture`: near, for pictures too large for that)."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unires.errors import UniresError

Layers = Generator[tuple[nn.GroupNorm, Tensor], Tensor, Tensor]
"""A part on its way through the layers: yields what is to be normalised, takes it back, returns what came of it."""


class Owned(NamedTuple):
    """Of a tile of `height` positions: the rows and columns that count as its own, so that each place of the picture
    counts once."""

    height: int
    top: int
    bottom: int
    left: int
    right: int


def looking(encoder: Any, pixels: Tensor) -> Layers:
    """The encoder's layers at the pixels (`LatentNet.look`). pixels: B x 3 x H x W in [0, 1]."""
    x: Tensor = encoder.conv_in(pixels * 2 - 1)
    for block in encoder.down_blocks:
        x = yield from _block(block, x, block.downsamplers)
    return x


def painting(decoder: Any, features: Tensor) -> Layers:
    """The decoder's layers at the pixels (`LatentNet.paint`). features: B x C x h x w."""
    x = features
    for block in decoder.up_blocks:
        x = yield from _block(block, x, block.upsamplers)
    x = yield decoder.conv_norm_out, x
    pixels: Tensor = decoder.conv_out(decoder.conv_act(x))
    return (pixels + 1) / 2


def _block(block: Any, x: Tensor, samplers: Any) -> Layers:
    if getattr(block, "attentions", None):
        raise UniresError("This autoencoder looks everywhere at every size; it can't be cut into tiles.")
    for resnet in block.resnets:
        h = yield resnet.norm1, x
        h = yield resnet.norm2, resnet.conv1(resnet.nonlinearity(h))
        h = resnet.conv2(resnet.dropout(resnet.nonlinearity(h)))
        x = x if resnet.conv_shortcut is None else resnet.conv_shortcut(x)
        x = h.add_(x).div_(resnet.output_scale_factor)
    for sampler in samplers or ():
        x = sampler(x)
    return x


def side_by_side(runs: Iterable[Layers], owned: Sequence[Owned]) -> list[Tensor]:
    """What becomes of tiles of one picture that share each normalisation's mean and variance, taken over the places
    that each owns."""
    runs = list(runs)
    waiting = [next(run) for run in runs]
    done: list[Tensor] = []
    while not done:
        norm = waiting[0][0]
        mean, scale = _shared(norm, [x for _, x in waiting], owned)
        for i, run in enumerate(runs):
            x = normalised(norm, waiting[i][1], mean, scale)
            waiting[i] = (norm, x)  # lets go of what came in
            try:
                waiting[i] = run.send(x)
            except StopIteration as end:
                done.append(end.value)
    return done


def _shared(norm: nn.GroupNorm, parts: Sequence[Tensor], owned: Sequence[Owned]) -> tuple[Tensor, Tensor]:
    """Mean, and one over the deviation, of the picture's groups: 1 x groups x 1."""
    count, total, squares = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for x, own in zip(parts, owned, strict=True):
        k = x.shape[-2] / own.height
        top, bottom, left, right = (round(v * k) for v in own[1:])
        groups = x[..., top:bottom, left:right].reshape(1, norm.num_groups, -1)
        variance, mean = torch.var_mean(groups, dim=2, correction=0, keepdim=True)
        # a few numbers, on the processor: Apple's GPUs have no float64
        variance, mean, n = variance.cpu().double(), mean.cpu().double(), groups.shape[2]
        count, total, squares = count + n, total.to(mean) + n * mean, squares.to(mean) + n * (variance + mean.square())
    mean = total / count
    scale = torch.rsqrt(squares / count - mean.square() + norm.eps)
    return mean.to(parts[0]), scale.to(parts[0])


def normalised(norm: nn.GroupNorm, x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """x, B x C x h x w, with a mean and a scale (1 x groups x 1) that need not be its own."""
    groups = (1, norm.num_groups, -1, 1, 1)
    weight = norm.weight.view(groups) * scale.view(groups)
    shift = norm.bias.view(groups) - mean.view(groups) * weight
    out: Tensor = torch.addcmul(shift, x.reshape(len(x), norm.num_groups, -1, *x.shape[-2:]), weight).view(x.shape)
    return out


class OnePicture:
    """Hooks for the autoencoder's normalisations: what goes through first is normalised as a whole; after `measured`,
    its statistics, layer by layer, are everyone's."""

    def __init__(self, autoencoder: nn.Module) -> None:
        self.norms = [m for m in autoencoder.modules() if isinstance(m, nn.GroupNorm)]
        self.known: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        self.open = True
        self.hooks = [m.register_forward_hook(self._normalise) for m in self.norms]

    def measured(self) -> None:
        self.open = False

    def end(self) -> None:
        for hook in self.hooks:
            hook.remove()

    def _normalise(self, norm: nn.Module, inputs: tuple[Tensor], out: Tensor) -> Tensor:
        assert isinstance(norm, nn.GroupNorm)
        (x,) = inputs
        if self.open:
            groups = x.reshape(len(x), norm.num_groups, -1)
            variance, mean = torch.var_mean(groups, dim=(0, 2), correction=0, keepdim=True)
            self.known[norm] = mean, torch.rsqrt(variance + norm.eps)
        return normalised(norm, x, *self.known[norm]).view(out.shape)
