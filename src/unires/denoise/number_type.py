"""Which number type a network computes in, found out in a fraction of a second on the machine itself.

bf16 convolutions are twice as fast as float32 on some processors, emulated and slow on others, and have been wrong
in some builds: so a convolution as large as the network's heaviest is timed and compared before bf16 is trusted. Once
in a process: a busy moment may decide it otherwise, and the same photo is to come out the same each time."""

from __future__ import annotations

import functools
import time

import torch
from torch import Tensor, nn

FASTER = 1.15  # bf16 has to win by so much
WIDEST = 320  # channels that are timed; a wider kernel's would take minutes where bf16 is emulated
AGREES = 0.02  # greatest relative error; bf16 has 8 bits: 2^-8 an operation, less after a sum


def has_bf16() -> bool:
    """Whether this processor has instructions for bf16 at all, and torch's convolutions work in it."""
    here: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of torch don't say
    native = here.get("architecture") != "x86_64" or here.get("avx512_bf16") or here.get("amx_bf16")
    return bool(native and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def choose(net: nn.Module, device: torch.device) -> torch.dtype:
    """torch.bfloat16 if it is both right and faster for the widest 3x3 convolution of `net` (for WIDEST of its
    channels, if it has more); else float32."""
    if device.type == "cpu" and not has_bf16():
        return torch.float32  # emulated: a test would take a tenth of a second, and err on a busy machine
    if device.type == "cuda":  # a convolution of the test's size takes as long as its launch, whatever the type
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    kernels = [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) and m.groups == 1]
    out, into, *_ = max((m.weight.shape for m in kernels), key=lambda shape: shape.numel())
    return _faster(min(out, WIDEST), min(into, WIDEST), device)


@functools.cache
def _faster(out: int, into: int, device: torch.device) -> torch.dtype:
    """What a 3x3 convolution from so many channels to so many is better computed in."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(out, into, 3, 3, generator=generator).to(device, memory_format=torch.channels_last)
    x = torch.randn(1, into, 32, 32, generator=generator).to(device, memory_format=torch.channels_last)

    def run(kind: torch.dtype, hopeless: float = float("inf")) -> tuple[Tensor, float]:
        one, w = x.to(kind), weight.to(kind)
        best = float("inf")
        for turn in range(6):
            start = time.perf_counter()
            y = torch.nn.functional.conv2d(one, w, padding=1)
            best = min(best, time.perf_counter() - start)
            if turn and best > hopeless:  # emulated: fifty times slower is not timed more often than needed
                break
        return y.float(), best

    try:
        with torch.inference_mode():
            reference, slow = run(torch.float32)
            result, fast = run(torch.bfloat16, 3 * slow)
    except RuntimeError:  # a device or build without it
        return torch.float32
    error = float((result - reference).abs().max() / reference.abs().max())
    return torch.bfloat16 if error <= AGREES and slow / fast >= FASTER else torch.float32
