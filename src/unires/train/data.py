"""Photos in memory and crops from them: all pixels lie in one tensor, a batch of crops is one gather."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unires.errors import UniresError, shown

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".avif", ".bmp"}


def photo_paths(folder: Path) -> list[Path]:
    """The photos below `folder`, sorted. Raises UniresError if there is none."""
    paths = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise UniresError(f"There is no photo in {folder}.")
    return paths


def load_pairs(folders: Sequence[str], smallest: int, device: torch.device) -> tuple[Atlas, Atlas]:
    """The clean and the degraded photos of the pairs NAME_gt, NAME_lq below `folders`, in the same order. Raises
    UniresError if there is none, or if one isn't whole."""
    clean = [p for folder in folders for p in photo_paths(Path(folder)) if p.stem.endswith("_gt")]
    if not clean:
        raise UniresError(f"There are no pairs NAME_lq, NAME_gt in {', '.join(map(shown, folders))}.")
    degraded = [p.with_name(p.name.replace("_gt.", "_lq.")) for p in clean]
    pair = Atlas.load(clean, smallest, device), Atlas.load(degraded, smallest, device)
    if not (torch.equal(pair[0].width, pair[1].width) and torch.equal(pair[0].height, pair[1].height)):
        raise UniresError(f"Pairs in {', '.join(map(shown, folders))} differ in size.")
    return pair


def load_rgb(path: Path) -> np.ndarray:
    """A photo as H x W x 3 uint8."""
    try:
        with Image.open(path) as image:
            return np.array(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UniresError(f"{path} can't be read as a photo: {error}.") from error


@dataclass
class Atlas:
    """Photos end to end: `pixels` (N x 3, uint8) in reading order; start, height and width of each."""

    pixels: Tensor
    start: Tensor
    height: Tensor
    width: Tensor

    @classmethod
    def load(cls, paths: list[Path], smallest: int, device: torch.device) -> Atlas:
        """Decode once. Photos with a side under `smallest` are left out."""
        with ThreadPoolExecutor() as pool:
            pictures = [p for p in pool.map(load_rgb, paths) if min(p.shape[:2]) >= smallest]
        if not pictures:
            raise UniresError(f"No training photo has both sides of at least {smallest} pixels.")
        heights = torch.tensor([p.shape[0] for p in pictures])
        widths = torch.tensor([p.shape[1] for p in pictures])
        start = torch.cat((torch.zeros(1, dtype=torch.long), (heights * widths).cumsum(0)[:-1]))
        flat = torch.cat([torch.from_numpy(p).reshape(-1, 3) for p in pictures])
        return cls(flat.to(device), start, heights, widths)

    def __len__(self) -> int:
        return len(self.start)

    def places(self, count: int, size: int, generator: torch.Generator) -> Tensor:
        """Where `count` random square crops lie, flipped and turned at random: indices, count x size x size, on the
        photos' device.

        Photos are drawn in proportion to their area, so that each pixel is equally likely."""
        area = (self.height * self.width).double()
        which = torch.multinomial(area, count, replacement=True, generator=generator)
        u = torch.rand(count, 2, generator=generator)
        top = (u[:, 0] * (self.height[which] - size + 1)).long()
        left = (u[:, 1] * (self.width[which] - size + 1)).long()
        flip_y, flip_x, turn = torch.randint(0, 2, (3, count, 1, 1), generator=generator).bool()
        first, row = self.start[which] + top * self.width[which] + left, self.width[which]
        flip_y, flip_x, turn, first, row = (
            v.view(-1, 1, 1).to(self.pixels.device) for v in (flip_y, flip_x, turn, first, row)
        )
        ramp = torch.arange(size, device=self.pixels.device)
        y, x = ramp.view(1, -1, 1).expand(count, size, size), ramp.view(1, 1, -1).expand(count, size, size)
        y, x = torch.where(turn, x, y), torch.where(turn, y, x)
        y, x = torch.where(flip_y, size - 1 - y, y), torch.where(flip_x, size - 1 - x, x)
        return first + y * row + x

    def crops(self, places: Tensor) -> Tensor:
        """The pixels there: B x 3 x size x size in [0, 1]."""
        return self.pixels[places].permute(0, 3, 1, 2).float() / 255
