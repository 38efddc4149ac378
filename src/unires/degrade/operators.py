"""Degradation operators: pure functions of (pixels, parameters, random generator).

Pixels are B x 3 x H x W tensors in [0, 1], sRGB-encoded; parameters are numbers or B-tensors. Blur and sensor
noise act in linear light, as in a camera; resampling and JPEG act on sRGB values, as in software."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def to_linear(pixels: Tensor) -> Tensor:
    """sRGB values to linear light (IEC 61966-2-1)."""
    return torch.where(pixels <= 0.04045, pixels / 12.92, ((pixels.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)


def to_srgb(light: Tensor) -> Tensor:
    """Linear light to sRGB values; light below zero stays on the curve's linear piece."""
    return torch.where(light <= 0.0031308, light * 12.92, 1.055 * light.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)


def round8(pixels: Tensor) -> Tensor:
    """To the 256 levels of an 8-bit file."""
    return (pixels.clamp(0, 1) * 255).round() / 255


def blur(pixels: Tensor, kernels: Tensor, highlights: Tensor | float = 0.0) -> Tensor:
    """Convolve with one kernel a picture, in linear light; the picture is mirrored at its edges.

    kernels: B x k x k (k odd, sum 1). highlights: how many times brighter than the file's white the clipped
    pixels really were, less one; the result clips again, so lamps leave trails of full brightness."""
    b, _, h, w = pixels.shape
    light = to_linear(pixels)
    excess = torch.as_tensor(highlights, dtype=light.dtype, device=light.device)
    if bool((excess > 0).any()):
        bright = ((light.amin(dim=1, keepdim=True) - 0.9) * 10).clamp(0, 1)
        light = light * (1 + excess.view(-1, 1, 1, 1) * bright)
    half = kernels.shape[-1] // 2
    # mirroring needs more pixels than the margin; smaller pictures repeat their edge instead
    mode = "reflect" if half < min(h, w) else "replicate"
    padded = F.pad(light, (half,) * 4, mode=mode).transpose(0, 1)
    weight = kernels.to(light).flip(-2, -1)[:, None]
    out = F.conv2d(padded, weight, groups=b).transpose(0, 1)
    return to_srgb(out.clamp(0, 1))


def srgb_gaussian_noise(pixels: Tensor, sigma: Tensor | float, generator: torch.Generator) -> Tensor:
    """White Gaussian noise added to sRGB values, the literature's benchmark; sigma of 255. Not clipped."""
    s = torch.as_tensor(sigma, dtype=pixels.dtype, device=pixels.device).view(-1, 1, 1, 1) / 255
    return pixels + s * torch.randn(pixels.shape, generator=generator, device=pixels.device)


def smooth_depth(pixels: Tensor, generator: torch.Generator, knots: int = 4) -> Tensor:
    """A random relief without edges, B x 1 x H x W in [0, 1] (0: nearest): a cubic surface through `knots` x `knots`
    random depths, whatever the picture's size."""
    drawn = torch.rand(len(pixels), 1, knots, knots, generator=generator, device=pixels.device)
    return F.interpolate(drawn, size=pixels.shape[-2:], mode="bicubic", align_corners=True).clamp(0, 1)


def haze(pixels: Tensor, depth: Tensor, beta: Tensor | float, airlight: Tensor | float) -> Tensor:
    """Homogeneous haze, in linear light: I = J t + A (1 - t), t = exp(-beta d) (Koschmieder's law, as in He et al.,
    "Single Image Haze Removal Using Dark Channel Prior", 2009, eq. 1 and 2).

    depth: B x 1 x H x W, the farthest being 1; beta: optical depth there; airlight: A, 1 is white."""
    light = to_linear(pixels)
    b = torch.as_tensor(beta, dtype=light.dtype, device=light.device).view(-1, 1, 1, 1)
    a = torch.as_tensor(airlight, dtype=light.dtype, device=light.device).view(-1, 1, 1, 1)
    t = torch.exp(-b * depth)
    return to_srgb(light * t + a * (1 - t))


