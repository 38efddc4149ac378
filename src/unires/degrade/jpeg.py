"""JPEG, twice: the real encoder (libjpeg through Pillow), and its arithmetic in torch for pairs made on a GPU."""

from __future__ import annotations

import functools
import io
import math

import torch
import torch.nn.functional as F
from torch import Tensor

# ITU-T T.81, annex K.1: the tables that libjpeg scales by quality
_LUMA = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"""
_CHROMA = """17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99
99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99"""
# JFIF: full-range BT.601
TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))


def encode_decode(pixels: Tensor, quality: list[int], subsampling: list[str]) -> Tensor:
    """Through the real encoder and decoder. pixels: B x 3 x H x W in [0, 1]; quality 1 to 100 and
    subsampling "4:4:4" or "4:2:0" for each of the B. The result is 8-bit valued."""
    import numpy as np
    from PIL import Image

    out = torch.empty_like(pixels)
    data = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    for i, picture in enumerate(data):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", quality=quality[i], subsampling=subsampling[i])
        with Image.open(buffer) as decoded:
            out[i] = torch.from_numpy(np.array(decoded)).permute(2, 0, 1).to(pixels) / 255
    return out


@functools.lru_cache(maxsize=4)
def _constants(device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tables = torch.tensor([[int(v) for v in t.split()] for t in (_LUMA, _CHROMA)], dtype=torch.float32)
    ycc, rgb = torch.tensor(TO_YCC), torch.tensor(TO_RGB)
    return tables.view(2, 8, 8).to(device), waves().to(device), ycc.to(device), rgb.to(device)


def waves() -> Tensor:
    """The cosines of a block, 8 x 8, orthonormal: `waves() @ block @ waves().T` are its coefficients."""
    k = torch.arange(8, dtype=torch.float64)
    dct = torch.cos((2 * k[None, :] + 1) * k[:, None] * math.pi / 16) / 2
    dct[0] /= math.sqrt(2)
    return dct.float()


def tables(quality: Tensor) -> Tensor:
    """Steps of quantisation that libjpeg has for qualities (B, 1 to 100): B x 2 x 8 x 8, of brightness and colour."""
    q = quality.float().clamp(1, 100)
    factor = torch.where(q < 50, torch.floor(5000 / q), 200 - 2 * q)
    usual = _constants(quality.device)[0]
    return torch.floor((usual[None] * factor[:, None, None, None] + 50) / 100).clamp(1, 255)


def _blocks(plane: Tensor, table: Tensor, dct: Tensor) -> Tensor:
    """Quantise B x C x H x W planes (sides multiples of 8, values around zero) in the DCT domain."""
    b, c, h, w = plane.shape
    x = plane.view(b, c, h // 8, 8, w // 8, 8).transpose(3, 4)
    step = table[:, None, None, None]
    coefficients = torch.round(dct @ x @ dct.T / step) * step
    return (dct.T @ coefficients @ dct).transpose(3, 4).reshape(b, c, h, w)


def _enlarge2(plane: Tensor) -> Tensor:
    """libjpeg's "fancy" upsampling: a triangle filter, 3/4 of the nearer and 1/4 of the further sample."""
    return F.interpolate(plane, scale_factor=2, mode="bilinear", align_corners=False)


def simulate(pixels: Tensor, quality: Tensor, subsampled: Tensor) -> Tensor:
    """The same in torch, on any device, batched. quality: B; subsampled: B booleans (4:2:0 where true).

    Agrees with `encode_decode` within 1/255 on average (a test holds it to that): what differs is the
    integer arithmetic of libjpeg's transforms."""
    _, dct, ycc, rgb = _constants(pixels.device)
    h, w = pixels.shape[-2:]
    x = F.pad((pixels.clamp(0, 1) * 255).round(), (0, -w % 16, 0, -h % 16), mode="replicate")
    table = tables(quality.to(pixels))
    planes = torch.einsum("ij,bjhw->bihw", ycc, x).round()
    luma = _blocks(planes[:, :1] - 128, table[:, 0], dct) + 128
    full, half = planes[:, 1:], F.avg_pool2d(planes[:, 1:], 2)
    chroma = _blocks(full, table[:, 1], dct).clamp(-128, 127).round()
    coarse = _enlarge2(_blocks(half.round(), table[:, 1], dct).clamp(-128, 127).round())
    chroma = torch.where(subsampled.view(-1, 1, 1, 1), coarse, chroma)
    out = torch.einsum("ij,bjhw->bihw", rgb, torch.cat((luma.clamp(0, 255).round(), chroma), dim=1))
    return out.round().clamp(0, 255)[..., :h, :w] / 255
