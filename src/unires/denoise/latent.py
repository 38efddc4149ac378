"""The latent denoiser: a diffusion model of the Stable Diffusion class, in the space of its autoencoder.

    sample      E(pixels), 8 x 8 pixels to one position of 4 channels, scaled to about unit variance
    out         U([z, c], n, prompt): its first convolution takes the condition beside the noisy sample
    x_hat       (z - sigma out) / alpha  |  alpha z - sigma out  |  out      for noise, velocity, sample prediction

The model was trained at N noise levels of its own, (alpha_n, sigma_n). All levels with alpha^2 + sigma^2 = 1 lie on one
quarter circle, on which our time t is the angle over pi / 2 (`schedule.py`): so a level of ours is found among the
model's by its angle, n(t) is interpolated between neighbours, and z needs no conversion at all.

A schedule that never reaches zero signal (Stable Diffusion 1 and 2: alpha_N = 0.07) ends before t = 1. There, and up to
t = 1, the model's last level stands in, as in every sampler of such models (pure noise is shown to it as its noisiest
sample). Schedules rescaled to zero terminal signal (Lin et al. 2024, "Common Diffusion Noise Schedules and Sample Steps
are Flawed") have a level at t = 1; noise prediction, which says nothing of the picture there, is refused with them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from unires.denoise import number_type
from unires.denoise.interface import Facts, Hint
from unires.denoise.one_picture import OnePicture, Owned, looking, painting, side_by_side
from unires.denoise.schedule import alpha_sigma
from unires.errors import OptionError, UniresError, nearest

PROMPTS = {
    "blind": "",
    "super-resolution": "Super-resolution",
    "motion-deblur": "Motion deblur",
    "defocus-deblur": "Defocus deblur",
    "denoise": "Denoise",
    "dejpeg": "JPEG artifact removal",
}
"""The tasks, and the prompts that stand for them."""

PREDICTIONS = ("noise", "velocity", "sample")


@dataclass(frozen=True)
class LatentConfig:
    """unet, vae: the libraries' own descriptions of the two networks; prompts: task -> text; adapters: task -> rank, of
    those that have low-rank adapters of their own."""

    prediction: str
    unet: dict[str, Any]
    vae: dict[str, Any]
    prompts: dict[str, str] = field(default_factory=lambda: dict(PROMPTS))
    adapters: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise OptionError(nearest(str(self.prediction), PREDICTIONS, kind="prediction type"))

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.prompts)


def library(name: str) -> ModuleType:
    """`diffusers` or another library that only latent models need. Raises UniresError if it is missing."""
    from importlib import import_module

    try:
        module = import_module(name)
    except ImportError as error:
        raise UniresError(
            f"A latent model needs the library {name}; install it with: pip install 'unires[latent]'."
        ) from error
    if name in ("diffusers", "transformers"):  # what they would print is for their developers
        module.utils.logging.set_verbosity_error()
        module.utils.logging.disable_progress_bar()
    return module


def to_clean(kind: str, out: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """x_hat from what the network says. alpha, sigma: B x 1 x 1 x 1."""
    if kind == "noise":
        return (z - sigma * out) / alpha
    return alpha * z - sigma * out if kind == "velocity" else out


def target(kind: str, x: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """What the network should say of z = alpha x + sigma noise: the inverse of `to_clean`."""
    if kind == "noise":
        return noise
    return alpha * noise - sigma * x if kind == "velocity" else x


def adapt(unet: Any, task: str, rank: int) -> None:
    """Give the network adapters for a task beside its attentions' linear layers: B A of that rank, B zero at first (Hu
    et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models", eq. 3)."""
    layers = ["to_q", "to_k", "to_v", "to_out.0"]
    config = library("peft").LoraConfig(r=rank, lora_alpha=rank, target_modules=layers)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several are meant
        unet.add_adapter(config, adapter_name=task)
    unet.requires_grad_(False)


def use_adapter(unet: Any, task: str) -> None:
    """Switch to a task's adapters; "" to none at all."""
    if task:
        unet.set_adapter(task)
        unet.enable_adapters()
    else:
        unet.disable_adapters()


