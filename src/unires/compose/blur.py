"""How large a blur is and where it points, from a photo's mean spectrum: closer than a network reads it.

Of all blurs near the one that was read, that one is taken whose transfer function, taken out of the spectrum, leaves
what is likest to a sharp photo: log power that falls smoothly with frequency and differs little by direction. What
noise, rounding and JPEG leave no trace of the photo in is not looked at."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from unires.denoise.deconvolve import EXTENTS, transfer
from unires.denoise.interface import Hint

FAINT = 4.0  # power, in squared levels of 255, under which JPEG leaves nothing
AROUND = 0.9  # how far from the size that was read is searched, of its logarithm,
READ = 1.0  # and how much the squared distance from it counts beside the logarithm of a misfit
EDGES = 0.02  # how much what edges say of a direction counts, likewise
CERTAIN = 0.05  # how much better, as `Fit.hint` counts it, a blur has to explain a spectrum to be believed,
CLEAR = 0.1  # and for its size to be believed more than the router's reading, where noise or JPEG covers the spectrum
FEWEST = 60  # bins to fit to
NARROW = 1 / 64  # cycles a pixel: how wide rings of alike frequencies are, and what edges along an axis take of it
EXACT = 1e-9  # misfit of a spectrum that is explained, as a flat picture's is


@functools.cache
def _frequencies(window: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of the bins of such a window's spectrum: those used (a mask), frequency, and the smooth shapes that a sharp
    photo's log power is a sum of (bins used x shapes)."""
    fy = torch.fft.fftfreq(window)[:, None].expand(-1, window // 2 + 1)
    fx = torch.fft.rfftfreq(window)[None, :].expand(window, -1)
    f, angle = torch.hypot(fy, fx), torch.atan2(fy, fx)
    used = (f > 0.039) & (f < 0.47)
    log, turn = f[used].log(), angle[used]
    shapes = [torch.ones_like(log), log, log.square()]
    for wave in (torch.cos(2 * turn), torch.sin(2 * turn), torch.cos(4 * turn), torch.sin(4 * turn)):
        shapes += [wave, wave * log]
    for along in (fx, fy):  # buildings and horizons: edges along the axes
        axis = torch.exp(-(along[used] / NARROW).square())
        shapes += [axis, axis * log]
    return used, f, torch.stack(shapes, dim=1)


class Spectrum:
    """A photo's mean log power (window x window / 2 + 1), ready to be compared with what blurs leave.

    clean: neither noise nor JPEG covers the photo's own spectrum, so that the zeros of a blur are seen in all of it;
    else only what stands clearly above them is looked at."""

    def __init__(self, plane: Tensor, clean: bool) -> None:
        self.window = len(plane)
        used, f, shapes = _frequencies(self.window)
        power, seen = plane.exp(), used
        high = (f > 0.38) & (f < 0.5)
        noise = float(power[high].quantile(0.2))
        if not clean:
            noise = max(noise, FAINT)
            ring = (f / NARROW).round().long()
            rings = torch.bincount(ring.flatten(), power.flatten()) / torch.bincount(ring.flatten()).clamp(min=1)
            above = used & (rings[ring] > noise)
            seen = above if int(above.sum()) >= FEWEST else used & (f < 0.12)
        self.seen = seen
        self.base, _ = torch.linalg.qr(shapes[seen[used]])
        self.photo = self._unexplained(plane[seen][None])
        signal = float(plane[(f > 0.05) & (f < 0.12)].mean().exp())
        self.floor = (0.5 * noise / signal * (f[seen] / 0.08).square()).clamp(1e-4, 10)

    def _unexplained(self, values: Tensor) -> Tensor:
        left: Tensor = values - (values @ self.base) @ self.base.T
        return left

    def misfits(self, task: str, extent: Tensor, angle: Tensor) -> Tensor:
        """Squared, of N blurs (N sizes in pixels, N directions in radians): N."""
        power = _windowed(transfer(task, extent, angle, self.window, self.window).square())[:, self.seen]
        left = self.photo - self._unexplained((power + self.floor).log())
        misfits: Tensor = left.square().mean(dim=1)
        return misfits.clamp(min=EXACT)


class Fit:
    """What a photo's mean log power (FINE x FINE / 2 + 1, as `spectrum.light` gives it) says of blurs. clean: as
    `Spectrum` has it; else it takes more to be believed."""

    def __init__(self, plane: Tensor, clean: bool) -> None:
        self.clean, plane = clean, plane.cpu()
        self.fine, self.coarse = Spectrum(plane, clean), Spectrum(_coarser(plane), clean)

    def hint(self, task: str, severity: float, turn: tuple[float, float] = (0.0, 0.0)) -> tuple[Hint, float]:
        """The blur near this severity that fits best, with no angle where none is certain; and how much better than no
        blur it explains the spectrum: the logarithm of the ratio of their misfits.

        turn: where a motion seems to point, as `report.Judgement` has it. It helps to choose a direction, and is never
        told alone: where the spectrum has none paths are bent, and experts that were told one all the same lost 0.4
        dB."""
        low, high = EXTENTS[task]
        read = extent = low * (high / low) ** severity
        angle, moves, misfit = 0.0, task == "motion-deblur", math.inf
        # the direction, which a coarse spectrum shows as well; then the size, anew, and both ever closer
        searches = (
            (self.coarse, AROUND, 25, math.pi / 2, 37), (self.fine, AROUND, 51, 0.06, 5),
            (self.fine, 0.04, 7, 0.03, 7), (self.fine, 0.01, 5, 0.01, 5),
        )  # fmt: skip
        for spectrum, span, sizes, around, turns in searches if moves else searches[1:]:
            middle = read if span == AROUND else extent
            near = middle * torch.exp(torch.linspace(-span, span, sizes))
            about = angle + torch.linspace(-around, around, turns) if moves else torch.zeros(1)
            tried = near.repeat_interleave(len(about)), about.repeat(sizes)
            misfits = spectrum.misfits(task, *tried)
            along = turn[0] * torch.cos(2 * tried[1]) + turn[1] * torch.sin(2 * tried[1])
            best = int((misfits.log() + READ * (tried[0] / read).log().square() - EDGES * along).argmin())
            extent, angle, misfit = float(tried[0][best]), float(tried[1][best]), float(misfits[best])
        evidence = math.log(max(float(self.fine.photo.square().mean()), EXACT) / misfit)
        size = extent if evidence > (0 if self.clean else CLEAR) else read
        exact = min(1.0, max(0.0, math.log(size / low) / math.log(high / low)))
        told = moves and evidence > CERTAIN
        return Hint(exact, angle % math.pi if told else None), evidence


def _coarser(plane: Tensor) -> Tensor:
    """The log power that a window of half the side would show, nearly."""
    power = _windowed(plane.exp()[None])[0]
    return power[::2, ::2].log()


def _windowed(power: Tensor) -> Tensor:
    """Power spectra as a Hann window smears them: each frequency takes a sixth from both neighbours, both ways."""
    x = torch.cat((power[..., 1:2], power, power[..., -2:-1]), dim=-1)
    x = x[..., :-2] / 6 + x[..., 1:-1] * (2 / 3) + x[..., 2:] / 6
    return x.roll(1, -2) / 6 + x * (2 / 3) + x.roll(-1, -2) / 6
