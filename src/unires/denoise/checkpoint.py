"""Checkpoints: a folder with `config.json`, `model.safetensors` and a model card. Nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from unires.denoise.compact import CompactConfig, CompactDenoiser, CompactNet
from unires.denoise.interface import Denoiser
from unires.errors import OptionError, UniresError, shown

SHIPPED = Path(__file__).resolve().parent.parent / "weights"


def load_denoiser(folder: Path | None = None, device: str = "cpu", kind: torch.dtype | None = None) -> Denoiser:
    """The denoiser in a checkpoint folder (None: the shipped one). Raises UniresError in one sentence."""
    return CompactDenoiser(load_net(folder), device, kind)


def load_net(folder: Path | None = None) -> CompactNet:
    """The compact network in a checkpoint folder, in float32."""
    folder = SHIPPED if folder is None else Path(folder)
    if not folder.is_dir():
        raise UniresError(f"There is no checkpoint folder {shown(folder)}.")
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise UniresError(f"The checkpoint {shown(folder)} has no {name}.")
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        if config.pop("kind") != "compact":
            raise UniresError(f"The checkpoint {shown(folder)} is of a kind that this version does not know.")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
        net = CompactNet(CompactConfig(**values))
        weights = load_file(folder / "model.safetensors")
        net.load_state_dict({k: v.float() for k, v in weights.items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError, OptionError) as error:
        raise UniresError(f"The checkpoint {shown(folder)} is damaged: {_first_line(error)}.") from error
    except RuntimeError as error:
        raise UniresError(f"The weights of {shown(folder)} don't fit its config.json.") from error
    return net


def digest(folder: Path | None = None) -> str:
    """SHA-256 of a checkpoint's configuration and all weights in it: what results depend on. Raises UniresError."""
    where = SHIPPED if folder is None else folder
    total = hashlib.sha256()
    try:
        for file in (where / "config.json", where / "model.safetensors", *sorted(where.glob("router.*"))):
            total.update(file.read_bytes())
    except OSError as error:
        raise UniresError(f"The checkpoint {shown(where)} can't be read: {error.strerror}.") from error
    return total.hexdigest()


def save_net(net: CompactNet, folder: Path, kind: torch.dtype = torch.float16) -> None:
    """Write config.json and model.safetensors (in half precision unless asked otherwise)."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.to(kind).contiguous() for k, v in net.state_dict().items()}
    config = {"kind": "compact", **{k: getattr(net.config, k) for k in net.config.__dataclass_fields__}}
    (folder / "model.safetensors").write_bytes(save(tensors))
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
