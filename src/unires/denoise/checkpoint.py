"""Checkpoints: a folder with `config.json`, `model.safetensors` and a model card. Nothing is ever unpickled."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from unires.denoise.compact import CompactConfig, CompactNet
from unires.denoise.compact_denoiser import CompactDenoiser
from unires.denoise.interface import Denoiser
from unires.denoise.joined import Joined
from unires.errors import OptionError, UniresError, nearest, shown

if TYPE_CHECKING:
    from unires.denoise.latent import LatentNet

NETWORKS = "networks"  # in config.json and beside it: experts that are whole networks
SHIPPED = Path(__file__).resolve().parent.parent / "weights"


def load_denoiser(folder: Path | None = None, device: str = "cpu", kind: torch.dtype | None = None) -> Denoiser:
    """The denoiser in a checkpoint folder (None: the shipped one). Raises UniresError in one sentence."""
    if read_config(folder)["kind"] == "latent":
        from unires.denoise.latent import LatentDenoiser

        return LatentDenoiser(load_latent(folder), device, kind)
    base = CompactDenoiser(load_net(folder), device, kind)
    whole = networks(folder)
    if not whole:
        return base
    others = {name: (CompactDenoiser(load_net(path), device, kind), task) for name, (path, task) in whole.items()}
    for name, (other, task) in others.items():
        if task not in other.facts.tasks:
            raise UniresError(f"The expert {shown(name)} of {shown(folder)} has no task {shown(task)}.")
    return Joined(base, others)


def networks(folder: Path | None) -> dict[str, tuple[Path, str]]:
    """The experts of a compact checkpoint that are whole networks: name -> (their own checkpoint, which of its tasks
    the expert is). Raises UniresError."""
    where = SHIPPED if folder is None else Path(folder)
    with _damage(where):
        listed: dict[str, str] = dict(read_config(where).get(NETWORKS, {}))
        return {name: (where / NETWORKS / name, task) for name, task in listed.items()}


def read_config(folder: Path | None = None) -> dict[str, Any]:
    """config.json of a checkpoint folder; its "kind" is compact or latent. Raises UniresError."""
    folder = SHIPPED if folder is None else Path(folder)
    if not folder.is_dir():
        raise UniresError(f"There is no checkpoint folder {shown(folder)}.")
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise UniresError(f"The checkpoint {shown(folder)} has no {name}.")
    with _damage(folder):
        config: dict[str, Any] = dict(json.loads((folder / "config.json").read_text()))
        if config["kind"] not in ("compact", "latent"):
            raise UniresError(f"The checkpoint {shown(folder)} is of a kind that this version does not know.")
    return config


def load_net(folder: Path | None = None) -> CompactNet:
    """The compact network in a checkpoint folder, in float32. Raises UniresError."""
    folder = SHIPPED if folder is None else Path(folder)
    config = read_config(folder)
    if config.pop("kind") != "compact":
        raise UniresError(f"The checkpoint {shown(folder)} is no compact model.")
    config.pop(NETWORKS, None)
    with _damage(folder):
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
        net = CompactNet(CompactConfig(**values))  # not on the device `meta`: its imports take two seconds
        weights = load_file(folder / "model.safetensors")
        net.load_state_dict({k: v.float() for k, v in weights.items()})
    return net


def load_latent(folder: Path | None) -> LatentNet:
    """The latent model in a checkpoint folder, in the number type that it is stored in. Raises UniresError."""
    from unires.denoise.latent import LatentConfig, LatentNet

    folder = SHIPPED if folder is None else Path(folder)
    config = read_config(folder)
    if config.pop("kind") != "latent":
        raise UniresError(f"The checkpoint {shown(folder)} is no latent model.")
    with _damage(folder):
        with safe_open(folder / "model.safetensors", "pt") as file:
            _, tokens, width = file.get_slice("prompts").get_shape()
            (levels,) = file.get_slice("times").get_shape()
        with torch.device("meta"):
            net = LatentNet.build(LatentConfig(**config), (tokens, width), levels)
        # copies: how a file aligns its tensors would decide the last bits of what is computed with them
        net.load_state_dict({k: v.clone() for k, v in load_file(folder / "model.safetensors").items()}, assign=True)
    return net


@contextmanager
def _damage(folder: Path) -> Iterator[None]:
    """Whatever goes wrong while a checkpoint is read, in one sentence."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise UniresError(f"The checkpoint {shown(folder)} is damaged: {_first_line(error)}.") from error
    except RuntimeError as error:
        raise UniresError(f"The weights of {shown(folder)} don't fit its config.json.") from error


