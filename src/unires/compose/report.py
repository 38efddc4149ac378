"""The report: what is wrong with a photo, how badly, and where. It depends on no expert.

Two things are looked at, place by place: power spectra (`spectrum.py`), which tell how far a blur reaches and how
strong noise is, and the pixels themselves, by a small convolutional network: edges tell apart what looks alike in a
spectrum under noise, as defocus and too few pixels do."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unires.compose.spectrum import BLOCK, CELL, FEATURES, FINE, spectra

EYE = (32, 64, 96, 128)  # channels of the network on pixels, at 1/2, 1/4, 1/8 and 1/16 of the resolution
SEEN = FEATURES + EYE[-1]  # numbers a place
REACH = FINE - CELL  # pixels beyond a place that are looked at, at most: a window at the border lies farthest in
FAINT = 4 / 255  # differences of neighbouring pixels from which on they count less and less
LEAK = 0.2


class Judgement(NamedTuple):
    """Of B photos and n degradations. Of the whole photo: presence (logits), severity, harm (in HARM_UNIT), B x n
    each; turn, B x 2: cosine and sine of twice the direction of a motion, longer the surer it is; and `where`, presence
    by place (logits): B x n x h x w."""

    presence: Tensor
    severity: Tensor
    harm: Tensor
    turn: Tensor
    where: Tensor

    def of(self, i: int) -> Judgement:
        """That of one photo."""
        return Judgement(*(v[i] for v in self))


class Eye(nn.Module):
    """From pixels to places: B x 3 x H x W in [0, 1] to B x EYE[-1] x ceil(H / CELL) x ceil(W / CELL)."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(2 * 3 * 4, EYE[0], 3, padding=1)
        self.mix = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for width in EYE)
        self.reduce = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in zip(EYE, (*EYE[1:], EYE[-1]), strict=True))

    def forward(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[-2:]
        x = F.pad(pixels, (0, -width % CELL, 0, -height % CELL), "replicate")
        detail = x - _around(x)
        x = torch.cat((2 * x - 1, (detail / FAINT).asinh() / 2), dim=1)
        x = F.pixel_unshuffle(x, 2).contiguous(memory_format=torch.channels_last)  # a third faster than as planes
        x = F.leaky_relu(self.enter(x), LEAK)
        for mix, reduce in zip(self.mix, self.reduce, strict=True):
            x = F.leaky_relu(reduce(x + F.leaky_relu(mix(x), LEAK)), LEAK)
        return x


def _around(x: Tensor) -> Tensor:
    """The mean of each pixel and its eight neighbours (`avg_pool2d` takes five times as long)."""
    x = F.pad(x, (1,) * 4, "replicate")
    x = x[..., :-2, :] + x[..., 1:-1, :] + x[..., 2:, :]
    return (x[..., :-2] + x[..., 1:-1] + x[..., 2:]) / 9


class Report(nn.Module):
    """`see` reduces a photo, tile by tile if it is large, to what is seen place by place; calling it judges that."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, tasks: int, width: int) -> None:
        super().__init__()
        self.tasks = tasks
        self.register_buffer("mean", torch.zeros(FEATURES))  # of the spectra, over training photos
        self.register_buffer("deviation", torch.ones(FEATURES))
        self.eye = Eye()
        self.enter = nn.Conv2d(FEATURES, width, 1)
        self.inner = nn.Conv2d(width + EYE[-1], width, 1)
        # for each degradation: is it here, how strong, how harmful; a motion's turn; how much this place has to say
        # about each of them and about the turn; then how much it has to say in the mean spectrum, twice
        said = 3 * tasks + 2
        self.local = nn.Conv2d(width, said + tasks + 1 + 2, 1)
        hidden = width * 3 // 2
        self.whole = nn.Sequential(
            nn.Linear(3 * FEATURES + width + said, hidden), nn.LeakyReLU(LEAK),
            nn.Linear(hidden, width), nn.LeakyReLU(LEAK), nn.Linear(width, said),
        )  # fmt: skip

    def see(self, pixels: Tensor) -> Tensor:
        """B x 3 x H x W in [0, 1] to what is seen place by place: B x SEEN x h x w, spectra first."""
        with torch.autocast(pixels.device.type, enabled=False):
            features = spectra(pixels)
        look = ((features - self.mean[:, None, None]) / self.deviation[:, None, None]).clamp(-8, 8)
        return torch.cat((look, self.eye(pixels).float()), dim=1)

    def forward(self, look: Tensor) -> Judgement:
        """look: what is seen. A place that can't tell (a flat sky says nothing of blur) has little say."""
        n = self.tasks
        spectral, seen = torch.split(F.dropout(look, 0.1, self.training), [FEATURES, EYE[-1]], dim=1)
        x = torch.cat((F.leaky_relu(self.enter(spectral), LEAK), seen), dim=1)
        x = F.leaky_relu(self.inner(x), LEAK)
        here, say, weight = self.local(x).float().split((3 * n + 2, n + 1, 2), dim=1)
        share = say.flatten(2).softmax(dim=2).view_as(say)
        share = torch.cat((share[:, :n].repeat(1, 3, 1, 1), share[:, n:].expand(-1, 2, -1, -1)), dim=1)
        first = (share * here).sum(dim=(2, 3))
        weight = weight.flatten(2).softmax(dim=2)
        even = torch.full_like(weight[:, :1], 1 / weight.shape[2])
        means = _sorted_blocks(torch.cat((weight, even), dim=1) @ look[:, :FEATURES].flatten(2).mT)
        known = torch.cat((means.flatten(1), x.mean(dim=(2, 3)), first), dim=1)
        presence, severity, harm, turn = (first + self.whole(known).float()).split((n, n, n, 2), dim=1)
        return Judgement(presence, severity, harm, turn, here[:, :n])


def _sorted_blocks(spectra: Tensor) -> Tensor:
    """... x FEATURES, with the steps between a block's columns and its rows (the last) in falling order: a photo
    that was cut has its blocks anywhere."""
    columns, rows = spectra[..., -2 * BLOCK : -BLOCK], spectra[..., -BLOCK:]
    steps = [v.sort(dim=-1, descending=True)[0] for v in (columns, rows)]
    return torch.cat((spectra[..., : -2 * BLOCK], *steps), dim=-1)
