"""From a checkpoint of the Stable Diffusion class to a latent model of ours: `unires convert BASE OUT`.

The first convolution is widened to take the condition beside the noisy sample; its new half is zero, so that nothing
changes until it is trained (as in Brooks et al. 2023, "InstructPix2Pix", section 3.2). Prompts are embedded here, once
and for all. Weights keep their number type. Only safetensors is read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from unires.denoise.latent import PROMPTS, LatentConfig, LatentNet, library, times_of
from unires.errors import UniresError, nearest, shown

PARTS = {
    "unet": "config.json",
    "vae": "config.json",
    "text_encoder": "config.json",
    "tokenizer": "tokenizer_config.json",
    "scheduler": "scheduler_config.json",
}
"""The folders of a checkpoint, and the file that describes each."""

STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
PICKLES = {".bin", ".ckpt", ".pt", ".pth", ".pkl"}
THEIR_NAMES = {"epsilon": "noise", "v_prediction": "velocity", "sample": "sample"}
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def convert(base: str, out: Path) -> LatentNet:
    """Write the folder `out`: configuration, weights, model card; it appears whole or not at all.

    base: a folder as diffusers saves pipelines, or OWNER/NAME on the Hugging Face hub. Returns the model. Raises
    UniresError in one sentence for a part that is missing, a pickle, or a network of another class."""
    from unires.denoise.checkpoint import new_folder, save_latent

    with new_folder(out) as folder:
        net = read_base(find(base))
        save_latent(net, folder)
        (folder / "README.md").write_text(card(net, base))
    return net


def find(base: str) -> Path:
    """The folder itself, or a copy of what the hub has under that name."""
    if Path(base).is_dir():
        return Path(base)
    if Path(base).is_file():
        raise UniresError(
            f"{shown(base)} is one file; save it as a folder first, with diffusers: "
            "StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER)."
        )
    if not HUB_NAME.fullmatch(base):
        raise UniresError(f"There is no folder {shown(base)}.")
    hub = library("huggingface_hub")
    try:
        return Path(hub.snapshot_download(base, allow_patterns=["*/*.json", "*/*.txt", "*/*.safetensors"]))
    except (OSError, ValueError, hub.errors.HfHubHTTPError) as error:
        raise UniresError(f"There is no folder {shown(base)}, nor did the hub give a model of that name.") from error


def read_base(folder: Path) -> LatentNet:
    """The model in a folder of diffusers' format, widened. Raises UniresError."""
    check_parts(folder)
    diffusers = library("diffusers")
    unet = _load(diffusers.UNet2DConditionModel, folder, "unet")
    vae = _load(diffusers.AutoencoderKL, folder, "vae")
    widths = {"takes": unet.config.in_channels, "gives": unet.config.out_channels}
    for verb, width in widths.items():
        if width != vae.config.latent_channels:
            raise UniresError(
                f"The network in {shown(folder)} {verb} {width} channels, but its autoencoder has "
                f"{vae.config.latent_channels}; only a plain text-to-image model can be converted."
            )
    if unet.config.addition_embed_type is not None:
        raise UniresError(f"The network in {shown(folder)} wants more than a prompt; that can't be converted yet.")
    prompts = embed(folder, list(PROMPTS.values()))
    if prompts.shape[2] != unet.config.cross_attention_dim:
        raise UniresError(
            f"The text encoder in {shown(folder)} gives vectors of {prompts.shape[2]} numbers, but the network takes "
            f"{unet.config.cross_attention_dim}."
        )
    prediction, times = read_schedule(folder)
    widen(unet)
    config = LatentConfig(prediction, _plain(unet.config), _plain(vae.config))
    return LatentNet(config, unet, vae, prompts.to(unet.dtype), times)


def check_parts(folder: Path) -> None:
    """Raises UniresError for the first part that is missing or pickled."""
    for part, description in PARTS.items():
        if not (folder / part / description).is_file():
            raise UniresError(f"The checkpoint {shown(folder)} has no {part}/{description}.")
    for part in STEMS:
        files = sorted((folder / part).iterdir())
        if any(f.suffix == ".safetensors" for f in files):
            continue
        pickles = [f.name for f in files if f.suffix in PICKLES]
        if pickles:
            raise UniresError(
                f"{shown(folder / part / pickles[0])} is a pickle, which may run anything when it is read; "
                "where you trust it, save it as safetensors first, with diffusers: "
                "DiffusionPipeline.from_pretrained(BASE).save_pretrained(FOLDER, safe_serialization=True)."
            )
        raise UniresError(f"The checkpoint {shown(folder)} has no weights in {part}.")


