"""Recipes: degradations that compose, written as `defocus(radius=3) + noise(sigma=15) + jpeg(quality=30)`."""

from __future__ import annotations

import ast
import inspect
import math
import operator as operator_module
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unires.degrade import jpeg as jpeg_codec
from unires.degrade import kernels, operators, resample
from unires.errors import OptionError, nearest, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

Operator = Callable[..., Tensor]
OPERATORS: dict[str, Operator] = {}


def operator(function: Operator) -> Operator:
    """Make a function (pixels, generator, **parameters) known to recipes under its name."""
    OPERATORS[function.__name__] = function
    return function


def _one(value: float, like: Tensor) -> Tensor:
    return torch.full((like.shape[0],), float(value), device=like.device)


@operator
def noise(x: Tensor, generator: torch.Generator, sigma: float = 25) -> Tensor:
    """White Gaussian noise on sRGB values (the benchmarks' noise); sigma of 255."""
    _within("sigma", sigma, 0, 255)
    return operators.srgb_gaussian_noise(x, sigma, generator)


@operator
def sensor_noise(x: Tensor, generator: torch.Generator, shot: float = 5e-3, read: float = 5e-3) -> Tensor:
    """Shot and read noise of a camera, in linear light, correlated by demosaicing."""
    _within("shot", shot, 0, 1)
    _within("read", read, 0, 1)
    return operators.sensor_noise(x, shot, read, generator)


@operator
def motion(
    x: Tensor, generator: torch.Generator, length: float = 12, angle: float | None = None, bend: float = 0
) -> Tensor:
    """Motion along a line, or an arc that turns by `bend` degrees; length in pixels, angle in degrees (drawn at
    random if not given)."""
    _within("length", length, 0.01, 200)
    _within("bend", bend, -360, 360)
    angle = _drawn(0, 180, generator) if angle is None else angle
    _within("angle", angle, -360, 360)
    path = kernels.arc(_one(length, x), _one(math.radians(angle), x), _one(math.radians(bend), x))
    return operators.blur(x, kernels.splat(path))


@operator
def shake(x: Tensor, generator: torch.Generator, extent: float = 12) -> Tensor:
    """Camera shake along a random path; its greatest extent in pixels."""
    _within("extent", extent, 0.01, 200)
    seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
    path = kernels.shake(_one(extent, x), torch.Generator().manual_seed(seed))
    return operators.blur(x, kernels.splat(path))


@operator
def defocus(
    x: Tensor, generator: torch.Generator, radius: float = 3, blades: int = 0, rotation: float = 0
) -> Tensor:
    """Defocus by a round aperture, or one of `blades` straight edges; radius in pixels."""
    _within("radius", radius, 0.05, 100)
    _within("rotation", rotation, -360, 360)
    if not blades:
        return operators.blur(x, kernels.disc(_one(radius, x)))
    _within("blades", blades, 3, 20)
    return operators.blur(
        x, kernels.polygon(_one(radius, x), _one(blades, x), _one(math.radians(rotation), x))
    )


@operator
def gaussian_blur(x: Tensor, generator: torch.Generator, sigma: float = 1.5) -> Tensor:
    """Gaussian blur in linear light; sigma in pixels."""
    _within("sigma", sigma, 0.05, 50)
    return operators.blur(x, kernels.gaussian(_one(sigma, x)))


@operator
def resize(x: Tensor, generator: torch.Generator, scale: float = 2, kernel: str = "bicubic") -> Tensor:
    """Reduced by `scale`, stored in 8 bits, and enlarged again by bicubic to the size it had."""
    _within("scale", scale, 1, 64)
    if kernel not in resample.KERNELS:
        raise OptionError(nearest(str(kernel), resample.KERNELS, kind="resampling kernel"))
    size = x.shape[-2], x.shape[-1]
    small = resample.resize(x, resample.reduced_size(*size, scale), kernel)
    return resample.resize(operators.round8(small), size, "bicubic")


@operator
def jpeg(x: Tensor, generator: torch.Generator, quality: int = 30, subsampling: str = "4:2:0") -> Tensor:
    """Through the JPEG encoder: libjpeg's quality 1 to 100, chroma subsampling 4:2:0 or 4:4:4."""
    _within("quality", quality, 1, 100)
    if subsampling not in ("4:4:4", "4:2:0"):
        raise OptionError(nearest(str(subsampling), ("4:4:4", "4:2:0"), kind="chroma subsampling"))
    return jpeg_codec.encode_decode(x, [int(quality)] * len(x), [subsampling] * len(x))