def digest(folder: Path | None = None) -> str:
    """SHA-256 of a checkpoint's configuration and all weights in it: what results depend on. Raises UniresError."""
    where = SHIPPED if folder is None else folder
    total = hashlib.sha256()
    try:
        parts = (*sorted(where.glob("router.*")), *sorted(where.glob(f"{NETWORKS}/*/*")))
        for name in (where / "config.json", where / "model.safetensors", *parts):
            with name.open("rb") as file:
                while part := file.read(2**24):
                    total.update(part)
    except OSError as error:
        raise UniresError(f"The checkpoint {shown(where)} can't be read: {error.strerror}.") from error
    return total.hexdigest()


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to write into; it becomes `out` at the end, whole or not at all. Raises UniresError if that is there
    already or can't be written."""
    if out.exists():
        raise UniresError(f"{shown(out)} is there already; name another folder or remove it.")
    half_done = out.with_name(out.name + ".tmp")
    shutil.rmtree(half_done, ignore_errors=True)
    try:
        half_done.mkdir(parents=True)
        yield half_done
        half_done.rename(out)
    except OSError as error:
        raise UniresError(f"{shown(out)} can't be written: {error.strerror}.") from error
    finally:
        shutil.rmtree(half_done, ignore_errors=True)


def save_with_network(folder: Path, model: Path | None, name: str, network: Path, task: str) -> None:
    """Write the compact checkpoint `model` with one expert more: the compact checkpoint `network`, asked for its task
    `task`. All else keeps its bytes. Raises UniresError, OptionError where `network` has no such task."""
    model = SHIPPED if model is None else model
    tasks = load_net(network).config.tasks
    if task not in tasks:
        raise OptionError(nearest(task, tasks, kind="task"))
    config = read_config(model)
    with _damage(model):
        _copy_parts(model, folder)
        (folder / NETWORKS / name).mkdir(parents=True)
        for part in ("config.json", "model.safetensors"):
            shutil.copyfile(network / part, folder / NETWORKS / name / part)
        described = config | {NETWORKS: config.get(NETWORKS, {}) | {name: task}}
        (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n")
        with (folder / "README.md").open("a") as card:
            card.write(f"\n## The expert `{name}`\n\nA network of its own, `{NETWORKS}/{name}`, asked for `{task}`.\n")


def save_with_task(folder: Path, model: Path | None, net: CompactNet, notes: str) -> None:
    """Write the compact checkpoint `model` with the one task more that `net` has, the last, and the surface that it
    may have; `notes` go to the end of the model card. All else keeps its bytes, the router too. Raises UniresError."""
    model = SHIPPED if model is None else model
    with _damage(model):
        values = read_config(model) | {k: getattr(net.config, k) for k in ("tasks", "precision", "own")}
        tensors = load_file(model / "model.safetensors")
        mine = f"added.{len(net.added) - 1}", f"own.{net.config.tasks[-1]}."
        for key, value in net.state_dict().items():
            if key == mine[0] or key.startswith(mine[1]):
                tensors[key] = value.to(tensors["modulate.bias"]).contiguous()
        _copy_parts(model, folder)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n")
    with (folder / "README.md").open("a") as card:
        card.write(notes)


def _copy_parts(model: Path, folder: Path) -> None:
    """All that belongs to a checkpoint, and nothing else that lies there."""
    parts = [model / name for name in ("config.json", "model.safetensors", "README.md")]
    for path in (*parts, *model.glob("router.*")):
        if path.is_file():
            shutil.copyfile(path, folder / path.name)
    if (model / NETWORKS).is_dir():
        shutil.copytree(model / NETWORKS, folder / NETWORKS)


def save_net(net: CompactNet, folder: Path, kind: torch.dtype = torch.float16) -> None:
    """Write config.json and model.safetensors (in half precision unless asked otherwise)."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.to(kind).contiguous() for k, v in net.state_dict().items()}
    config = {"kind": "compact", **{k: getattr(net.config, k) for k in net.config.__dataclass_fields__}}
    (folder / "model.safetensors").write_bytes(save(tensors))
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def save_latent(net: LatentNet, folder: Path, unet: Mapping[str, Tensor] | None = None) -> None:
    """Write config.json and model.safetensors, in the number types that the model has. unet: its weights, where `net`
    has it wrapped up for training."""
    folder.mkdir(parents=True, exist_ok=True)
    own = net.unet.state_dict() if unet is None else unet
    rest = {k: v for k, v in net.state_dict().items() if not k.startswith("unet.")}
    tensors = {f"unet.{k}": v for k, v in own.items()} | rest
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    config = {"kind": "latent", **dataclasses.asdict(net.config)}
    save_file(tensors, folder / "model.safetensors.tmp")
    os.replace(folder / "model.safetensors.tmp", folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