def _load(kind: Any, folder: Path, part: str) -> Any:
    """One part, by its library, in the number type that it is stored in."""
    stem, where = STEMS[part], folder / part
    half = not any((where / f"{stem}.safetensors{end}").is_file() for end in ("", ".index.json"))
    half = half and bool(list(where.glob(f"{stem}.fp16*.safetensors")))
    try:
        with safe_open(next(where.glob(f"{stem}*.safetensors")), "pt") as file:
            stored = next(x.dtype for x in map(file.get_tensor, file.keys()) if x.is_floating_point())
        model, told = kind.from_pretrained(
            folder, subfolder=part, torch_dtype=stored, use_safetensors=True, local_files_only=True,
            variant="fp16" if half else None, output_loading_info=True,
        )
        # the libraries fill gaps with random numbers, and warn of them at most; positions are counted, not learnt
        lost = [*told["missing_keys"], *told["mismatched_keys"]]
        if any("position_ids" not in str(key) for key in lost):
            raise ValueError(f"no weights for {lost}")
        return model
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, StopIteration, SafetensorError) as error:
        raise UniresError(f"The {part} of {shown(folder)} is damaged, or is no {kind.__name__}.") from error


@torch.inference_mode()
def embed(folder: Path, prompts: list[str]) -> Tensor:
    """The checkpoint's own embeddings of prompts: prompt x token x width."""
    transformers = library("transformers")
    encoder = _load(transformers.CLIPTextModel, folder, "text_encoder").float()
    try:
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer", local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UniresError(f"The tokenizer of {shown(folder)} is damaged, or of another class than CLIP's.") from error
    length = encoder.config.max_position_embeddings
    words = tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    embeddings: Tensor = encoder(words.input_ids).last_hidden_state
    return embeddings


def read_schedule(folder: Path) -> tuple[str, Tensor]:
    """(prediction type, the model's levels as times of ours, rising)."""
    diffusers = library("diffusers")
    try:
        described = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
        theirs = described.get("prediction_type", "epsilon")
        if theirs not in THEIR_NAMES:
            raise UniresError(nearest(str(theirs), THEIR_NAMES, kind="prediction type"))
        schedule = diffusers.DDPMScheduler.from_config(described)
        times = times_of(schedule.alphas_cumprod)
    except (OSError, ValueError, TypeError, AttributeError, NotImplementedError) as error:
        raise UniresError(f"The schedule of {shown(folder)} is damaged, or of a kind without betas.") from error
    if "num_train_timesteps" not in described or not bool((times.diff() > 0).all()):
        raise UniresError(f"The schedule of {shown(folder)} is damaged: its noise does not grow from level to level.")
    if theirs == "epsilon" and float(times[-1]) >= 1:
        raise UniresError(f"{shown(folder)} predicts noise, which says nothing at its schedule's end of zero signal.")
    return THEIR_NAMES[theirs], times


def widen(unet: Any) -> None:
    """Twice the channels into the first convolution; the new half is zero."""
    old: nn.Conv2d = unet.conv_in
    kernel, padding = old.weight.shape[-1], old.padding[0]
    new = nn.Conv2d(2 * old.in_channels, old.out_channels, kernel, padding=int(padding)).to(old.weight)
    with torch.no_grad():
        new.weight.zero_()
        new.weight[:, : old.in_channels] = old.weight
        assert new.bias is not None and old.bias is not None
        new.bias.copy_(old.bias)
    unet.conv_in = new
    unet.register_to_config(in_channels=2 * old.in_channels)


def _plain(config: Any) -> dict[str, Any]:
    """Without what the library notes about itself and where the file lay."""
    return {k: v for k, v in dict(config).items() if not k.startswith("_")}


def card(net: LatentNet, base: str) -> str:
    """A model card: what can be said before anything is trained."""
    million = sum(p.numel() for p in net.unet.parameters()) / 1e6
    prompts = "\n".join(f'| `{task}` | "{text}" |' for task, text in net.config.prompts.items())
    return (
        f"# UniRes latent, {million:.0f} M parameters\n\n"
        f"Converted from `{Path(base).name}`, whose licence goes on to hold for these weights. The first convolution "
        "was widened for a condition, with zeros: until it is trained, the model does not look at the photo.\n\n"
        f"It predicts the {net.config.prediction}; {len(net.times)} noise levels, the last at t = "
        f"{float(net.times[-1]):.4f}.\n\n| task | prompt |\n|---|---|\n{prompts}\n"
    )
