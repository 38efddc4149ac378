"""Other people's restorers behind one function each: Case in, Answer out.

Where a peer has a strength and the truth is at hand, the strength that does best on that very photo is taken: no user
could, so it errs in the peer's favour. All get what our methods get: 8-bit sRGB values, the whole picture."""

from __future__ import annotations

import importlib
import importlib.metadata
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unires.bench.interface import Answer, Method, NotApplicable
from unires.bench.measures import psnr
from unires.bench.sets import Case
from unires.degrade import operators
from unires.errors import UniresError

Function = Callable[[Case], Answer]
EXTRA = "pip install unires[bench]"


def need(package: str, pip: str, hint: str = EXTRA) -> Any:
    """An optional package. Raises UniresError with the way to get it if it isn't there."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UniresError(f"{pip} is not installed ({hint}).") from error


def to_array(x: Tensor) -> Any:
    """1 x 3 x H x W to H x W x 3, float32."""
    return np.ascontiguousarray(x[0].permute(1, 2, 0).cpu().numpy())


def to_tensor(array: Any) -> Tensor:
    """And back."""
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).permute(2, 0, 1)[None]


def best_of(case: Case, strengths: Sequence[float], run: Callable[[float], Tensor], what: str) -> Answer:
    """The result of the best strength, in PSNR. Strengths rise; the search ends when one is worse than the best by
    half a decibel (not before: weak strengths do nothing, or next to nothing)."""
    truth = _truth(case)
    best, score, chosen = case.lq, -math.inf, math.nan
    for strength in strengths:
        out = run(strength)
        now = float(psnr(operators.round8(out), truth))
        if now > score:
            best, score, chosen = out, now, strength
        elif now < score - 0.5:
            break
    return Answer(best, note=f"{what} {chosen:g}")


def _truth(case: Case) -> Tensor:
    if case.gt is None:
        raise NotApplicable("The best strength can't be found without the truth.")
    return case.gt


# -- noise ----------------------------------------------------------------------------------------------------

STRENGTHS = (1.5, 2, 3, 4, 6, 8, 11, 15, 20, 27, 36, 48)


def bm3d(case: Case) -> Answer:
    """BM3D (Dabov et al. 2007; package `bm3d`, licensed for non-commercial use), given the true sigma; on real
    noise, where none is known, the best of four."""
    package = need("bm3d", "bm3d", "pip install bm3d; its licence allows non-commercial use only")
    picture = to_array(case.lq).astype(np.float64)
    profile = package.BM3DProfile()  # its default, "np"
    profile.num_threads = 1  # with more, sums depend on who comes first

    def run(sigma: float) -> Tensor:
        return to_tensor(package.bm3d_rgb(picture, sigma / 255, profile))

    if case.truth.recipe is None:
        return best_of(case, (3, 6, 10, 17), run, "sigma")  # a second for a hundred by hundred pixels, each
    if case.truth.sigma is None:
        raise NotApplicable("There is no noise whose sigma it could be given.")
    return Answer(run(case.truth.sigma), note=f"sigma {case.truth.sigma:g}")


def nlm(case: Case) -> Answer:
    """Non-local means (Buades et al. 2005) of OpenCV, for colour pictures; best strength."""
    cv2 = need("cv2", "opencv-python-headless")
    picture = np.rint(to_array(case.lq) * 255).astype(np.uint8)

    def run(h: float) -> Tensor:
        return to_tensor(cv2.fastNlMeansDenoisingColored(picture, None, h, h, 7, 21).astype(np.float32) / 255)

    return best_of(case, STRENGTHS, run, "h")


def wavelet(case: Case) -> Answer:
    """Wavelet thresholds (BayesShrink, Chang et al. 2000) of scikit-image; best sigma."""
    restoration = need("skimage.restoration", "scikit-image")
    picture = to_array(case.lq)

    def run(sigma: float) -> Tensor:
        return to_tensor(restoration.denoise_wavelet(
            picture, sigma=sigma / 255, channel_axis=2, convert2ycbcr=True, rescale_sigma=True
        ))

    return best_of(case, STRENGTHS, run, "sigma")


def tv(case: Case) -> Answer:
    """Total variation (Chambolle 2004) of scikit-image; best weight."""
    restoration = need("skimage.restoration", "scikit-image")
    picture = to_array(case.lq)
    weights = (0.005, 0.01, 0.02, 0.03, 0.045, 0.065, 0.09, 0.12, 0.16, 0.21)

    def run(weight: float) -> Tensor:
        return to_tensor(restoration.denoise_tv_chambolle(picture, weight=weight, channel_axis=2))

    return best_of(case, weights, run, "weight")


# -- blur -----------------------------------------------------------------------------------------------------

DOMAINS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "linear light": (operators.to_linear, operators.to_srgb),
    "sRGB values": (lambda x: x, lambda x: x),
}
MOST_ITERATIONS = 80


def _padded(case: Case) -> tuple[Tensor, Tensor, int]:
    """(photo mirrored outwards by twice the kernel, kernel, margin): these methods assume black or a repetition
    outside, and would be marred at the edges otherwise."""
    kernel = case.truth.kernel
    if kernel is None:
        raise NotApplicable("There is no one blur whose kernel it could be given.")
    margin = min(2 * kernel.shape[-1], min(case.lq.shape[-2:]) - 1)
    return F.pad(case.lq, (margin,) * 4, mode="reflect"), kernel, margin


def _cut(x: Tensor, margin: int) -> Tensor:
    return x[..., margin:-margin, margin:-margin]


def richardson_lucy(case: Case) -> Answer:
    """Richardson-Lucy deconvolution (1972, 1974) of scikit-image, channel by channel, given the true kernel; best
    iteration count, in linear light or on sRGB values, whichever does better."""
    restoration = need("skimage.restoration", "scikit-image")
    truth = _truth(case)
    padded, kernel, margin = _padded(case)
    found = {}
    for name, (there, back) in DOMAINS.items():
        count, score = _best_count(there(padded), kernel, lambda x, b=back: _cut(b(x), margin), truth)  # type: ignore[misc]
        found[name] = (score, count)
    domain = max(found, key=lambda n: found[n])
    count = found[domain][1]
    there, back = DOMAINS[domain]
    planes = there(padded)[0].numpy()
    out = np.stack([restoration.richardson_lucy(p, kernel.numpy(), num_iter=count) for p in planes])
    return Answer(_cut(back(torch.from_numpy(out)[None]), margin), note=f"{count} iterations, {domain}")


def lucy_steps(image: Tensor, kernel: Tensor) -> Any:
    """Yields the estimates after 1, 2, ... iterations, as scikit-image makes them but with the picture repeated
    outside: one run shows which count is best."""
    size = image.shape[-2], image.shape[-1]
    half = kernel.shape[-1] // 2
    placed = torch.zeros(size)
    placed[: kernel.shape[-2], : kernel.shape[-1]] = kernel
    spectrum = torch.fft.rfft2(placed.roll((-half, -half), dims=(0, 1)))
    estimate = torch.full_like(image, 0.5)
    while True:
        blurred = torch.fft.irfft2(torch.fft.rfft2(estimate) * spectrum, s=size) + 1e-12
        ratio = image / blurred
        estimate = estimate * torch.fft.irfft2(torch.fft.rfft2(ratio) * spectrum.conj(), s=size)
        yield estimate


def _best_count(image: Tensor, kernel: Tensor, finish: Callable[[Tensor], Tensor], truth: Tensor) -> tuple[int, float]:
    """(the iteration count of the highest PSNR, that PSNR). Ends once eight counts in a row are worse."""
    best, score = 1, -math.inf
    for count, estimate in enumerate(lucy_steps(image, kernel), start=1):
        now = float(psnr(operators.round8(finish(estimate.clamp(-1, 1))), truth))
        if now > score:
            best, score = count, now
        if count == MOST_ITERATIONS or count >= best + 8:
            break
    return best, score


def wiener(case: Case) -> Answer:
    """Unsupervised Wiener deconvolution (Orieux et al. 2010) of scikit-image, channel by channel, given the true
    kernel; in linear light or on sRGB values, whichever does better. Random inside; the seed is fixed."""
    restoration = need("skimage.restoration", "scikit-image")
    truth = _truth(case)
    kernel = case.truth.kernel
    if kernel is None:
        raise NotApplicable("There is no one blur whose kernel it could be given.")
    high, wide = case.lq.shape[-2:]
    closed = _closed(_closed(case.lq, 2 * kernel.shape[-1], -1), 2 * kernel.shape[-1], -2)
    best, score, chosen = case.lq, -math.inf, ""
    for name, (there, back) in DOMAINS.items():
        planes = there(closed)[0].double().numpy()
        done = [restoration.unsupervised_wiener(p, kernel.double().numpy(), rng=0)[0] for p in planes]
        out = back(torch.from_numpy(np.stack(done))[None].float())[..., :high, :wide]
        now = float(psnr(operators.round8(out), truth))
        if now > score:
            best, score, chosen = out, now, name
    return Answer(best, note=chosen)


def _closed(x: Tensor, margin: int, side: int) -> Tensor:
    """Add `margin` pixels at the end of an axis that lead smoothly back to its beginning: in Fourier space a picture
    is joined to itself, and a step there would ring all over it."""
    margin = min(margin, x.shape[side] - 1)
    after = x.flip(side).narrow(side, 1, margin)  # mirrored at the end
    before = x.narrow(side, 1, margin).flip(side)  # mirrored at the beginning
    shape = [1] * x.dim()
    shape[side] = margin
    fade = torch.linspace(0, 1, margin).view(shape)
    return torch.cat((x, after * (1 - fade) + before * fade), dim=side)


def bicubic(case: Case) -> Answer:
    """Bicubic enlargement, which is how reduced photos come (`resize` in `unires.degrade.recipe`; real pairs are
    published so): the input itself."""
    return Answer(case.lq)


PEERS: dict[str, tuple[Function, str, str]] = {
    "bm3d": (bm3d, "bm3d", "true sigma"),
    "nlm": (nlm, "opencv-python-headless", "best strength"),
    "wavelet": (wavelet, "scikit-image", "best strength"),
    "tv": (tv, "scikit-image", "best strength"),
    "richardson-lucy": (richardson_lucy, "scikit-image", "true kernel, best count"),
    "wiener": (wiener, "scikit-image", "true kernel"),
    "bicubic": (bicubic, "", ""),
}
"""Function, package, and what it is told that a user would not know."""


def open_peer(name: str) -> Method:
    """The method of that name (a key of PEERS)."""
    function, package, oracle = PEERS[name]
    return Method(name, function, _version(package), oracle)


def _version(package: str) -> str:
    try:
        return f"{package} {importlib.metadata.version(package)}" if package else ""
    except importlib.metadata.PackageNotFoundError:
        return package