def low_light(
    pixels: Tensor,
    exposure: float,
    gain: float,
    shot: float,
    read: float,
    generator: torch.Generator,
    *,
    demosaic: bool = True,
) -> Tensor:
    """A sensor that gets `exposure` times the light and amplifies what it read by `gain`, noise included, in linear
    light: variance gain^2 (shot * exposure * light + read^2) about gain * exposure * light (Wei et al., "A
    Physics-based Noise Formation Model for Extreme Low-light Raw Denoising", 2020, section 3, all read noise
    before the amplifier). Not clipped.

    The same as `sensor_noise`, which see for `demosaic`, of the amplified light with shot and read amplified."""
    light = to_linear(pixels) * (exposure * gain)
    return sensor_noise(to_srgb(light), shot * gain, read * gain, generator, demosaic=demosaic)


def sensor_noise(
    pixels: Tensor,
    shot: Tensor | float,
    read: Tensor | float,
    generator: torch.Generator,
    *,
    demosaic: bool = True,
    gains: tuple[float, float, float] = (1.9, 1.0, 1.6),
) -> Tensor:
    """Shot and read noise in linear light: variance shot * light + read^2, white level 1 (Brooks et al.,
    "Unprocessing Images for Learned Raw Denoising", 2019, eq. 1).

    demosaic: the noise is drawn on a Bayer mosaic, amplified by the white balance `gains` and interpolated
    bilinearly, so that it comes out coloured and correlated as from a camera. Not clipped."""
    light = to_linear(pixels)
    gain = torch.tensor(gains if demosaic else (1.0, 1.0, 1.0), device=light.device).view(1, 3, 1, 1)
    a = torch.as_tensor(shot, dtype=light.dtype, device=light.device).view(-1, 1, 1, 1)
    b = torch.as_tensor(read, dtype=light.dtype, device=light.device).view(-1, 1, 1, 1)
    std = torch.sqrt(a * light.clamp(min=0) / gain + b**2) * gain
    if not demosaic:
        noise = torch.randn(light.shape, generator=generator, device=light.device) * std
        return to_srgb(light + noise)
    draw = torch.randn(light[:, :1].shape, generator=generator, device=light.device)
    site = torch.zeros(3, *light.shape[-2:], device=light.device)
    site[0, 0::2, 0::2] = site[1, 0::2, 1::2] = site[1, 1::2, 0::2] = site[2, 1::2, 1::2] = 1
    cross = torch.tensor(((0.0, 1.0, 0.0), (1.0, 4.0, 1.0), (0.0, 1.0, 0.0))) / 4
    square = torch.tensor(((1.0, 2.0, 1.0), (2.0, 4.0, 2.0), (1.0, 2.0, 1.0))) / 4
    bilinear = torch.stack((square, cross, square))[:, None].to(light)
    mode = "reflect" if min(light.shape[-2:]) > 1 else "replicate"
    noise = F.conv2d(F.pad(draw * std * site, (1, 1, 1, 1), mode=mode), bilinear, groups=3)
    return to_srgb(light + noise)


def smooth_noise(clean: Tensor, noisy: Tensor, brightness: Tensor, colour: Tensor) -> Tensor:
    """`noisy`, with its noise as a camera's own denoising, compression and reduction leave it: neighbours alike, and
    colours more so than brightness.

    What it has more than `clean` is smoothed by Gaussians of these deviations (B, pixels), then made as strong as it
    was. B x 3 x H x W each; not clipped."""
    noise = noisy - clean
    grey = noise.mean(dim=1, keepdim=True)
    out = smoothed(grey, brightness) + smoothed(noise - grey, colour)
    strength, left = (v.square().mean(dim=(1, 2, 3), keepdim=True).sqrt() for v in (noise, out))
    return clean + out * (strength / left.clamp(min=1e-6))


def smoothed(x: Tensor, sigma: Tensor) -> Tensor:
    """B x C x H x W, by a Gaussian of a deviation (B, pixels) for each picture, cut at four times the largest; mirrored
    borders."""
    count, channels, height, width = x.shape
    radius = min(max(1, math.ceil(4 * float(sigma.max()))), height - 1, width - 1)
    if radius < 1:
        return x
    place = torch.arange(-radius, radius + 1, device=x.device)
    line = torch.exp(-(place**2) / (2 * sigma.to(x).clamp(min=1e-3)[:, None] ** 2))
    line = (line / line.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)[:, None]
    planes = F.pad(x.reshape(1, count * channels, height, width), (radius,) * 4, mode="reflect")
    planes = F.conv2d(planes, line[..., None], groups=count * channels)
    return F.conv2d(planes, line[:, :, None], groups=count * channels).view_as(x)
