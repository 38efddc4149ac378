"""Pictures of every kind, read and written in parts: `PIL.Image`, `numpy` and `torch` in, the same out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from unires.degrade.resample import Sliced
from unires.errors import UniresError
from unires.photo.tiles import Window
from unires.restore.lazy import Key, Resized

Array = np.ndarray[Any, np.dtype[Any]]
INTEGERS = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0}
_BAND = 256  # rows that are converted at once


class Store(Sliced, Protocol):
    """Samples of some kind: parts come out as float32 in [0, 1], B x C x h x w, and go in as such."""

    def put(self, rows: slice, columns: slice, part: Tensor) -> None: ...

    def empty(self, height: int, width: int) -> Store:
        """Another of the same kind, number type and channels."""
        ...


@dataclass(frozen=True)
class Picture:
    """What came in, and how a result of the same kind is made.

    One channel stays one; a fourth is transparency: it is kept, and resized if the size changes."""

    store: Store
    same: Callable[[], Any]  # a copy of what came in
    close: Callable[[Any], Any]  # from a filled store to what goes out

    @property
    def shape(self) -> tuple[int, ...]:
        """B x 3 x H x W."""
        return (self.store.shape[0], 3, *self.store.shape[2:])

    def __getitem__(self, key: Key) -> Tensor:
        """Colours for the network, float32 in [0, 1]."""
        part = self.store[key]
        return part.expand(-1, 3, -1, -1) if part.shape[1] == 1 else part[:, :3]

    def canvas(self, height: int, width: int) -> Canvas:
        """For a result of this size."""
        return Canvas(self, height, width)


class Canvas:
    """A result that is filled part by part. Values are clipped to [0, 1] and, in whole numbers, rounded."""

    def __init__(self, picture: Picture, height: int, width: int) -> None:
        self.picture, self.store = picture, picture.store.empty(height, width)
        self.alpha: Sliced | None = None
        if picture.store.shape[1] == 4:
            self.alpha = _Channel(picture.store, 3)
            if self.alpha.shape[-2:] != (height, width):
                self.alpha = Resized(self.alpha, (height, width), "bicubic")

    def put(self, window: Window, pixels: Tensor) -> None:
        """pixels: B x 3 x height x width. Raises UniresError for values that are no numbers."""
        if not bool(torch.isfinite(pixels).all()):
            raise UniresError("What was computed for the picture holds values that are no numbers; nothing is kept.")
        rows = slice(window.top, window.top + window.height)
        columns = slice(window.left, window.left + window.width)
        part = pixels.clamp(0, 1)
        if self.store.shape[1] == 1:
            part = part.mean(dim=1, keepdim=True)
        if self.alpha is not None:
            part = torch.cat((part, self.alpha[..., rows, columns].to(part)), dim=1)
        self.store.put(rows, columns, part)

    def close(self) -> Any:
        """What goes out."""
        return self.picture.close(self.store)


def open_picture(image: Any) -> Picture:
    """Takes PIL images (8-bit and 16-bit grey, RGB, RGBA, palette), numpy arrays (H x W or H x W x 1, 3 or 4;
    uint8, uint16, or float in [0, 1]) and torch tensors (B x C x H x W or C x H x W, float in [0, 1] or uint8).
    Raises UniresError for anything else."""
    if isinstance(image, Tensor):
        return _from_torch(image)
    if isinstance(image, np.ndarray):
        return _from_numpy(image)
    if type(image).__module__.startswith("PIL.") or hasattr(image, "getbands"):
        return _from_pil(image)
    raise UniresError(f"A picture is a PIL image, a numpy array or a torch tensor, not {type(image).__name__}.")


class _Channel:
    """One channel of a store."""

    def __init__(self, store: Store, index: int) -> None:
        self.store, self.index = store, index
        self.shape = (store.shape[0], 1, *store.shape[2:])

    def __getitem__(self, key: Key) -> Tensor:
        return self.store[key][:, self.index : self.index + 1]


class _Tensors:
    """B x C x H x W of floats or uint8."""

    def __init__(self, values: Tensor) -> None:
        self.values, self.shape = values, tuple(values.shape)
        self.most = 1 if values.is_floating_point() else 255

    def __getitem__(self, key: Key) -> Tensor:
        part = self.values[key]
        return part.to(torch.float32) / self.most if self.most != 1 else part.to(torch.float32)

    def put(self, rows: slice, columns: slice, part: Tensor) -> None:
        self.values[..., rows, columns] = (part * self.most).round() if self.most != 1 else part

    def empty(self, height: int, width: int) -> _Tensors:
        return _Tensors(self.values.new_empty(*self.shape[:2], height, width))


class _Arrays:
    """H x W x C of floats, uint8 or uint16."""

    def __init__(self, values: Array) -> None:
        self.values = values
        self.shape = (1, values.shape[2], *values.shape[:2])
        self.most = INTEGERS.get(values.dtype, 1.0)

    def __getitem__(self, key: Key) -> Tensor:
        part = self.values[key[1:]].transpose(2, 0, 1).astype(np.float32, order="C")
        return torch.from_numpy(part)[None].div_(self.most)

    def put(self, rows: slice, columns: slice, part: Tensor) -> None:
        values = part[0].permute(1, 2, 0).cpu().numpy()
        whole = self.values.dtype in INTEGERS
        self.values[rows, columns] = np.rint(values * np.float32(self.most)) if whole else values

    def empty(self, height: int, width: int) -> _Arrays:
        return _Arrays(np.empty((height, width, self.shape[1]), self.values.dtype))


def _from_torch(image: Tensor) -> Picture:
    x = image if image.dim() == 4 else image[None]
    if x.dim() != 4 or x.shape[1] not in (1, 3, 4) or 0 in x.shape:
        raise UniresError(f"A torch picture is batch x 1, 3 or 4 x height x width, not {tuple(image.shape)}.")
    if x.dtype != torch.uint8 and not x.is_floating_point():
        raise UniresError(f"A torch picture is of floats in [0, 1] or of uint8, not of {image.dtype}.")
    if x.is_floating_point():
        _check_finite(bool(torch.isfinite(x).all()))

    def close(store: _Tensors) -> Tensor:
        return store.values if image.dim() == 4 else store.values[0]

    return Picture(_Tensors(x), image.clone, close)


def _from_numpy(image: Array) -> Picture:
    flat = image.ndim == 2
    x = image[..., None] if flat else image
    if x.ndim != 3 or x.shape[2] not in (1, 3, 4) or 0 in x.shape:
        raise UniresError(f"A numpy picture is height x width (x 1, 3 or 4), not {image.shape}.")
    if x.dtype not in INTEGERS and not np.issubdtype(x.dtype, np.floating):
        raise UniresError(f"A numpy picture is of uint8, uint16 or floats in [0, 1], not of {image.dtype}.")
    if x.dtype not in INTEGERS:
        _check_finite(all(np.isfinite(x[y : y + _BAND]).all() for y in range(0, len(x), _BAND)))

    def close(store: _Arrays) -> Array:
        return store.values[..., 0] if flat else store.values

    return Picture(_Arrays(x), image.copy, close)


def _from_pil(image: Any) -> Picture:
    from PIL import Image

    from unires.photo.codecs import samples_of

    if image.mode in ("I;16", "I;16L", "I;16B"):
        inner = _from_numpy(np.asarray(image).astype(np.uint16))
        return Picture(inner.store, image.copy, lambda store: Image.fromarray(inner.close(store)))
    if image.mode not in ("L", "RGB", "RGBA", "P", "1", "LA", "PA"):
        raise UniresError(f"PIL images of mode {image.mode} can't be restored; convert it to RGB first.")
    has_alpha = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    if image.mode == "1":
        plain = image.convert("L")
    elif has_alpha:
        plain = image if image.mode == "RGBA" else image.convert("RGBA")
    else:
        plain = image if image.mode in ("L", "RGB") else image.convert("RGB")
    inner = _from_numpy(samples_of(plain))

    def close(store: Any) -> Any:
        out = Image.fromarray(inner.close(store))
        out.info = {k: v for k, v in image.info.items() if k != "transparency"}
        return out

    return Picture(inner.store, image.copy, close)


def _check_finite(finite: bool) -> None:
    if not finite:
        raise UniresError("The picture holds values that are no numbers (NaN or infinite).")
