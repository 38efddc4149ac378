"""A trained network in another shape: narrower inside its blocks, and with surfaces for single tasks.

Narrower: of the channels between a block's two convolutions those are dropped that add least to what the block says
(mean square of the channel, times the squared norm of the kernels that read it; after Molchanov et al. 2017, "Pruning
convolutional neural networks for resource efficient inference", section 2.2, whose criterion of activations it is).
A surface of a task's own starts as a copy of the shared one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

from unires.denoise.compact import Block, CompactConfig, CompactNet
from unires.errors import UniresError


def reshaped(old: CompactNet, config: CompactConfig, look: Callable[[CompactNet], None]) -> CompactNet:
    """`old` with `inside` and `own` of `config`; look: runs the network on what its channels are judged by. Raises
    UniresError if anything else differs, if a level would have to grow, the outermost one to shrink, or a task to lose
    its surface."""
    fixed = dataclasses.replace(config, inside=old.config.inside, own=old.config.own)
    widths = list(zip(old.config.within, config.within, strict=False))
    lost = set(old.config.own) - set(config.own)
    if fixed != old.config or lost or any(new > was for was, new in widths) or len(set(widths[0])) > 1:
        raise UniresError("The model to start from differs from the configuration's in more than can be changed: tasks "
                          "added to `model.own`, and `model.inside` narrower, but for the first level.")  # fmt: skip
    kept = _kept(old, config, look)
    tensors = {k: v for k, v in old.state_dict().items() if not k.startswith("own.")}
    numbers, at = [], 0
    for (name, _), keep, width in zip(blocks(old), kept, old.modulated, strict=True):
        for key in ("a.weight", "a.bias", "wide.weight", "wide.bias"):
            if f"{name}.{key}" in tensors:
                tensors[f"{name}.{key}"] = tensors[f"{name}.{key}"][keep]
        tensors[f"{name}.b.weight"] = tensors[f"{name}.b.weight"][:, keep]
        numbers += [at + keep, at + width // 2 + keep]  # its scales, then its shifts
        at += width
    rows = torch.cat(numbers)
    for key in [k for k in tensors if k.startswith(("modulate.", "added."))]:
        tensors[key] = tensors[key][rows]
    net = CompactNet(config)
    net.load_state_dict(tensors, strict=False)
    shared, had = nn.ModuleDict(net.surfaces()[0]._asdict()), dict(old.own.items())
    for task, own in net.own.items():
        own.load_state_dict(had.get(task, shared).state_dict())
    return net


def blocks(net: CompactNet) -> list[tuple[str, Block]]:
    """The shared blocks, in the order they run."""
    named = {module: name for name, module in net.named_modules()}
    levels = [*net.down, *reversed(list(net.up))]
    return [(named[block], block) for level in levels for block in level]


def _kept(net: CompactNet, config: CompactConfig, look: Callable[[CompactNet], None]) -> list[Tensor]:
    """Of each block, the channels to keep, in order."""
    powers: dict[str, list[Tensor]] = {name: [] for name, _ in blocks(net)}

    def noting(name: str) -> Callable[..., None]:
        return lambda _, inputs: powers[name].append(inputs[0].float().square().mean(dim=(0, 2, 3)))

    hooks = [block.b.register_forward_pre_hook(noting(name)) for name, block in blocks(net)]
    with torch.no_grad():
        look(net)
    for hook in hooks:
        hook.remove()
    out = []
    for name, block in blocks(net):
        worth = torch.stack(powers[name]).mean(dim=0) * block.b.weight.detach().square().sum(dim=(0, 2, 3))
        level = int(name.split(".")[1])
        out.append(worth.topk(config.within[level]).indices.sort().values)
    return out
