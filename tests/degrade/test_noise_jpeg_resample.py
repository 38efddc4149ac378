"""Noise has the variance asked for; haze is its equation; JPEG is the encoder's; resampling Pillow's and OpenCV's."""

from __future__ import annotations

import io
import math
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from unires.degrade import jpeg, operators, resample

RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- noise ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [2.0, 25.0, 60.0])
def test_white_noise_has_the_deviation_asked_for(sigma: float) -> None:
    x = torch.full((1, 3, 256, 256), 0.5)
    residual = (operators.srgb_gaussian_noise(x, sigma, generator()) - x) * 255
    assert float(residual.std()) == pytest.approx(sigma, rel=0.01)
    assert abs(float(residual.mean())) < 4 * sigma / residual.numel() ** 0.5
    # no two neighbours, and no two channels, know of each other
    r = residual / sigma
    for a, b in ((r[..., 1:], r[..., :-1]), (r[..., 1:, :], r[..., :-1, :]), (r[:, :1], r[:, 1:2])):
        assert abs(float((a * b).mean())) < 0.02


def test_each_picture_of_a_batch_has_its_own_noise() -> None:
    x = torch.full((2, 3, 128, 128), 0.5)
    residual = operators.srgb_gaussian_noise(x, torch.tensor([5.0, 50.0]), generator()) - x
    assert float(residual[1].std() / residual[0].std()) == pytest.approx(10, rel=0.03)


@pytest.mark.parametrize("level", [0.05, 0.2, 0.6])
@pytest.mark.parametrize(("shot", "read"), [(0.004, 0.0), (0.0, 0.01), (0.01, 0.02)])
def test_sensor_noise_has_shot_and_read_variance_in_linear_light(level: float, shot: float, read: float) -> None:
    light = torch.full((1, 3, 256, 256), level)
    noisy = operators.sensor_noise(operators.to_srgb(light), shot, read, generator(), demosaic=False)
    residual = operators.to_linear(noisy) - light
    assert float(residual.var()) == pytest.approx(shot * level + read**2, rel=0.03)
    assert abs(float(residual.mean())) < 1e-3


def test_demosaicing_amplifies_colours_and_correlates_neighbours() -> None:
    """Closed forms. At a pixel of its own colour the noise is the sensor's, amplified by the white balance; between
    two, a mean of two or four; and neighbours share draws. On average over the mosaic, the variance of bilinear
    interpolation is 9/16 of the sensor's for red and blue and 5/8 for green."""
    level, shot, read = 0.2, 0.002, 0.004
    light = torch.full((1, 3, 512, 512), level)
    noisy = operators.sensor_noise(operators.to_srgb(light), shot, read, generator(), demosaic=True)
    residual = (operators.to_linear(noisy) - light)[0, :, 2:-2, 2:-2]
    for channel, (gain, share) in enumerate(((1.9, 9 / 16), (1.0, 5 / 8), (1.6, 9 / 16))):
        sensor = gain**2 * (shot * level / gain + read**2)
        assert float(residual[channel].var()) == pytest.approx(share * sensor, rel=0.04)
        own = residual[channel, channel // 2 :: 2, channel // 2 :: 2] if channel != 1 else residual[1, 0::2, 1::2]
        assert float(own.var()) == pytest.approx(sensor, rel=0.04)
        r = residual[channel] / residual[channel].std()
        assert float((r[:, 1:] * r[:, :-1]).mean()) > 0.3
        assert abs(float((r[:, 4:] * r[:, :-4]).mean())) < 0.03


def test_smoothed_noise_is_as_strong_and_correlated_as_a_gaussian_makes_it() -> None:
    """Closed form: white noise smoothed by a Gaussian of deviation s has a correlation of exp(-d^2 / 4 s^2) between
    pixels d apart. The mean of three channels' white noise, and what is left without it, are white as well."""
    clean = torch.full((3, 3, 256, 256), 0.5)
    noisy = clean + 0.1 * torch.randn(clean.shape, generator=generator())
    brightness, colour = torch.tensor([1e-3, 0.8, 1.5]), torch.tensor([1e-3, 1.2, 0.8])
    noise = operators.smooth_noise(clean, noisy, brightness, colour) - clean
    torch.testing.assert_close(noise[0], (noisy - clean)[0], atol=1e-6, rtol=0)
    grey = noise.mean(dim=1, keepdim=True)
    for i in range(3):
        assert float(noise[i].square().mean()) == pytest.approx(float((noisy - clean)[i].square().mean()), rel=1e-4)
        for part, sigma in ((grey[i], brightness[i]), ((noise - grey)[i], colour[i])):
            for d in (1, 2):
                seen = float((part[..., d:] * part[..., :-d]).mean() / part.square().mean())
                assert seen == pytest.approx(math.exp(-(d**2) / (4 * float(sigma) ** 2)), abs=0.03)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 3)])
