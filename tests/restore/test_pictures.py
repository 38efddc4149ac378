"""What comes in goes out: kinds, sizes, depths, transparency; and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from unires.denoise.compact_denoiser import CompactDenoiser
from unires.errors import UniresError
from unires.photo.tiles import Window, cut
from unires.restore.pictures import open_picture
from unires.restore.restorer import Restorer


@pytest.fixture
def restorer(tiny: CompactDenoiser) -> Restorer:
    return Restorer(tiny)


def grey16(mode: str = "I;16") -> Image.Image:
    values = np.random.default_rng(0).integers(0, 65536, (21, 30)).astype(np.uint16)
    return Image.frombytes("I;16", (30, 21), values.tobytes()) if mode == "I;16" else Image.fromarray(values)


def pil(astronaut: Any, mode: str) -> Image.Image:
    rgb = Image.fromarray(astronaut[:21, :30])
    if mode == "RGBA":
        rgb.putalpha(Image.linear_gradient("L").resize((30, 21)))
        return rgb
    if mode == "P transparent":
        picture = rgb.convert("P")
        picture.info["transparency"] = 3
        return picture
    if mode == "RGB transparent":
        rgb.info["transparency"] = tuple(int(v) for v in astronaut[0, 0])
        return rgb
    if mode == "I;16":
        return grey16()
    return rgb.convert(mode)


# mode in -> mode out when something was computed
MODES = {
    "L": "L", "RGB": "RGB", "RGBA": "RGBA", "P": "RGB", "P transparent": "RGBA", "RGB transparent": "RGBA",
    "1": "L", "LA": "RGBA", "I;16": "I;16",
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_pil(astronaut: Any, restorer: Restorer, mode: str) -> None:
    picture = pil(astronaut, mode)
    out = restorer(picture, weights="denoise")
    assert isinstance(out, Image.Image) and out.mode == MODES[mode] and out.size == (30, 21)
    assert restorer(picture, weights="denoise", scale=1.7).size == (51, 36)


@pytest.mark.parametrize("mode", MODES)
def test_pil_kept(astronaut: Any, restorer: Restorer, mode: str) -> None:
    picture = pil(astronaut, mode)
    kept = restorer(picture, weights="keep")
    assert kept.mode == picture.mode and kept.size == picture.size
    assert kept.tobytes() == picture.tobytes() and kept is not picture
    assert kept.info == picture.info


def arrays() -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(1)
    whole = rng.random((21, 30, 4))
    made: dict[str, np.ndarray[Any, Any]] = {}
    for name, channels in (("grey", 0), ("grey1", 1), ("rgb", 3), ("rgba", 4)):
        part = whole[..., 0] if not channels else whole[..., :channels]
        made |= {f"{name} uint8": np.rint(part * 255).astype(np.uint8)}
        made |= {f"{name} uint16": np.rint(part * 65535).astype(np.uint16)}
        made |= {f"{name} {k.__name__}": part.astype(k) for k in (np.float16, np.float32, np.float64)}
    made["rgb view"] = made["rgb uint8"][::-1, ::2]
    made["rgb fortran"] = np.asfortranarray(made["rgb uint16"])
    return made


@pytest.mark.parametrize("name", arrays())
def test_numpy(restorer: Restorer, name: str) -> None:
    picture = arrays()[name]
    before = picture.copy()
    out = restorer(picture, weights="denoise")
    assert type(out) is np.ndarray and out.dtype == picture.dtype and out.shape == picture.shape
    assert np.array_equal(picture, before)  # the original is left alone
    assert not np.array_equal(out, picture)
    kept = restorer(picture, weights="keep")
    assert np.array_equal(kept, picture) and kept.dtype == picture.dtype and not np.shares_memory(kept, picture)
    larger = restorer(picture, weights="denoise", scale=2)
    assert larger.shape[:2] == (2 * picture.shape[0], 2 * picture.shape[1]) and larger.shape[2:] == picture.shape[2:]


@pytest.mark.parametrize("kind", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 3, 21, 30), (2, 3, 9, 8), (3, 21, 30), (1, 1, 9, 8), (2, 4, 9, 8)])
def test_torch(restorer: Restorer, kind: torch.dtype, shape: tuple[int, ...]) -> None:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = (x * 255).to(kind) if kind == torch.uint8 else x.to(kind)
    before = x.clone()
    out = restorer(x, weights="denoise")
    assert out.dtype == kind and out.shape == x.shape and not torch.equal(out, x)
    assert torch.equal(x, before)
    kept = restorer(x, weights="keep")
    assert torch.equal(kept, x) and kept.data_ptr() != x.data_ptr()
    out.mul_(0)  # an ordinary tensor, free to be used further
    assert restorer(x, weights="denoise", scale=1.5).shape[-2:] == tuple(int(s * 1.5 + 0.5) for s in x.shape[-2:])


def test_all_kinds_agree(astronaut: Any, restorer: Restorer) -> None:
    """The same pixels, the same result, whatever they come in."""
    rgb = np.ascontiguousarray(astronaut[:24, :32])
    base = restorer(rgb, weights="denoise")
    assert np.array_equal(np.asarray(restorer(Image.fromarray(rgb), weights="denoise")), base)
    floats = restorer(rgb.astype(np.float32) / 255, weights="denoise")
    assert np.array_equal(np.rint(floats * 255).astype(np.uint8), base)
    deep = restorer(rgb.astype(np.uint16) * 257, weights="denoise")
    assert np.abs(deep / 257 - floats * 255).max() < 0.01  # with more levels than 256
    tensor = restorer(torch.from_numpy(rgb).permute(2, 0, 1)[None], weights="denoise")
    assert np.array_equal(tensor[0].permute(1, 2, 0).numpy(), base)


def test_transparency_is_kept_and_only_resized(restorer: Restorer) -> None:
    picture = arrays()["rgba uint8"]
    assert np.array_equal(restorer(picture, weights="denoise")[..., 3], picture[..., 3])
    flat = picture.copy()
    flat[..., 3] = 77
    assert (restorer(flat, weights="denoise", scale=1.6)[..., 3] == 77).all()


def test_grey_stays_grey_and_is_restored_as_grey_in_colour(restorer: Restorer) -> None:
    grey = arrays()["grey float32"]
    colour = restorer(np.repeat(grey[..., None], 3, axis=2), weights="denoise")
    assert np.abs(restorer(grey, weights="denoise") - colour.mean(axis=2)).max() < 1e-5


def test_values_stay_in_range(restorer: Restorer) -> None:
    out = restorer(np.random.default_rng(0).random((32, 32, 3)), weights="denoise=2,keep=-1")
    assert out.min() >= 0 and out.max() <= 1 and (out.min() == 0 or out.max() == 1)


@pytest.mark.parametrize(
    "picture",
    [
        None, "photo.jpg", 3, [[1, 2], [3, 4]],
        np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4, 3), np.uint8), np.zeros(5), np.zeros((2, 4, 4, 3)),
        np.zeros((4, 4, 3), np.int32), np.zeros((4, 4, 3), bool), np.zeros((4, 4, 3), complex),
        np.full((4, 4, 3), np.nan), np.full((4, 4), np.inf, np.float32),
        torch.zeros(4, 4), torch.zeros(1, 2, 4, 4), torch.zeros(1, 3, 0, 4), torch.zeros(1, 3, 4, 4).int(),
        torch.full((1, 3, 4, 4), float("nan")),
        Image.new("CMYK", (4, 4)), Image.new("F", (4, 4)), Image.new("HSV", (4, 4)),
    ],
    ids=lambda p: f"{type(p).__name__} {getattr(p, 'shape', getattr(p, 'mode', p))} {getattr(p, 'dtype', '')}",
)  # fmt: skip
def test_refusals(restorer: Restorer, picture: Any) -> None:
    with pytest.raises(UniresError) as refused:
        restorer(picture)
    assert str(refused.value).endswith(".") and "\n" not in str(refused.value)


@pytest.mark.parametrize("name", [n for n in arrays() if "16" in n or "uint8" in n])
def test_there_and_back_is_exact(name: str) -> None:
    picture = arrays()[name]
    opened = open_picture(picture)
    assert opened.shape == (1, 3, 21, 30) or "view" in name
    canvas = opened.canvas(*opened.shape[2:])
    for top in range(0, opened.shape[2], 4):
        window = Window(top, 0, min(4, opened.shape[2] - top), opened.shape[3])
        part = cut(opened, window)
        assert part.dtype == torch.float32 and part.shape == (1, 3, *window[2:])
        canvas.put(window, part)
    assert np.array_equal(canvas.close(), picture)
