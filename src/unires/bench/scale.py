"""What the paper's network costs: arithmetic for any number of devices, and a measurement with random weights."""

from __future__ import annotations

import platform
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unires.compose.weights import Weights
from unires.degrade.operators import smooth_depth
from unires.denoise import number_type
from unires.denoise.latent import LatentConfig, LatentDenoiser, LatentNet, library, times_of
from unires.photo.tiles import cut, plan_tiles
from unires.restore.latents import TiledLatents, blend, restore_latents

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


def random_denoiser(device: str, kind: torch.dtype | None = None) -> LatentDenoiser:
    """The full-size network and autoencoder with random weights, made in the number type it computes in. kind: None
    asks the machine."""
    config = LatentConfig("velocity", dict(UNET), dict(VAE))
    diffusers = library("diffusers")
    if kind is None:  # before there is a network, as that would take twice the memory to make
        kind = number_type.choose(nn.Conv2d(320, 320, 3), torch.device(device))
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


def measure(device: str = "cpu", kind: torch.dtype | None = None, steps: Sequence[int] = (1, 8)) -> Iterator[str]:
    """Lines of figures: composed restores (two experts) of 512 x 512 pixels, seconds and the most memory so far; then
    how far decoding in tiles is from decoding in one piece. kind: None asks the machine."""
    torch.manual_seed(0)
    denoiser = random_denoiser(device, kind)
    facts = denoiser.facts
    yield (
        f"{facts.parameters / 1e6:.1f} M parameters, {facts.number_type}, {device}, {torch.get_num_threads()} threads "
        f"({platform.machine()}): {memory(device)} once loaded"
    )
    pixels = picture(512)
    weights = Weights.parse("denoise=0.6,dejpeg=0.4", facts.tasks)
    for number in steps:
        start, work = time.perf_counter(), time.process_time()
        restore_latents(denoiser, pixels, weights, steps=number, seed=0, solver="ddim", tile=1024)
        seconds, work = time.perf_counter() - start, time.process_time() - work
        yield (
            f"512 x 512, two experts, steps: {number}: {seconds:.1f} s with the autoencoder ({work:.1f} s of processor "
            f"time), at most {memory(device)}"
        )
    shared, alone, spread = agreement(denoiser, pixels)
    yield (
        f"decoding in four tiles and in one piece differ by {shared * 255:.2f} of 255 levels on average, with "
        f"statistics of each tile's own by {alone * 255:.2f} (values spread with a deviation of {spread * 255:.1f})"
    )


def picture(side: int) -> Tensor:
    """Something with large shapes and fine texture, 1 x 3 x side x side in [0, 1]: what tiles could disagree about."""
    generator = torch.Generator().manual_seed(0)
    shapes = smooth_depth(torch.zeros(4, 3, side, side), generator, knots=5)
    texture = 0.3 * shapes[3] * torch.randn(3, side, side, generator=generator)
    return (shapes[:3, 0] + texture).clamp(0, 1)[None]


def agreement(denoiser: LatentDenoiser, pixels: Tensor) -> tuple[float, float, float]:
    """How far decoding in overlapping tiles of three quarters of the side, smaller than any restore makes, is from
    decoding in one piece: mean absolute difference, pixels in [0, 1], with the statistics of the whole picture and with
    each tile's own; and the standard deviation of what is decoded, which they have to be seen against.

    pixels: 1 x 3 x H x H, sides multiples of 64."""
    r = denoiser.facts.reduction
    side = pixels.shape[-1] // r
    plans = (
        plan_tiles(side * k, side * k, side * 3 // 4 * k, side * 3 // 8 * k, margin=side // 8 * k, multiple=2 * k)
        for k in (1, r)
    )
    tiled = TiledLatents(denoiser, *plans)
    latents = denoiser.encode(pixels)
    whole, parts = denoiser.decode(latents), tiled.decode(latents)
    alone = blend(tiled.pixels, (denoiser.decode(cut(latents, window)) for window in tiled.plan))
    shared, own = (float((p - whole).abs().mean()) for p in (parts, alone))
    return shared, own, float(whole.std())


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
