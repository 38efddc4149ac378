"""What a photo is known to have been made from is kept to in tiles as it is in one piece."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unires.compose import cells
from unires.compose.experts import Expert
from unires.compose.grid import Axis, Grid
from unires.compose.origin import Origin
from unires.compose.router import Router, RouterConfig
from unires.compose.weights import Weights
from unires.degrade import isolated, jpeg, resample
from unires.denoise.interface import Facts, Hint
from unires.errors import UniresError
from unires.photo.tiles import Window
from unires.restore.pictures import Canvas, open_picture
from unires.restore.restorer import Restorer
from unires.restore.tiled import Sampling

TASKS = ("dejpeg", "super-resolution")


class Fading:
    """A denoiser that looks at no neighbours, so that tiles may differ by what is kept alone."""

    facts = Facts(TASKS, 3, 1, 16, 16, 0, "float32")

    def encode(self, pixels: Tensor) -> Tensor:
        return pixels * 2 - 1

    def decode(self, x: Tensor) -> Tensor:
        return (x + 1) / 2

    def predict(
        self, z: Tensor, t: float, condition: Tensor | None, tasks: Sequence[str],
        hints: Sequence[Hint | None] | None = None,
    ) -> Tensor:
        assert condition is not None
        return condition * 0.9


def restored(lq: Tensor, task: str, origin: Origin, tile: int) -> Tensor:
    out = torch.full_like(lq, torch.nan)

    def put(window: Window, values: Tensor) -> None:
        rows, columns = (slice(a, a + n) for a, n in ((window.top, window.height), (window.left, window.width)))
        out[..., rows, columns] = values[..., : out[..., rows, :].shape[-2], : out[..., columns].shape[-1]]

    sampling = Sampling(Fading(), "cpu", Weights.parse(task, TASKS), 1, {}, tile=tile, origin=origin)
    assert (sampling(lq, put, lambda share: None) > 1) == (tile < max(lq.shape))
    return out


# sides that are multiples of 16 and such that are not: the last tile then reaches beyond the photo
SIZES = [(96, 112), (90, 112), (96, 108), (95, 111), (60, 200), (131, 70)]


@pytest.mark.parametrize("size", SIZES)
def test_jpeg_s_cells(size: tuple[int, int]) -> None:
    coarse = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    lq = jpeg.encode_decode(resample.resize(coarse, size).clamp(0, 1), [50], ["4:2:0"])
    found = cells.Cells(50, 2, *(Axis((side + 1) // 2, (side + 1) // 2 * 2) for side in size))
    whole, tiles = (restored(lq, "dejpeg", Origin(cells=found), tile) for tile in (4096, 64))
    assert float((whole - (lq * 0.9 + 0.05)).abs().mean()) > 0.01  # it is kept to them
    torch.testing.assert_close(tiles, whole, atol=2e-3, rtol=0)


@pytest.mark.parametrize("size", SIZES)
def test_the_small_photo(size: tuple[int, int]) -> None:
    small = torch.rand(1, 3, size[0] // 2, size[1] // 2, generator=torch.Generator().manual_seed(1))
    lq = resample.resize(small, size, "bicubic").clamp(0, 1)
    origin = Origin(Grid(*(Axis(side // 2, side) for side in size), reduced_by="bicubic"))
    whole, tiles = (restored(lq, "super-resolution", origin, tile) for tile in (4096, 64))
    assert float((whole - (lq * 0.9 + 0.05)).abs().mean()) > 0.01
    torch.testing.assert_close(tiles, whole, atol=5e-3, rtol=0)


def test_weight_maps() -> None:
    """An expert that has no weight in a tile counts there as it does elsewhere."""
    lq = torch.rand(1, 3, 64, 192, generator=torch.Generator().manual_seed(1))
    left = (torch.arange(192) < 96).float().expand(64, 192)
    experts = tuple(Expert.parse(name, TASKS) for name in ("dejpeg", "super-resolution@relay"))
    weights = Weights(experts, torch.stack([torch.stack((1 - left, left)), torch.stack((1 - left, left))]))

    def both(tile: int) -> Tensor:
        out = torch.empty_like(lq)

        def put(window: Window, values: Tensor) -> None:
            rows, columns = slice(window.top, window.top + 64), slice(window.left, window.left + window.width)
            out[..., rows, columns] = values

        Sampling(Guessing(), "cpu", weights, 2, {}, tile=tile)(lq, put, lambda share: None)
        return out

    torch.testing.assert_close(both(64), both(4096), atol=2e-3, rtol=0)


class Guessing(Fading):
    """Says another thing at another time, so that what starts afresh differs from what goes on."""

    def predict(
        self, z: Tensor, t: float, condition: Tensor | None, tasks: Sequence[str],
        hints: Sequence[Hint | None] | None = None,
    ) -> Tensor:
        assert condition is not None
        return condition * (0.5 + 0.4 * t) + 0.1 * z


def test_a_large_photo_s_small_one_is_looked_at() -> None:
    """Whether few pixels are all that is soft about it, its centre tells, whose ends are cut."""
    router = Router(RouterConfig(isolated.TASKS, ((("denoise", "keep"),),), 16, 8)).eval().requires_grad_(False)
    small = torch.rand(1, 3, 32, 600, generator=torch.Generator().manual_seed(1))
    for width in (1000, 1040, 1200):
        lq = resample.resize(small[..., : width // 2], (64, width), "bicubic").clamp(0, 1)
        soft = router._soft(lq, Grid(Axis(32, 64), Axis(width // 2, width)))
        assert soft is not None and 0 <= soft <= 1


@pytest.mark.parametrize("size", [(250, 430), (256, 425)])
def test_a_jpeg_in_tiles_is_the_jpeg_in_one_piece(astronaut: Any, size: tuple[int, int]) -> None:
    """By the shipped model, whatever its router makes of it."""
    x = torch.from_numpy(astronaut[: size[0], 40 : 40 + size[1]].copy()).permute(2, 0, 1)[None] / 255
    lq = (jpeg.encode_decode(x, [30], ["4:2:0"])[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    restorer = Restorer.from_pretrained(device="cpu", number_type=torch.float32)
    whole, tiles = (restorer(lq, tile=tile).astype(float) for tile in (1024, 256))
    assert restorer.report is not None and restorer.report.tiles > 1 and "dejpeg" in str(restorer.report.weights)
    assert np.abs(whole - lq).mean() > 0.5 and np.abs(tiles - whole).max() <= 3


def test_what_is_no_number_is_not_kept(astronaut: Any) -> None:
    canvas = Canvas(open_picture(astronaut[:8, :8].copy()), 8, 8)
    canvas.put(Window(0, 0, 8, 4), torch.zeros(1, 3, 8, 4))
    with pytest.raises(UniresError, match="no numbers"):
        canvas.put(Window(0, 4, 8, 4), torch.full((1, 3, 8, 4), torch.nan))
