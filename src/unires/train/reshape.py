"""A trained network in another shape: narrower inside its blocks, with fewer numbers that say what modulates them, and
with surfaces for single tasks.

Narrower: of the channels between a block's two convolutions those are dropped that add least to what the block says
(mean square of the channel, times the squared norm of the kernels that read it; after Molchanov et al. 2017, "Pruning
convolutional neural networks for resource efficient inference", section 2.2, whose criterion of activations it is).
Fewer numbers: of what modulates, the principal components over all tasks, times and severities.
A surface of a task's own starts as a copy of the shared one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

from unires.denoise.compact import TASKS, Block, CompactConfig, CompactNet
from unires.errors import UniresError


def reshaped(old: CompactNet, config: CompactConfig, look: Callable[[CompactNet], None]) -> CompactNet:
    """`old` with `inside`, `own` and `rank` of `config`; look: runs the network on what its channels are judged by.
    Raises UniresError if anything else differs, if a level would have to grow, the outermost one to shrink, a task to
    lose its surface, or a rank to change that is small already."""
    fixed = dataclasses.replace(config, inside=old.config.inside, own=old.config.own)
    if not old.config.rank:
        fixed = dataclasses.replace(fixed, rank=0)
    widths = list(zip(old.config.within, config.within, strict=False))
    lost = set(old.config.own) - set(config.own)
    if fixed != old.config or lost or any(new > was for was, new in widths) or len(set(widths[0])) > 1:
        raise UniresError("The model to start from differs from the configuration's in more than can be changed: tasks "
                          "added to `model.own`, `model.inside` narrower, but for the first level, and a `model.rank` "
                          "where there was none.")  # fmt: skip
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
    if config.rank > old.config.rank:
        tensors |= _factors(old, tensors["modulate.weight"], tensors["modulate.bias"], config.rank)
    net = CompactNet(config)
    net.load_state_dict(tensors, strict=False)
    shared, had = nn.ModuleDict(net.surfaces()[0]._asdict()), dict(old.own.items())
    for task, own in net.own.items():
        own.load_state_dict(had.get(task, shared).state_dict())
    return net


@torch.no_grad()
def _factors(net: CompactNet, weight: Tensor, bias: Tensor, rank: int) -> dict[str, Tensor]:
    """`modulate` of a network, as two matrices of which the first one leaves `rank` numbers."""
    times = torch.cat((torch.ones(60), torch.linspace(0.1, 1, 4)))  # by far the most passes are at t = 1
    severities = torch.cat((-torch.ones(8), torch.linspace(0, 1, 33)))
    grid = times, torch.arange(len(TASKS)).float(), severities, torch.tensor([1.0] * 5 + [0.0])
    t, task, severity, there = (v.to(weight.device) for v in torch.cartesian_prod(*grid).unbind(1))
    told = net.embedding(t, task.long(), severity, there > 0).double() / net.config.embedding**0.5
    matrix, mean = weight.double(), told.mean(dim=0)
    powers, axes = torch.linalg.eigh(torch.cov(told.T))
    directions = torch.linalg.svd(matrix @ axes * powers.clamp(min=0).sqrt(), full_matrices=False).U
    out = directions[:, :rank]  # numbers x rank
    narrow = out.T @ matrix
    rest = (matrix - out @ narrow) @ mean
    parts = {"narrow.weight": narrow, "modulate.weight": out, "modulate.bias": bias.double() + rest}
    return {key: value.to(weight) for key, value in parts.items()}


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
