"""How large a blur is and where it points, from a photo's mean spectrum: closer than a network reads it.

Of all blurs near the one that was read, that one is taken whose transfer function, taken out of the spectrum, leaves
what is likest to a sharp photo: log power that falls smoothly with frequency and differs little by direction. What
noise, rounding and JPEG leave no trace of the photo in is not looked at."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from unires.compose.spectrum import WINDOW
from unires.denoise.deconvolve import EXTENTS, transfer
from unires.denoise.interface import Hint

FAINT = 4.0  # power, in squared levels of 255, under which JPEG leaves nothing
AROUND = 0.6  # how far from the size that was read is searched, of its logarithm,
READ = 2.0  # and how much the squared distance from it counts beside the logarithm of a misfit
EDGES = 0.02  # how much what edges say of a direction counts, likewise
CERTAIN = 0.05  # how much better, as `Fit.hint` counts it, a blur has to explain a spectrum to be believed,
CLEAR = 0.1  # and for its size to be believed more than the router's reading, where noise or JPEG covers the spectrum
FEWEST = 60  # bins to fit to
EXACT = 1e-9  # misfit of a spectrum that is explained, as a flat picture's is


@functools.cache
def _frequencies() -> tuple[Tensor, Tensor, Tensor]:
    """Of the bins of a WINDOW's spectrum: those used (a mask), frequency, and the smooth shapes that a sharp photo's
    log power is a sum of (bins used x shapes)."""
    fy = torch.fft.fftfreq(WINDOW)[:, None].expand(-1, WINDOW // 2 + 1)
    fx = torch.fft.rfftfreq(WINDOW)[None, :].expand(WINDOW, -1)
    f, angle = torch.hypot(fy, fx), torch.atan2(fy, fx)
    used = (f > 2.5 / WINDOW) & (f < 0.47)
    log, turn = f[used].log(), angle[used]
    shapes = [torch.ones_like(log), log, log.square()]
    for wave in (torch.cos(2 * turn), torch.sin(2 * turn), torch.cos(4 * turn), torch.sin(4 * turn)):
        shapes += [wave, wave * log]
    for along in (fx, fy):  # buildings and horizons: edges along the axes
        axis = torch.exp(-(along[used] * WINDOW).square())
        shapes += [axis, axis * log]
    return used, f, torch.stack(shapes, dim=1)


class Fit:
    """A photo's mean log power (WINDOW x WINDOW / 2 + 1, as `spectrum.spectra` gives it), ready to be compared.

    clean: neither noise nor JPEG covers the photo's own spectrum, so that the zeros of a blur are seen in all of it;
    else only what stands clearly above them is looked at, and it takes more to be believed."""

    def __init__(self, plane: Tensor, clean: bool) -> None:
        used, f, shapes = _frequencies()
        self.clean, plane = clean, plane.cpu()
        power, seen = plane.exp(), used
        high = (f > 0.38) & (f < 0.5)
        noise = float(power[high].quantile(0.2))
        if not clean:
            noise = max(noise, FAINT)
            ring = (f * WINDOW).round().long()
            rings = torch.bincount(ring.flatten(), power.flatten()) / torch.bincount(ring.flatten()).clamp(min=1)
            above = used & (rings[ring] > noise)
            seen = above if int(above.sum()) >= FEWEST else used & (f < 0.12)
        self.seen = seen
        self.base, _ = torch.linalg.qr(shapes[seen[used]])
        self.photo = self._unexplained(plane[seen][None])
        signal = float(plane[(f > 0.05) & (f < 0.12)].mean().exp())
        self.floor = (noise / signal * (f[seen] / 0.08).square()).clamp(1e-4, 10)

    def _unexplained(self, values: Tensor) -> Tensor:
        left: Tensor = values - (values @ self.base) @ self.base.T
        return left

    def misfits(self, task: str, extent: Tensor, angle: Tensor) -> Tensor:
        """Squared, of N blurs (N sizes in pixels, N directions in radians): N."""
        power = _windowed(transfer(task, extent, angle, WINDOW, WINDOW).square())[:, self.seen]
        left = self.photo - self._unexplained((power + self.floor).log())
        misfits: Tensor = left.square().mean(dim=1)
        return misfits

    def hint(self, task: str, severity: float, turn: tuple[float, float] = (0.0, 0.0)) -> tuple[Hint, float]:
        """The blur near this severity that fits best, with no angle where none is certain; and how much better than no
        blur it explains the spectrum: the logarithm of the ratio of their misfits.

        turn: where a motion seems to point, as `report.Judgement` has it. It helps to choose a direction, and is never
        told alone: where the spectrum has none paths are bent, and experts that were told one all the same lost 0.4
        dB."""
        low, high = EXTENTS[task]
        read = extent = low * (high / low) ** severity
        angle, moves, misfit = 0.0, task == "motion-deblur", math.inf
        # ever closer; all directions at first
        for span, around, sizes, turns in ((AROUND, math.pi / 2, 17, 37), (AROUND / 8, 0.1, 7, 7), (0.02, 0.03, 7, 7)):
            near = extent * torch.exp(torch.linspace(-span, span, sizes))
            about = angle + torch.linspace(-around, around, turns) if moves else torch.zeros(1)
            tried = near.repeat_interleave(len(about)), about.repeat(sizes)
            misfits = self.misfits(task, *tried).clamp(min=EXACT)
            along = turn[0] * torch.cos(2 * tried[1]) + turn[1] * torch.sin(2 * tried[1])
            best = int((misfits.log() + READ * (tried[0] / read).log().square() - EDGES * along).argmin())
            extent, angle, misfit = float(tried[0][best]), float(tried[1][best]), float(misfits[best])
        evidence = math.log(max(float(self.photo.square().mean()), EXACT) / misfit)
        size = extent if evidence > (0 if self.clean else CLEAR) else read
        exact = min(1.0, max(0.0, math.log(size / low) / math.log(high / low)))
        told = moves and evidence > CERTAIN
        return Hint(exact, angle % math.pi if told else None), evidence


def _windowed(power: Tensor) -> Tensor:
    """Power spectra as a Hann window smears them: each frequency takes a sixth from both neighbours, both ways."""
    x = torch.cat((power[..., 1:2], power, power[..., -2:-1]), dim=-1)
    x = x[..., :-2] / 6 + x[..., 1:-1] * (2 / 3) + x[..., 2:] / 6
    return x.roll(1, -2) / 6 + x * (2 / 3) + x.roll(-1, -2) / 6
