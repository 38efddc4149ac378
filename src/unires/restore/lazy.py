"""Pictures that are never whole: each gives float32 tensors where parts are cut from it (see `resample.Sliced`).

A photo of 100 megapixels takes 1.2 GB as float32, and sampling would hold several of that size. So pixels stay as they
came, and what derives from them - enlarged, reduced, noised, the state between two steps - is made a tile at a time."""

from __future__ import annotations

import tempfile
from types import EllipsisType

import numpy as np
import torch
from torch import Tensor

from unires.compose.conditions import Conditions
from unires.degrade import resample
from unires.degrade.resample import Sliced
from unires.denoise.interface import Denoiser
from unires.errors import UniresError
from unires.photo.tiles import Window, cut

Key = tuple[EllipsisType, slice, slice]  # [..., rows, columns]


class Resized:
    """`picture` in another size; clipped to [0, 1], as kernels overshoot."""

    def __init__(self, picture: Sliced, size: tuple[int, int], kernel: str, clip: bool = True) -> None:
        self.picture, self.kernel, self.clip = picture, kernel, clip
        self.shape = (*picture.shape[:2], *size)

    def __getitem__(self, key: Key) -> Tensor:
        out = resample.part(self.picture, (self.shape[-2], self.shape[-1]), self.kernel, *key[1:])
        return out.clamp_(0, 1) if self.clip else out


class WindowConditions(Conditions):
    """The conditions of one window, cut from those of the whole picture: what is reduced has its phase."""

    def __init__(self, denoiser: Denoiser, picture: Sliced, window: Window) -> None:
        super().__init__(denoiser, cut(picture, window))
        self.picture, self.window = picture, window

    def _reduced(self, name: str) -> Tensor:
        if name == "lq":
            return self.pixels
        height, width = self.picture.shape[-2:]
        size = resample.reduced_size(height, width, float(name.removeprefix("down")))
        small = Resized(self.picture, size, "area")
        part: Tensor = cut(Resized(small, (height, width), "bicubic"), self.window)
        return part


class Noise:
    """Unit Gaussian noise, the same wherever and in whatever parts it is cut.

    Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") needs no state but a counter: each block
    of BLOCK x BLOCK pixels has its own stretch of it. All pictures of a batch get the same noise."""

    BLOCK = 128

    def __init__(self, seed: int, shape: tuple[int, ...]) -> None:
        """seed: 64 bits, signed. shape: B x C x H x W."""
        self.seed, self.shape = seed % 2**64, shape

    def __getitem__(self, key: Key) -> Tensor:
        count, channels, *size = self.shape
        (y0, y1), (x0, x1) = (k.indices(n)[:2] for k, n in zip(key[1:], size, strict=True))
        step = self.BLOCK
        top, left = y0 // step, x0 // step
        rows = [
            np.concatenate([self._block(channels, y, x) for x in range(left, -(-x1 // step))], axis=2)
            for y in range(top, -(-y1 // step))
        ]
        field = np.concatenate(rows, axis=1)
        part = field[:, y0 - top * step : y1 - top * step, x0 - left * step : x1 - left * step]
        return torch.from_numpy(part).expand(count, -1, -1, -1)

    def _block(self, channels: int, y: int, x: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        generator = np.random.Generator(np.random.Philox(key=self.seed, counter=[0, 0, y, x]))
        return generator.standard_normal((channels, self.BLOCK, self.BLOCK), dtype=np.float32)


class Scratch:
    """A picture between two steps, kept in a file that has no name and is gone with the process.

    Pixels lie along the shorter side, as strips of tiles do (`TilePlan`)."""

    def __init__(self, shape: tuple[int, ...], exact: bool = False) -> None:
        """shape: B x C x H x W; exact: as float32, for what may go out as it is; else as float16. Raises UniresError
        where there is no room for the file."""
        self.shape, self.kind = shape, torch.float32 if exact else torch.float16
        self.file = tempfile.TemporaryFile(prefix="unires-")  # noqa: SIM115 (open as long as this object is)
        self._upright = shape[-2] >= shape[-1]

    def put(self, window: Window, values: Tensor) -> None:
        """values: B x C x height x width of a window; one that reaches from side to side is written at once. Raises
        UniresError where there is no room."""
        lines = self._turned(values).permute(2, 3, 0, 1).to("cpu", self.kind).contiguous()
        first, aside = (window.top, window.left) if self._upright else (window.left, window.top)
        pieces = lines[None] if lines.shape[1] == min(self.shape[-2:]) else lines
        try:
            for i, piece in enumerate(pieces):
                self.file.seek((first + i) * self._line + aside * self._pixel)
                self.file.write(piece.numpy().data)
        except OSError as error:
            place = tempfile.gettempdir()
            raise UniresError(
                f"There is not enough room in {place} for what several steps need ({error.strerror}); "
                "set TMPDIR to another folder."
            ) from error

    def __getitem__(self, key: Key) -> Tensor:
        (y0, y1), (x0, x1) = (k.indices(n)[:2] for k, n in zip(key[1:], self.shape[-2:], strict=True))
        (a0, a1), (b0, b1) = ((y0, y1), (x0, x1)) if self._upright else ((x0, x1), (y0, y1))
        lines = torch.empty((a1 - a0, b1 - b0, *self.shape[:2]), dtype=self.kind)
        for line, a in zip(lines.numpy(), range(a0, a1), strict=True):
            self.file.seek(a * self._line + b0 * self._pixel)
            self.file.readinto(line.data)
        return self._turned(lines.permute(2, 3, 0, 1)).float()

    def _turned(self, part: Tensor) -> Tensor:
        return part if self._upright else part.transpose(-1, -2)

    @property
    def _pixel(self) -> int:
        """Bytes a pixel."""
        return self.kind.itemsize * self.shape[0] * self.shape[1]

    @property
    def _line(self) -> int:
        """Bytes a line of the shorter side."""
        return self._pixel * min(self.shape[-2:])
