"""What a run leaves in its folder, to be gone on with."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

STATE = "training.safetensors"


def read_state(folder: Path) -> dict[str, Any]:
    """Step, seconds and configuration of the run in a folder."""
    with safe_open(folder / STATE, "pt") as file:
        state: dict[str, Any] = json.loads(file.metadata()["state"])
    return state


def as_bytes(tensors: dict[str, Tensor], notes: dict[str, str] | None = None) -> bytes:
    """Tensors as a safetensors file."""
    return save({k: v.contiguous() for k, v in tensors.items()}, notes)


def write(folder: Path, files: dict[str, bytes]) -> None:
    """Each whole or not at all, in this order."""
    for name, content in files.items():
        with (folder / f"{name}.tmp").open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(folder / f"{name}.tmp", folder / name)
