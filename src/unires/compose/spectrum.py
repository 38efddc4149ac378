"""What a degradation leaves in the power spectrum and on the grid of JPEG's blocks, place by place.

A blur's transfer function has zeros whose frequencies are its size (a disc of radius r: 0.61 / r, Airy; a path of
length L: 1 / L along it); noise is a floor; reduction is an edge beyond which nothing is; between JPEG's blocks pixels
differ more than within. Content varies from place to place, these don't: averaged over a photo, they stay."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from unires.degrade.jpeg import TO_YCC

CELL = 32  # pixels a side of a place
WINDOW = 64  # pixels a side that are looked at around it,
FINE = 128  # and where long blurs shall be told apart: their zeros lie close to each other
RINGS, SECTORS, SECTOR_RINGS, AXIS = 34, 8, 16, 32
BLOCK = 8
ROWS = 4  # of places whose spectra are computed at a time: what the processor's cache holds
FEATURES = 3 * RINGS + SECTORS * SECTOR_RINGS + 2 * AXIS + 2 * BLOCK
FLOOR = 0.02  # of power, in squared levels of 255: a quarter of what rounding to 8 bits adds


@functools.cache
@torch.inference_mode(False)  # kept for good, and gradients may pass through it later
def _bins() -> tuple[Tensor, Tensor, Tensor]:
    """Averaging matrices from the WINDOW x (WINDOW / 2 + 1) frequencies: to rings, to sectors of rings, to the axes."""
    fy = torch.fft.fftfreq(WINDOW)[:, None] * WINDOW
    fx = torch.fft.rfftfreq(WINDOW)[None, :] * WINDOW
    radius = (fx.square() + fy.square()).sqrt().flatten()
    angle = torch.atan2(fy, fx).flatten()  # -pi/2 to pi/2: the other half mirrors it
    ring = radius.round().long().clamp(max=RINGS - 1)
    sector = ((angle / torch.pi + 0.5) * SECTORS + 0.5).long() % SECTORS  # the axes lie in the middle of theirs
    wide = ((radius / (WINDOW / 2)).sqrt() * SECTOR_RINGS).long().clamp(max=SECTOR_RINGS - 1)
    wide = sector * SECTOR_RINGS + wide
    across, along = (fy.abs() <= 1).expand(-1, fx.shape[1]).flatten(), (fx.abs() <= 1).expand(WINDOW, -1).flatten()
    column = fx.expand(WINDOW, -1).flatten().long() - 1
    row = fy.abs().expand(-1, fx.shape[1]).flatten().long() - 1

    def mean(index: Tensor, count: int, members: Tensor) -> Tensor:
        chosen = F.one_hot(index.clamp(0, count - 1), count).float() * members[:, None]
        return chosen / chosen.sum(dim=0).clamp(min=1)

    there = radius > 0
    axes = mean(column, AXIS, across & (column >= 0)), mean(row, AXIS, along & (row >= 0))
    return mean(ring, RINGS, there), mean(wide, SECTORS * SECTOR_RINGS, there), torch.cat(axes, dim=1)


def spectra(pixels: Tensor) -> Tensor:
    """B x 3 x H x W in [0, 1] to B x FEATURES x ceil(H / CELL) x ceil(W / CELL): log mean power in bins of frequency;
    then the log mean difference of neighbours, by column and by row modulo BLOCK.

    Windows (Hann) are centred on the cells and reach beyond them; power is in squared levels of 255 (white noise of
    sigma s has s^2 in every bin)."""
    height, width = pixels.shape[-2:]
    x = torch.einsum("kc,bchw->bkhw", torch.tensor(TO_YCC, device=pixels.device), pixels * 255)
    x = F.pad(x, (0, -width % CELL, 0, -height % CELL), "replicate")
    edge = (WINDOW - CELL) // 2
    windows = F.pad(x, (edge,) * 4, "replicate").unfold(-2, WINDOW, CELL).unfold(-2, WINDOW, CELL)
    means = torch.cat([_binned(some) for some in torch.split(windows, ROWS, dim=2)], dim=2)
    return torch.cat((means + FLOOR, _steps(x[:, 0]), _steps(x[:, 0].mT).mT), dim=1).log()


def _binned(windows: Tensor) -> Tensor:
    """B x 3 x h x w x WINDOW x WINDOW to the mean power in each bin, B x (rings of three, sectors, axes) x h x w."""
    power = _power(windows).flatten(-2)
    rings, sectors, axes = (m.to(power.device) for m in _bins())
    parts = [(power @ rings).permute(0, 1, 4, 2, 3).flatten(1, 2)]
    return torch.cat(parts + [(power[:, 0] @ m).permute(0, 3, 1, 2) for m in (sectors, axes)], dim=1)


def _power(windows: Tensor) -> Tensor:
    """... x n x n to ... x n x (n / 2 + 1): power spectra of windows (Hann), less their mean level."""
    line = torch.hann_window(windows.shape[-1], device=windows.device)
    hann = line[:, None] * line
    level = (windows * hann).sum(dim=(-2, -1), keepdim=True) / hann.sum()
    waves = torch.fft.rfft2((windows - level) * hann)
    power: Tensor = (waves.real.square() + waves.imag.square()) / hann.square().sum()  # abs() takes four times as long
    return power


ALL = slice(None), slice(None)


def light(pixels: Tensor, wanted: tuple[slice, slice] = ALL) -> Tensor:
    """B x 3 x H x W in [0, 1] to B x h x w x FINE x (FINE / 2 + 1), the log power of light around the wanted places
    (rows and columns of all ceil(H / CELL) x ceil(W / CELL)), whose mean over the picture is what `blur.Fit` takes.

    Light, because blurs act in it (it is taken to be the square of the pixels' values): in the values themselves an
    edge's blur has no zeros. Windows (Hann) lie within the picture, if that has as many pixels."""
    x = torch.einsum("c,bchw->bhw", torch.tensor(TO_YCC[0], device=pixels.device), pixels.square() * 255)
    places = [-(-side // CELL) for side in x.shape[1:]]
    height, width = (max(FINE, count * CELL) for count in places)
    x = F.pad(x[:, None], (0, width - x.shape[2], 0, height - x.shape[1]), "replicate")[:, 0]
    edge = (FINE - CELL) // 2
    down, across = (
        (torch.arange(count, device=x.device)[some] * CELL - edge).clamp(0, side - FINE) // (CELL // 2)
        for count, side, some in zip(places, (height, width), wanted, strict=True)
    )
    windows = x.unfold(1, FINE, CELL // 2).unfold(2, FINE, CELL // 2)[:, down][:, :, across]
    return (_power(windows) + FLOOR).log()


def _steps(luma: Tensor) -> Tensor:
    """Mean difference to the right-hand neighbour, a BLOCK's columns apart: B x BLOCK x H / CELL x W / CELL."""
    step = F.pad(luma.diff(dim=-1).abs(), (0, 1))
    b, h, w = step.shape
    by_column = step.view(b, h, w // BLOCK, BLOCK).permute(0, 3, 1, 2)
    return F.avg_pool2d(by_column, (CELL, CELL // BLOCK)) + 0.1