class LatentNet(nn.Module):
    """Network (diffusers' UNet2DConditionModel), autoencoder (AutoencoderKL), prompts' embeddings (task x token x
    width) and the model's own levels as times of ours (N, rising)."""

    prompts: Tensor
    times: Tensor
    unet: Any
    vae: Any

    def __init__(self, config: LatentConfig, unet: Any, vae: Any, prompts: Tensor, times: Tensor) -> None:
        super().__init__()
        self.config, self.unet, self.vae = config, unet, vae
        self.register_buffer("prompts", prompts)
        self.register_buffer("times", times.float())

    @classmethod
    def build(cls, config: LatentConfig, tokens: tuple[int, int], levels: int) -> LatentNet:
        """With weights yet to be loaded. tokens: an embedding's shape; levels: N."""
        diffusers = library("diffusers")
        unet = diffusers.UNet2DConditionModel.from_config(config.unet)
        vae = diffusers.AutoencoderKL.from_config(config.vae)
        for task, rank in config.adapters.items():
            adapt(unet, task, rank)
        return cls(config, unet, vae, torch.zeros(len(config.tasks), *tokens), torch.zeros(levels))

    @property
    def channels(self) -> int:
        return int(self.vae.config.latent_channels)

    @property
    def reduction(self) -> int:
        """Pixels a side of one position of a sample."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    def place(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(n(t), t) of times t, both within the model's own levels."""
        t = t.clamp(self.times[0], self.times[-1])
        right = torch.searchsorted(self.times, t).clamp(1, len(self.times) - 1)
        a, b = self.times[right - 1], self.times[right]
        return right - 1 + (t - a) / (b - a), t

    def out(self, z: Tensor, t: Tensor, condition: Tensor, task: Tensor) -> Tensor:
        """What the network itself says: noise, velocity or sample, as `config.prediction` names it."""
        kind = next(self.unet.parameters()).dtype
        n, _ = self.place(t)
        prompts = self.prompts[task].to(kind).expand(len(z), -1, -1)
        x = torch.cat((z, condition), dim=1).to(kind)
        n, said = n.expand(len(z)), torch.zeros_like(z)
        if not self.config.adapters:
            return self.unet(x, n, encoder_hidden_states=prompts).sample.float()  # type: ignore[no-any-return]
        tasks = [self.config.tasks[i] for i in task.expand(len(z)).tolist()]
        adapted = [name if name in self.config.adapters else "" for name in tasks]
        for name in dict.fromkeys(adapted):
            use_adapter(self.unet, name)
            mine = torch.tensor([i for i, other in enumerate(adapted) if other == name], device=z.device)
            part = self.unet(x[mine], n[mine], encoder_hidden_states=prompts[mine]).sample
            said = said.index_copy(0, mine, part.to(said))
        return said

    def forward(self, z: Tensor, t: Tensor, condition: Tensor, task: Tensor) -> Tensor:
        """x_hat. z, condition: B x C x h x w (condition zero for none); t, task (an index): B, or 1 for all."""
        _, near = self.place(t)
        alpha, sigma = (v.view(-1, 1, 1, 1) for v in alpha_sigma(near))
        return to_clean(self.config.prediction, self.out(z, t, condition, task), z, alpha, sigma)

    # The autoencoder in two halves each way: at the pixels, where memory goes but nothing looks far, and at the
    # latents, where attention looks everywhere. So a picture may be cut into tiles there and stay whole here.

    def look(self, pixels: Tensor) -> Tensor:
        """Pixels in [0, 1], sides multiples of `reduction`, to features at the latents' size."""
        encoder = self.vae.encoder
        x: Tensor = encoder.conv_in(pixels * 2 - 1)
        for block in encoder.down_blocks:
            x = block(x)
        return x

    def sum_up(self, features: Tensor) -> Tensor:
        """Those features to the most likely sample: no randomness."""
        encoder, c = self.vae.encoder, self.vae.config
        x = encoder.conv_out(encoder.conv_act(encoder.conv_norm_out(encoder.mid_block(features))))
        moments: Tensor = x if self.vae.quant_conv is None else self.vae.quant_conv(x)
        sample: Tensor = (moments.chunk(2, dim=1)[0] - (c.shift_factor or 0)) * c.scaling_factor
        return sample

    def unfold(self, sample: Tensor) -> Tensor:
        """A sample to features of the same size."""
        decoder, c = self.vae.decoder, self.vae.config
        x = sample / c.scaling_factor + (c.shift_factor or 0)
        x = x if self.vae.post_quant_conv is None else self.vae.post_quant_conv(x)
        features: Tensor = decoder.mid_block(decoder.conv_in(x))
        return features

    def paint(self, features: Tensor) -> Tensor:
        """Those features to pixels."""
        decoder = self.vae.decoder
        x = features
        for block in decoder.up_blocks:
            x = block(x)
        pixels: Tensor = decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(x)))
        return (pixels + 1) / 2


