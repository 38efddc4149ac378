"""Pictures of every kind to one kind of tensor and back: `PIL.Image`, `numpy` and `torch` in, the same out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unires.degrade import resample
from unires.errors import UniresError

Array = np.ndarray[Any, np.dtype[Any]]
Back = Callable[[Tensor], Any]
INTEGERS = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0}


def open_picture(image: Any) -> tuple[Tensor, Back]:
    """(pixels B x 3 x H x W, float32 in [0, 1]; a function that turns restored pixels into what came in).

    Takes PIL images (8-bit and 16-bit grey, RGB, RGBA, palette), numpy arrays (H x W or H x W x 1, 3 or 4;
    uint8, uint16, or float in [0, 1]) and torch tensors (B x C x H x W or C x H x W, float in [0, 1] or uint8).
    One channel stays one, a fourth is transparency: it is kept, and resized if the size changes.
    Raises UniresError for anything else."""
    if isinstance(image, Tensor):
        return _from_torch(image)
    if isinstance(image, np.ndarray):
        return _from_numpy(image)
    if type(image).__module__.startswith("PIL.") or hasattr(image, "getbands"):
        return _from_pil(image)
    raise UniresError(f"A picture is a PIL image, a numpy array or a torch tensor, not {type(image).__name__}.")


def _from_torch(image: Tensor) -> tuple[Tensor, Back]:
    x = image if image.dim() == 4 else image[None]
    if x.dim() != 4 or x.shape[1] not in (1, 3, 4) or 0 in x.shape:
        raise UniresError(f"A torch picture is batch x 1, 3 or 4 x height x width, not {tuple(image.shape)}.")
    whole = x.dtype == torch.uint8
    if not whole and not x.is_floating_point():
        raise UniresError(f"A torch picture is of floats in [0, 1] or of uint8, not of {image.dtype}.")
    full = x.to(torch.float32) / (255 if whole else 1)
    pixels, close = _split(full)

    def back(y: Tensor) -> Tensor:
        out: Tensor = close(y).to(x.device)
        out = (out * 255).round().to(torch.uint8) if whole else out.to(x.dtype)
        return out if image.dim() == 4 else out[0]

    return pixels, back


def _from_numpy(image: Array) -> tuple[Tensor, Back]:
    flat = image.ndim == 2
    x = image[..., None] if flat else image
    if x.ndim != 3 or x.shape[2] not in (1, 3, 4) or 0 in x.shape:
        raise UniresError(f"A numpy picture is height x width (x 1, 3 or 4), not {image.shape}.")
    if x.dtype not in INTEGERS and not np.issubdtype(x.dtype, np.floating):
        raise UniresError(f"A numpy picture is of uint8, uint16 or floats in [0, 1], not of {image.dtype}.")
    most = INTEGERS.get(x.dtype, 1.0)
    full = torch.from_numpy(np.ascontiguousarray(x.transpose(2, 0, 1)).astype(np.float32) / np.float32(most))
    pixels, close = _split(full[None])

    def back(y: Tensor) -> Array:
        out: Array = close(y)[0].permute(1, 2, 0).cpu().numpy()
        if x.dtype in INTEGERS:
            out = np.rint(out * np.float32(most))
        out = out.astype(x.dtype)
        return out[..., 0] if flat else out

    return pixels, back


def _from_pil(image: Any) -> tuple[Tensor, Back]:
    from PIL import Image

    if image.mode in ("I;16", "I;16L", "I;16B"):
        pixels, inner = _from_numpy(np.asarray(image).astype(np.uint16))
        return pixels, lambda y: Image.fromarray(inner(y))
    if image.mode not in ("L", "RGB", "RGBA", "P", "1", "LA", "PA"):
        raise UniresError(f"PIL images of mode {image.mode} can't be restored; convert it to RGB first.")
    has_alpha = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    if image.mode == "1":
        plain = image.convert("L")
    elif has_alpha:
        plain = image if image.mode == "RGBA" else image.convert("RGBA")
    else:
        plain = image if image.mode in ("L", "RGB") else image.convert("RGB")
    pixels, inner = _from_numpy(np.array(plain))

    def back(y: Tensor) -> Any:
        out = Image.fromarray(inner(y))
        out.info = {k: v for k, v in image.info.items() if k != "transparency"}
        return out

    return pixels, back


def _split(full: Tensor) -> tuple[Tensor, Back]:
    """Colour for the network, and a function that puts greyness and transparency back. Clips to [0, 1]."""
    if not bool(torch.isfinite(full).all()):
        raise UniresError("The picture holds values that are no numbers (NaN or infinite).")
    channels = full.shape[1]
    alpha = full[:, 3:] if channels == 4 else None
    colour = full.expand(-1, 3, -1, -1) if channels == 1 else full[:, :3]

    def close(y: Tensor) -> Tensor:
        out = y.clamp(0, 1)
        if channels == 1:
            out = out.mean(dim=1, keepdim=True)
        if alpha is not None:
            size = y.shape[-2], y.shape[-1]
            same = size == tuple(alpha.shape[-2:])
            mask = alpha if same else resample.resize(alpha, size).clamp(0, 1)
            out = torch.cat((out, mask.to(out)), dim=1)
        return out

    return colour, close
