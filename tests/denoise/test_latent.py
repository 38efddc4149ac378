"""The latent denoiser: prediction types, its autoencoder in halves, and damaged checkpoints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unires.compose.weights import Weights
from unires.denoise.checkpoint import load_denoiser, load_latent
from unires.denoise.convert import convert
from unires.denoise.latent import (
    PREDICTIONS,
    PROMPTS,
    LatentConfig,
    LatentDenoiser,
    LatentNet,
    target,
    times_of,
    to_clean,
)
from unires.denoise.schedule import alpha_sigma
from unires.errors import OptionError, UniresError
from unires.sample.sampler import sample


@pytest.fixture(scope="module")
def folder(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("latent") / "model"
    convert(str(base_folder), out)
    return out


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_targets_and_estimates_are_inverse(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(3, 4, 5, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    alpha, sigma = (v.view(-1, 1, 1, 1) for v in alpha_sigma(torch.tensor([0.02, 0.5, 0.95], dtype=torch.float64)))
    z = alpha * x + sigma * noise
    torch.testing.assert_close(to_clean(kind, target(kind, x, noise, alpha, sigma), z, alpha, sigma), x)


class Says(nn.Module):
    """Stands in for a network: one belief about the clean sample (a function of z, condition and prompt), said as
    noise, as velocity, or as it is."""

    def __init__(self, kind: str, times: Tensor) -> None:
        super().__init__()
        self.kind, self.times = kind, times
        self.conv_in = nn.Conv2d(8, 4, 3)
        self.config = SimpleNamespace(block_out_channels=(1,), latent_channels=4)

    def forward(self, x: Tensor, n: Tensor, encoder_hidden_states: Tensor) -> Any:
        z, c = x.chunk(2, dim=1)
        t = torch.lerp(self.times[n.long()], self.times[(n.long() + 1).clamp(max=999)], n.frac())
        alpha, sigma = (v.view(-1, 1, 1, 1) for v in alpha_sigma(t))
        belief = torch.tanh(0.4 * z * alpha + encoder_hidden_states[:, :1, :1, None] * c)
        return SimpleNamespace(sample=target(self.kind, belief, (z - alpha * belief) / sigma, alpha, sigma))


class Pixels(LatentDenoiser):
    """With the identity for an autoencoder."""

    def encode(self, pixels: Tensor) -> Tensor:
        return pixels

    def decode(self, sample: Tensor) -> Tensor:
        return sample


@pytest.mark.parametrize("steps", [1, 4])
def test_composition_agrees_between_prediction_types(steps: int) -> None:
    """Weights sum to one: composing noises, velocities or samples comes to the same."""
    times = times_of(torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0))
    weights = Weights.parse("denoise=1.4,dejpeg@relay=-0.7,motion-deblur=0.2,keep=0.1", tuple(PROMPTS))
    generator = torch.Generator().manual_seed(1)
    pixels, noise = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 4, 8, 8, generator=generator)
    prompts = torch.linspace(0.2, 1.2, len(PROMPTS)).view(-1, 1, 1)
    results = []
    for kind in PREDICTIONS:
        unet = Says(kind, times.float())
        net = LatentNet(LatentConfig(kind, {}, {}), unet, unet, prompts, times)
        results.append(sample(Pixels(net, kind=torch.float32), pixels, weights, steps=steps, noise=noise))
    assert float(results[0].std()) > 0.1
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], atol=1e-5, rtol=0)


def test_a_rescaled_schedule_ends_at_zero_signal(text_to_image: Any, tmp_path: Path) -> None:
    schedule = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    convert(str(text_to_image(tmp_path / "base", 1, schedule)), tmp_path / "out")
    net = load_latent(tmp_path / "out")
    assert net.config.prediction == "velocity" and float(net.times[-1]) == 1
    z, c, task = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8), torch.tensor([1])
    one = torch.ones(1)
    with torch.no_grad():  # alpha = 0, sigma = 1: the estimate is minus the velocity
        torch.testing.assert_close(net(z, one, c, task), -net.out(z, one, c, task))


def test_the_autoencoder_in_halves_is_the_autoencoder(folder: Path, photo: Tensor) -> None:
    denoiser = load_denoiser(folder, kind=torch.float32)
    assert isinstance(denoiser, LatentDenoiser)
    vae, pixels = denoiser.net.vae, photo[..., :64, :96]
    with torch.inference_mode():
        latent = vae.encode(pixels * 2 - 1).latent_dist.mode()
        torch.testing.assert_close(denoiser.encode(pixels), latent * 0.18215, atol=1e-6, rtol=1e-5)
        whole = (vae.decode(latent).sample + 1) / 2
    torch.testing.assert_close(denoiser.decode(latent * 0.18215), whole, atol=1e-5, rtol=1e-5)


def test_unknown_tasks_and_no_numbers(folder: Path) -> None:
    denoiser = load_denoiser(folder, kind=torch.float32)
    z = torch.zeros(1, 4, 8, 8)
    with pytest.raises(OptionError, match="did you mean 'denoise'"):
        denoiser.predict(z, 0.5, None, ["denoize"])
    with pytest.raises(UniresError, match="no numbers"):
        denoiser.predict(z * torch.nan, 0.5, None, ["denoise"])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 100), "damaged"),
        (lambda f: change(f, prediction="nose"), "damaged: Unknown prediction type 'nose'; did you mean 'noise'"),
        (lambda f: change(f, unet={"in_channels": 4, "block_out_channels": [32, 32]}), "damaged|don't fit"),
        (lambda f: change(f, depth=3), "damaged"),
        (lambda f: change(f, prompts={"blind": ""}), "don't fit"),
    ],
)
def test_a_damaged_checkpoint_is_refused(folder: Path, tmp_path: Path, damage: Any, said: str) -> None:
    shutil.copytree(folder, tmp_path / "model")
    damage(tmp_path / "model")
    with pytest.raises(UniresError, match=said) as refused:
        load_denoiser(tmp_path / "model")
    assert "\n" not in str(refused.value)


def change(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))