class LatentDenoiser:
    """The model behind the interface that all denoisers share (`unires.denoise.interface.Denoiser`)."""

    def __init__(self, net: LatentNet, device: str | torch.device = "cpu", kind: torch.dtype | None = None) -> None:
        """kind: what the network computes in; None asks the machine. The autoencoder always computes in float32:
        half precision would lower the ceiling that it sets."""
        self.device = torch.device(device)
        self.net = net.to(self.device).eval().requires_grad_(False)
        self.net.vae.float()
        self.kind = kind or number_type.choose(net.unet, self.device)
        self.net.unet.to(self.kind)

    @property
    def facts(self) -> Facts:
        levels = len(self.net.unet.config.block_out_channels)
        return Facts(
            tasks=self.net.config.tasks,
            channels=self.net.channels,
            reduction=self.net.reduction,
            multiple=self.net.reduction * 2 ** (levels - 1),
            reach=128,
            parameters=sum(p.numel() for p in self.net.unet.parameters()),
            number_type=str(self.kind).removeprefix("torch."),
            memory=3 * 4 * int(self.net.vae.config.block_out_channels[:2][-1]),  # its finest levels, float32
        )

    def encode(self, pixels: Tensor) -> Tensor:
        """Sides must be multiples of the reduction (see the interface)."""
        return self.sum_up(self.look(pixels))

    def decode(self, sample: Tensor) -> Tensor:
        return self.paint(self.unfold(sample))

    @torch.inference_mode()
    def look(self, pixels: Tensor) -> Tensor:
        return self.net.look(pixels.to(self.device, torch.float32))

    @torch.inference_mode()
    def sum_up(self, features: Tensor) -> Tensor:
        return self.net.sum_up(features)

    @torch.inference_mode()
    def unfold(self, sample: Tensor) -> Tensor:
        return self.net.unfold(sample.to(self.device, torch.float32))

    @torch.inference_mode()
    def paint(self, features: Tensor) -> Tensor:
        return self.net.paint(features)

    @torch.inference_mode()
    def predict(
        self,
        z: Tensor,
        t: float,
        condition: Tensor | None,
        tasks: Sequence[str],
        hints: Sequence[Hint | None] | None = None,
    ) -> Tensor:
        """x_hat for B samples (see the interface); prompts say nothing of severity: hints are not looked at. Sides must
        be multiples of `facts.multiple` over `facts.reduction`. Raises OptionError for an unknown task, UniresError if
        the result holds values that are no numbers."""
        known = self.net.config.tasks
        for task in tasks:
            if task not in known:
                raise OptionError(nearest(task, known, kind="task"))
        index = torch.tensor([known.index(task) for task in tasks], device=self.device)
        c = torch.zeros_like(z) if condition is None else condition
        out: Tensor = self.net(z, torch.full((1,), float(t), device=self.device), c, index)
        if not bool(torch.isfinite(out).all()):
            raise UniresError("The model's result holds values that are no numbers; its weights may be damaged.")
        return out

    @torch.inference_mode()
    def look_together(self, tiles: Iterable[Tensor], owned: Sequence[Owned]) -> list[Tensor]:
        """`look` for all tiles of one picture, 1 x 3 x H x W each: see `one_picture.py`."""
        encoder = self.net.vae.encoder
        return side_by_side((looking(encoder, x.to(self.device, torch.float32)) for x in tiles), owned)

    @torch.inference_mode()
    def paint_together(self, tiles: Iterable[Tensor], owned: Sequence[Owned]) -> list[Tensor]:
        """`paint` for all tiles of one picture, 1 x C x h x w each."""
        return side_by_side((painting(self.net.vae.decoder, x) for x in tiles), owned)

    @contextmanager
    def one_picture(self) -> Iterator[OnePicture]:
        """While parts of one picture go through the autoencoder: see `OnePicture`."""
        statistics = OnePicture(self.net.vae)
        try:
            yield statistics
        finally:
            statistics.end()


def times_of(signal: Tensor) -> Tensor:
    """Our times of a model's levels. signal: its cumulative products of 1 - beta, which are alpha^2."""
    a = signal.double()
    return torch.atan2((1 - a).sqrt(), a.sqrt()) * (2 / math.pi)