@operator
def haze(
    x: Tensor, generator: torch.Generator, beta: float | None = None, airlight: float | None = None
) -> Tensor:
    """Haze over a random relief; its optical depth at the farthest, and the light it scatters (1 is white, in linear
    light), both drawn at random if not given."""
    beta = _drawn(0.5, 2.5, generator) if beta is None else beta
    airlight = _drawn(0.5, 1, generator) if airlight is None else airlight
    _within("beta", beta, 0, 20)
    _within("airlight", airlight, 0, 1)
    return operators.haze(x, operators.smooth_depth(x, generator), beta, airlight)


@operator
def low_light(
    x: Tensor, generator: torch.Generator, exposure: float | None = None, gain: float = 2, shot: float = 2e-3,
    read: float = 2e-3,
) -> Tensor:
    """Too little light, amplified by `gain` with the noise it has: exposure 1 is the photo's own (drawn at random if
    not given); shot and read as for sensor_noise."""
    exposure = _drawn(0.03, 0.3, generator) if exposure is None else exposure
    _within("exposure", exposure, 0, 1)
    _within("gain", gain, 0, 100)
    _within("shot", shot, 0, 1)
    _within("read", read, 0, 1)
    return operators.low_light(x, exposure, gain, shot, read, generator)


def _drawn(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator, device=generator.device))


def _within(name: str, value: float, low: float, high: float) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
        raise OptionError(f"{name}={value!r} is out of range: it is a number from {low:g} to {high:g}.")


@dataclass(frozen=True)
class Recipe:
    """Operators applied one after the other; `Recipe.parse(text)`, then `recipe(pixels, seed)`."""

    steps: tuple[tuple[str, tuple[tuple[str, Any], ...]], ...]

    @classmethod
    def parse(cls, text: str) -> Recipe:
        """Read `name(parameter=value, ...) + name(...)`. Raises OptionError with the nearest right name."""
        try:
            # gaussian-blur and gaussian_blur are the same
            tree = ast.parse(re.sub(r"(?<=[a-z])-(?=[a-z])", "_", text.strip()), mode="eval").body
            return cls(tuple(_steps(tree, text)))
        except OptionError:
            raise
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise _unreadable(text) from error

    def __call__(self, pixels: Tensor, seed: int = 0) -> Tensor:
        """Degrade B x 3 x H x W in [0, 1]; all randomness follows from `seed`. The result is rounded to 8 bits,
        as a file is."""
        generator = torch.Generator(pixels.device).manual_seed(checked_seed(seed))
        x = pixels
        for name, parameters in self.steps:
            x = OPERATORS[name](x, generator, **dict(parameters))
        return operators.round8(x)

    def __str__(self) -> str:
        def one(name: str, parameters: Sequence[tuple[str, Any]]) -> str:
            return f"{name}({', '.join(f'{k}={v!r}' for k, v in parameters)})"

        return " + ".join(one(*step) for step in self.steps)


def checked_seed(seed: int) -> int:
    """The seed, if it is one. Raises OptionError."""
    whole = operator_module.index(seed) if hasattr(seed, "__index__") else None
    if whole is None or not -(2**63) <= whole < 2**63:
        raise OptionError(f"The seed is a whole number of at most 18 digits, not {shown(seed)}.")
    return whole


EXAMPLE = "defocus(radius=3) + noise(sigma=15) + jpeg(quality=30)"


def _unreadable(text: str) -> OptionError:
    return OptionError(f"The recipe {shown(text)} can't be read; write it as {EXAMPLE!r}.")


def _steps(node: ast.expr, text: str) -> list[tuple[str, tuple[tuple[str, Any], ...]]]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _steps(node.left, text) + _steps(node.right, text)
    call = node if isinstance(node, ast.Call) else None
    target = call.func if call else node
    name = target.id if isinstance(target, ast.Name) else None
    if name is None or (call and call.args):
        raise _unreadable(text)
    if name not in OPERATORS:
        raise OptionError(nearest(name, OPERATORS, kind="degradation"))
    known = list(inspect.signature(OPERATORS[name]).parameters)[2:]
    parameters: dict[str, Any] = {}
    for keyword in call.keywords if call else []:
        if keyword.arg not in known:
            raise OptionError(nearest(str(keyword.arg), known, kind=f"parameter of {name}"))
        if keyword.arg in parameters:
            raise OptionError(f"The recipe names {name}'s {keyword.arg} twice.")
        try:
            parameters[keyword.arg] = ast.literal_eval(keyword.value)
        except (ValueError, TypeError) as error:
            raise OptionError(f"The value of {keyword.arg} in {shown(text)} is not a number or a text.") from error
    return [(name, tuple(parameters.items()))]
