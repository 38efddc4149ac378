"""One expert more for a latent model, all that it has frozen: an embedding of the expert's own in place of a prompt's
(Gal et al. 2023, "An image is worth one word: personalizing text-to-image generation using textual inversion"), and
with `rank` low-rank adapters beside the attentions' layers (`unires.denoise.latent.adapt`), for this expert only."""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unires.denoise.checkpoint import SHIPPED, load_latent, new_folder, save_latent
from unires.denoise.latent import LatentConfig, LatentDenoiser, LatentNet, adapt, target
from unires.denoise.schedule import alpha_sigma
from unires.errors import OptionError, shown
from unires.restore.latents import psnr_of
from unires.restore.restorer import pick_device
from unires.train.expert import MEASURED, Crops, ExpertTraining, Log, descend, notes

RATE = 1e-3


def add_latent_expert(c: ExpertTraining, log: Log = print) -> None:
    """As `unires.train.expert.add_expert` does it, which calls this for a latent model."""
    net = load_latent(c.model)
    if c.name in net.config.tasks:
        raise OptionError(f"The model has an expert {shown(c.name)} already; choose another name.")
    stored = next(net.unet.parameters()).dtype, next(net.vae.parameters()).dtype
    net = with_task(net.float().to(pick_device(c.device)), c.name, c.rank)
    multiple = LatentDenoiser(net, net.prompts.device, torch.float32).facts.multiple
    c = dataclasses.replace(c, crop=math.ceil(c.crop / multiple) * multiple)
    with new_folder(c.out) as folder:
        crops = Crops(c)
        clean, degraded = crops.measured(c)
        steps, minutes = train(net, crops, c, log)
        values = [psnr_of((degraded - clean) / 2), *(measure(net, task, clean, degraded) for task in ("blind", c.name))]
        figures = "input {:.2f}, blind {:.2f}, new {:.2f} dB".format(*values) + f" on {MEASURED} training crops"
        net.unet.to(stored[0])
        net.vae.to(stored[1])
        save_latent(net, folder)
        model = c.model or SHIPPED
        card = (model / "README.md").read_text() if (model / "README.md").is_file() else ""
        (folder / "README.md").write_text(card + notes(c, crops, steps, minutes, figures))
        for path in model.glob("router.*"):
            (folder / path.name).write_bytes(path.read_bytes())
    log(f"Added {c.name} in {steps} steps: {figures}.")


def with_task(net: LatentNet, name: str, rank: int) -> LatentNet:
    """The same with one task more, that starts as the blind one."""
    old = net.config
    config: LatentConfig = dataclasses.replace(
        old, prompts=old.prompts | {name: ""}, adapters=old.adapters | ({name: rank} if rank else {})
    )
    if rank:
        adapt(net.unet, name, rank)
    prompts = torch.cat((net.prompts, net.prompts[old.tasks.index("blind")][None]))
    return LatentNet(config, net.unet, net.vae, prompts, net.times)


def train(net: LatentNet, crops: Crops, c: ExpertTraining, log: Log) -> tuple[int, float]:
    """Train what the last task has of its own by the objective of `unires.train.latent`, the condition always seen.
    Returns steps and minutes."""
    torch.manual_seed(c.seed)
    net.requires_grad_(False)
    old, own = net.prompts[:-1], nn.Parameter(net.prompts[-1].clone())
    adapters = [p for n, p in net.unet.named_parameters() if f".{c.name}." in n]
    for p in adapters:
        p.requires_grad_()
    optimizer = torch.optim.Adam([own, *adapters], lr=c.rate or RATE, betas=(0.9, 0.99))
    host, device = torch.Generator().manual_seed(c.seed + 1), net.prompts.device
    task = torch.full((c.batch,), len(old), device=device)

    def loss() -> Tensor:
        pair = crops.draw(c.batch, host)
        with torch.no_grad():
            x, condition = (net.sum_up(net.look((v.to(device) + 1) / 2)) for v in pair)
        net.prompts = torch.cat((old, own[None]))
        t = net.times[torch.randint(len(net.times), (c.batch,), generator=host).to(device)]
        noise = torch.randn(x.shape, generator=host).to(device)
        alpha, sigma = (v.view(-1, 1, 1, 1) for v in alpha_sigma(t))
        said = net.out(alpha * x + sigma * noise, t, condition, task)
        return F.mse_loss(said, target(net.config.prediction, x, noise, alpha, sigma))

    done = descend(optimizer, loss, c, log)
    net.prompts = torch.cat((old, own.detach()[None]))
    net.requires_grad_(False)
    return done


def measure(net: LatentNet, task: str, clean: Tensor, degraded: Tensor) -> float:
    """PSNR in dB, all crops together, of one step at t = 1 with one expert."""
    denoiser = LatentDenoiser(net, net.prompts.device, torch.float32)
    restored = []
    for pixels in (degraded + 1) / 2:
        c = denoiser.encode(pixels[None])
        noise = torch.randn(c.shape, generator=torch.Generator().manual_seed(0)).to(c)
        restored.append(denoiser.decode(denoiser.predict(noise, 1.0, c, [task])).cpu().clamp(0, 1))
    return psnr_of(torch.cat(restored) - (clean + 1) / 2)