def test_smoothed_noise_on_the_smallest_pictures(size: tuple[int, int]) -> None:
    clean = torch.full((1, 3, *size), 0.5)
    out = operators.smooth_noise(clean, clean + 0.1, torch.ones(1), torch.ones(1))
    torch.testing.assert_close(out, clean + 0.1)
    assert operators.smooth_noise(clean, clean, torch.ones(1), torch.ones(1)).equal(clean)


@pytest.mark.parametrize("level", [0.05, 0.4])
@pytest.mark.parametrize(("exposure", "gain"), [(1.0, 1.0), (0.1, 4.0), (0.5, 0.3)])
@pytest.mark.parametrize(("shot", "read"), [(0.004, 0.0), (0.0, 0.01), (0.002, 0.003)])
def test_low_light_amplifies_light_and_noise(
    level: float, exposure: float, gain: float, shot: float, read: float
) -> None:
    """Closed form: mean g e L, variance g^2 (shot e L + read^2), in linear light."""
    light = torch.full((1, 3, 256, 256), level)
    args = exposure, gain, shot, read, generator()
    dark = operators.to_linear(operators.low_light(operators.to_srgb(light), *args, demosaic=False))
    variance = gain**2 * (shot * exposure * level + read**2)
    assert float(dark.var()) == pytest.approx(variance, rel=0.03)
    assert float(dark.mean()) == pytest.approx(gain * exposure * level, abs=5 * (variance / dark.numel()) ** 0.5 + 1e-6)


def test_low_light_at_full_exposure_is_sensor_noise(photo: Any) -> None:
    plain = operators.sensor_noise(photo, 0.01, 0.02, generator(3))
    torch.testing.assert_close(operators.low_light(photo, 1, 1, 0.01, 0.02, generator(3)), plain, atol=1e-4, rtol=0)


# -- haze -------------------------------------------------------------------------------------------------------------


def test_haze_is_koschmieders_law(photo: Any) -> None:
    """(I - A) / (J - A) = exp(-beta d), pixel by pixel, the same in every channel."""
    depth = operators.smooth_depth(photo, generator())
    hazy = operators.haze(photo, depth, 1.3, 0.7)
    ratio = (operators.to_linear(hazy) - 0.7) / (operators.to_linear(photo) - 0.7)
    told = (operators.to_linear(photo) - 0.7).abs() > 0.05  # elsewhere the ratio is of two small numbers
    expected = torch.exp(-1.3 * depth).expand_as(ratio)
    torch.testing.assert_close(ratio[told], expected[told], atol=1e-3, rtol=0)


def test_haze_at_its_ends_and_in_layers(photo: Any) -> None:
    near, far = torch.zeros(1, 1, 256, 256), torch.ones(1, 1, 256, 256)
    torch.testing.assert_close(operators.haze(photo, near, 3.0, 0.8), photo, atol=1e-5, rtol=0)
    white = operators.to_srgb(torch.tensor(0.8)).expand_as(photo)
    torch.testing.assert_close(operators.haze(photo, far, 50.0, 0.8), white, atol=1e-5, rtol=0)
    # optical depths add up
    twice = operators.haze(operators.haze(photo, far, 0.4, 0.8), far, 0.9, 0.8)
    torch.testing.assert_close(twice, operators.haze(photo, far, 1.3, 0.8), atol=1e-5, rtol=0)
    # each picture of a batch has its own
    both = operators.haze(photo.repeat(2, 1, 1, 1), far, torch.tensor([0.4, 0.9]), torch.tensor([0.5, 0.8]))
    torch.testing.assert_close(both[1:], operators.haze(photo, far, 0.9, 0.8))


def test_depth_is_smooth_whatever_the_size() -> None:
    for size in ((64, 64), (300, 200), (1, 1), (1, 9)):
        depth = operators.smooth_depth(torch.zeros(3, 3, *size), generator())
        assert depth.shape == (3, 1, *size) and float(depth.min()) >= 0 and float(depth.max()) <= 1
        if min(size) > 1:
            # bicubic between knots a third of the picture apart rises by at most 2.1 of the range from knot to knot
            for axis in (-2, -1):
                assert float(depth.diff(dim=axis).abs().max()) < 2.1 * 3 / (min(size) - 1)
            assert float(depth.flatten(1).std(dim=1).min()) > 0.05
    one, other = (operators.smooth_depth(torch.zeros(1, 3, 8, 8), generator(seed)) for seed in (1, 2))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 3), (5, 1)])
def test_sensor_noise_on_the_smallest_pictures(size: tuple[int, int]) -> None:
    out = operators.sensor_noise(torch.full((1, 3, *size), 0.5), 0.01, 0.01, generator())
    assert out.shape == (1, 3, *size) and torch.isfinite(out).all()


# -- JPEG -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
@pytest.mark.parametrize("quality", [5, 30, 90])
def test_jpeg_is_the_encoders_bytes_decoded(astronaut: Any, quality: int, subsampling: str) -> None:
    picture = astronaut[:97, :131]  # no multiples of 8 or 16
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    expected = np.asarray(Image.open(buffer))
    x = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255
    out = jpeg.encode_decode(x, [quality], [subsampling])
    assert np.array_equal((out[0].permute(1, 2, 0) * 255).numpy(), expected)


