"""What the paper's network costs: arithmetic for any number of devices, and a measurement with random weights."""

from __future__ import annotations

import platform
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from unires.compose.weights import Weights
from unires.denoise.latent import LatentConfig, LatentDenoiser, LatentNet, library, times_of
from unires.restore.latents import restore_latents

PARAMETERS = 865.9e6  # of Stable Diffusion 2's network
AUTOENCODER = 83.7e6
MULTIPLY_ADDS = 0.40e12  # of one pass over a 64 x 64 latent; `counted` counts them
ENCODE = 0.56e12  # of encoding 512 x 512 pixels
UNET = {
    "sample_size": 64, "in_channels": 8, "out_channels": 4, "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}  # fmt: skip
VAE = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4, "scaling_factor": 0.18215,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """What the arithmetic is of."""

    batch: int = 256
    steps: int = 200_000
    rate: float = 790e12  # bf16 operations a second that a device can do at most (an H100 or H200)
    share: float = 0.35  # of them that training of such networks reaches


def arithmetic(devices: int, recipe: Recipe = Recipe()) -> dict[str, float]:
    """Memory a device in GiB (DDP, and FSDP with everything sharded; without activations), seconds a step, days.

    Adam in float32 holds 16 bytes a parameter: weight, gradient and two moments; mixed precision adds 2. The frozen
    autoencoder computes in float32 and is not sharded. A step is forward, backward (twice that) and, with
    checkpointing, forward once more; clean and degraded photo are encoded."""
    fixed = AUTOENCODER * 4
    samples = recipe.batch / devices
    operations = 2 * samples * (4 * MULTIPLY_ADDS + 2 * ENCODE)
    seconds = operations / (recipe.rate * recipe.share)
    return {
        "samples": samples,
        "ddp": (18 * PARAMETERS + fixed) / 2**30,
        "fsdp": (16 * PARAMETERS / devices + 2 * PARAMETERS + fixed) / 2**30,
        "seconds": seconds,
        "days": seconds * recipe.steps / 86400,
    }


def random_denoiser(device: str, kind: torch.dtype) -> LatentDenoiser:
    """The full-size network and autoencoder with random weights, made in the number type it computes in."""
    config = LatentConfig("velocity", dict(UNET), dict(VAE))
    diffusers = library("diffusers")
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(kind)
        unet = diffusers.UNet2DConditionModel.from_config(config.unet)
    finally:
        torch.set_default_dtype(before)
    vae = diffusers.AutoencoderKL.from_config(config.vae)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    prompts = torch.randn(len(config.tasks), 77, 1024, generator=torch.Generator().manual_seed(0)).to(kind)
    net = LatentNet(config, unet, vae, prompts, times_of(torch.cumprod(1 - betas, 0)))
    return LatentDenoiser(net, device, kind)


def measure(device: str = "cpu", kind: torch.dtype = torch.bfloat16, steps: Sequence[int] = (1, 8)) -> Iterator[str]:
    """Lines of figures: composed restores (two experts) of 512 x 512 pixels, seconds and the most memory so far."""
    torch.manual_seed(0)
    denoiser = random_denoiser(device, kind)
    facts = denoiser.facts
    yield (
        f"{facts.parameters / 1e6:.1f} M parameters, {facts.number_type}, {device}, {torch.get_num_threads()} threads "
        f"({platform.machine()}): {memory(device)} once loaded"
    )
    pixels = torch.rand(1, 3, 512, 512, generator=torch.Generator().manual_seed(0))
    weights = Weights.parse("denoise=0.6,dejpeg=0.4", facts.tasks)
    for number in steps:
        start, work = time.perf_counter(), time.process_time()
        restore_latents(denoiser, pixels, weights, steps=number, seed=0, solver="ddim", tile=1024)
        seconds, work = time.perf_counter() - start, time.process_time() - work
        yield (
            f"512 x 512, two experts, steps: {number}: {seconds:.1f} s with the autoencoder ({work:.1f} s of processor "
            f"time), at most {memory(device)}"
        )


def counted() -> dict[str, float]:
    """Parameters and multiply-adds of the full-size networks, counted without computing: what the constants say."""
    from torch.utils.flop_counter import FlopCounterMode

    diffusers = library("diffusers")
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel.from_config(UNET)
        vae = diffusers.AutoencoderKL.from_config(VAE)
        found = {
            "network": float(sum(p.numel() for p in unet.parameters())),
            "autoencoder": float(sum(p.numel() for p in vae.parameters())),
        }
        z, t, prompts = torch.zeros(1, 8, 64, 64), torch.zeros(1), torch.zeros(1, 77, 1024)
        pixels = torch.zeros(1, 3, 512, 512)
        for name, network, inputs in (("pass", unet, (z, t, prompts)), ("encode", vae.encode, (pixels,))):
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                network(*inputs)
            found[name] = counter.get_total_flops() / 2
    return found


def memory(device: str) -> str:
    if device == "cuda":
        return f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB"


def table(devices: tuple[int, ...] = (8, 32)) -> str:
    """The arithmetic as a table in Markdown."""
    head = "| devices | samples a device | GiB a device, DDP | GiB, FSDP | seconds a step | days |"
    rows = [
        f"| {n} | {a['samples']:.0f} | {a['ddp']:.1f} | {a['fsdp']:.1f} | {a['seconds']:.2f} | {a['days']:.1f} |"
        for n, a in ((n, arithmetic(n)) for n in devices)
    ]
    return "\n".join([head, "|---" * 6 + "|", *rows])