def test_each_picture_of_a_batch_has_its_own_quality(photo: Any) -> None:
    both = jpeg.encode_decode(photo.repeat(2, 1, 1, 1), [10, 80], ["4:2:0", "4:4:4"])
    assert torch.equal(both[:1], jpeg.encode_decode(photo, [10], ["4:2:0"]))
    assert torch.equal(both[1:], jpeg.encode_decode(photo, [80], ["4:4:4"]))


@pytest.mark.parametrize("subsampled", [False, True])
@pytest.mark.parametrize("size", [(256, 256), (97, 131)])
def test_the_torch_version_agrees_with_the_encoder(photo: Any, subsampled: bool, size: tuple[int, int]) -> None:
    x = photo[..., : size[0], : size[1]]
    for quality in (5, 10, 20, 35, 49, 50, 51, 70, 90, 95):
        real = jpeg.encode_decode(x, [quality], ["4:2:0" if subsampled else "4:4:4"])
        ours = jpeg.simulate(x, torch.tensor([float(quality)]), torch.tensor([subsampled]))
        difference = float((real - ours).abs().mean()) * 255
        assert difference < 1, (quality, difference)
        # and far closer to the encoder than the encoder is to the photo
        assert difference < 0.35 * float((real - x).abs().mean()) * 255, (quality, difference)
        assert torch.equal(ours, operators.round8(ours))


def test_the_torch_version_is_batched(photo: Any) -> None:
    x = torch.cat((photo, photo.flip(-1)))
    q, half = torch.tensor([20.0, 80.0]), torch.tensor([True, False])
    together = jpeg.simulate(x, q, half)
    for i in range(2):
        torch.testing.assert_close(together[i : i + 1], jpeg.simulate(x[i : i + 1], q[i : i + 1], half[i : i + 1]))


# -- resampling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", RESAMPLING)
@pytest.mark.parametrize("size", [(64, 64), (57, 101), (29, 200), (300, 411), (1, 1)])
def test_resizing_is_pillows(photo: Any, kernel: str, size: tuple[int, int]) -> None:
    plane = photo[0, 1, :130, :171].contiguous()
    pillow = Image.fromarray(plane.numpy(), mode=None).resize(size[::-1], RESAMPLING[kernel])
    ours = resample.resize(plane[None, None], size, kernel)[0, 0]
    torch.testing.assert_close(ours, torch.from_numpy(np.array(pillow)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [(65, 57), (43, 57), (130, 100), (37, 171), (1, 1), (99, 123)])
def test_area_is_opencvs(photo: Any, size: tuple[int, int]) -> None:
    plane = photo[0, 1, :130, :171].contiguous()
    expected = cv2.resize(plane.numpy(), size[::-1], interpolation=cv2.INTER_AREA)
    ours = resample.resize(plane[None, None], size, "area")[0, 0]
    torch.testing.assert_close(ours, torch.from_numpy(expected), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kernel", resample.KERNELS)
def test_resizing_to_the_same_size_changes_nothing(photo: Any, kernel: str) -> None:
    torch.testing.assert_close(resample.resize(photo, (256, 256), kernel), photo, atol=1e-6, rtol=0)


def test_a_batch_there_and_back_is_each_by_itself(photo: Any) -> None:
    scale, kernel = torch.tensor([1.3, 1.7, 2.0, 3.3, 4.0, 4.5, 2.6, 1.5]), torch.arange(8) % 4
    x = photo[:1, :, :40, :56].expand(8, -1, -1, -1)
    out = resample.there_and_back(x, scale, kernel, lambda small: small * 0.5)
    for i, (s, k) in enumerate(zip(scale.tolist(), kernel.tolist(), strict=True)):
        small = resample.resize(x[i : i + 1], resample.reduced_size(40, 56, s), resample.KERNELS[k])
        torch.testing.assert_close(out[i : i + 1], resample.resize(small * 0.5, (40, 56), "bicubic"), atol=1e-6, rtol=0)


def test_sizes_and_refusals() -> None:
    assert resample.reduced_size(100, 101, 3) == (33, 34)
    assert resample.reduced_size(5, 1, 64) == (1, 1)
    with pytest.raises(ValueError, match="nearest"):
        resample.resize(torch.zeros(1, 3, 4, 4), (2, 2), "nearest")


@pytest.mark.parametrize("start", [0, 40, 128])
def test_many_matrices_that_enlarge_are_each_by_itself(start: int) -> None:
    small = torch.tensor([50, 77, 120, 199])
    for matrix, size in zip(resample.enlarging(small, 200, start, start + 72), small.tolist(), strict=True):
        _, alone = resample.weights(size, 200, "bicubic", start, start + 72)
        ours, theirs = (m[:, (m != 0).any(dim=0)] for m in (matrix, alone.double()))
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
