"""Blur: kernels against closed forms, and what `blur` does with them."""

from __future__ import annotations

import math

import pytest
import torch

from unires.degrade import kernels, operators


def one(*values: float) -> torch.Tensor:
    return torch.tensor(values)


def every_kernel() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        "disc": kernels.disc(one(0.6, 2.3, 6.0)),
        "polygon": kernels.polygon(one(1.5, 2.3, 6.0), torch.tensor([5, 6, 8]), one(0.0, 0.4, 1.1)),
        "gaussian": kernels.gaussian(one(0.3, 1.0, 3.0)),
        "line": kernels.splat(kernels.arc(one(3.0, 12.3, 31.0), one(0.0, 0.7, 2.1))),
        "arc": kernels.splat(kernels.arc(one(3.0, 12.3, 31.0), one(0.0, 0.7, 2.1), one(1.5, -0.8, 0.3))),
        "shake": kernels.splat(kernels.shake(one(3.0, 12.3, 31.0), generator)),
    }


def centre_of_mass(kernel: torch.Tensor) -> torch.Tensor:
    half = kernel.shape[-1] // 2
    r = torch.arange(-half, half + 1, dtype=torch.float32)
    return torch.stack(((kernel.sum(-1) * r).sum(-1), (kernel.sum(-2) * r).sum(-1)), dim=-1)


@pytest.mark.parametrize("name", every_kernel())
def test_kernels_are_odd_and_positive_and_sum_to_one(name: str) -> None:
    k = every_kernel()[name]
    assert k.shape[-1] % 2 == 1 and k.shape[-1] == k.shape[-2]
    assert (k >= 0).all()
    torch.testing.assert_close(k.sum(dim=(1, 2)), torch.ones(len(k)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", every_kernel())
def test_kernels_move_nothing(name: str) -> None:
    """The centre of mass lies at the middle: of symmetric kernels exactly, of paths far below a pixel. A polygon of
    few pixels is sampled coarsely, a twentieth of a pixel off at worst."""
    off = centre_of_mass(every_kernel()[name]).abs().max()
    assert off < (0.06 if name == "polygon" else 1e-3)


def test_splatting_keeps_the_place_below_a_pixel() -> None:
    path = torch.tensor([[[1.3, -2.75], [0.1, 0.45]]])
    torch.testing.assert_close(centre_of_mass(kernels.splat(path)), path.mean(dim=1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("radius", [1.0, 2.0, 3.3, 6.0])
def test_a_disc_has_a_discs_area_and_variance(radius: float) -> None:
    k = kernels.disc(one(radius))[0]
    # the middle pixel lies wholly inside, so that its weight is one over the area; the soft edge adds pi / 12
    assert float(1 / k[k.shape[0] // 2, k.shape[0] // 2]) == pytest.approx(math.pi * (radius**2 + 1 / 12), rel=0.03)
    r = torch.arange(-(len(k) // 2), len(k) // 2 + 1)
    # r^2 / 4, and what the soft edge adds: the integral of rho^3 over the ramp from r - 1/2 to r + 1/2
    soft = ((radius + 0.5) ** 5 - (radius - 0.5) ** 5) / 20 / (radius**2 + 1 / 12)
    assert float((k.sum(0) * r**2).sum()) == pytest.approx(soft, abs=0.07)


def test_a_polygon_has_the_area_of_its_disc_and_its_corners() -> None:
    radius = 6.0
    for blades in (5, 6, 8):
        k = kernels.polygon(one(radius), torch.tensor([blades]), one(0.3))[0]
        middle = len(k) // 2
        assert float(1 / k[middle, middle]) == pytest.approx(math.pi * radius**2, rel=0.04)
        # the furthest point is a corner: R = apothem / cos(pi / n)
        y, x = torch.nonzero(k > 0.5 * k.max(), as_tuple=True)
        corner = radius * math.sqrt(math.pi / (blades * math.tan(math.pi / blades))) / math.cos(math.pi / blades)
        assert float(torch.hypot(y - middle + 0.0, x - middle + 0.0).max()) == pytest.approx(corner, abs=0.8)


def test_a_polygon_turns_with_its_rotation() -> None:
    """A square's quarter turn is itself, its eighth turn is not; half a sector flips a pentagon."""
    square = [kernels.polygon(one(5.0), torch.tensor([4]), one(a)) for a in (0.2, 0.2 + math.pi / 2, 0.2 + math.pi / 4)]
    torch.testing.assert_close(square[0], square[1], atol=1e-5, rtol=0)
    assert (square[0] - square[2]).abs().sum() > 0.1
    k = kernels.polygon(one(5.0), torch.tensor([4]), one(math.pi / 4))[0]  # edges upright: a box of side r sqrt(pi)
    side = 5.0 * math.sqrt(math.pi)
    assert float(k.sum(0).max() * side) == pytest.approx(1, abs=0.02)


def test_many_blades_make_a_disc() -> None:
    disc, polygon = kernels.disc(one(4.0))[0], kernels.polygon(one(4.0), torch.tensor([60]), one(0.0))[0]
    half = len(disc) // 2
    middle = len(polygon) // 2
    cut = polygon[middle - half : middle + half + 1, middle - half : middle + half + 1]
    torch.testing.assert_close(cut, disc, atol=1e-3, rtol=0)


@pytest.mark.parametrize("sigma", [0.8, 1.5, 3.0])
def test_a_gaussian_has_its_variance_and_shape(sigma: float) -> None:
    k = kernels.gaussian(one(sigma))[0]
    r = torch.arange(-(len(k) // 2), len(k) // 2 + 1)
    assert float((k.sum(0) * r**2).sum()) == pytest.approx(sigma**2, rel=0.01)
    middle = len(k) // 2
    assert float(k[middle, middle + 1] / k[middle, middle]) == pytest.approx(math.exp(-1 / (2 * sigma**2)), rel=1e-4)


@pytest.mark.parametrize("length", [3.0, 7.4, 12.0])
def test_a_line_is_a_box_seen_through_pixels(length: float) -> None:
    """A level line of length L, each point split between its two neighbours: the integral of a triangle."""
    k = kernels.splat(kernels.arc(one(length), one(0.0)))[0]
    middle = len(k) // 2

    def below(u: float) -> float:  # the integral of max(0, 1 - |v|) from minus infinity to u
        u = max(-1.0, min(1.0, u))
        return 0.5 + u - math.copysign(u * u / 2, u)

    expected = [(below(i + length / 2) - below(i - length / 2)) / length for i in range(-middle, middle + 1)]
    torch.testing.assert_close(k[middle], torch.tensor(expected), atol=2e-3, rtol=0)
    assert k.sum() - k[middle].sum() < 1e-5


def test_a_lines_angle_counts_counter_clockwise() -> None:
    up = kernels.arc(one(10.0), one(math.pi / 4))[0]
    assert up[-1, 1] > 3 and up[-1, 0] < -3  # to the right and up
    y, x = (up[-1] - up[0]).tolist()
    assert math.hypot(y, x) == pytest.approx(10 * 255 / 256, rel=1e-4)


def test_an_arc_without_bend_is_the_line_and_with_one_is_an_arc() -> None:
    length, angle = one(10.0, 20.0), one(0.3, 1.2)
    torch.testing.assert_close(kernels.arc(length, angle, one(0.0, 0.0)), kernels.arc(length, angle))
    bend = math.pi / 2
    path = kernels.arc(one(20.0), one(0.0), one(bend))[0]
    # of constant speed, on a circle of radius length / bend, its chord 2 R sin(bend / 2)
    steps = (path[1:] - path[:-1]).norm(dim=1)
    torch.testing.assert_close(steps, torch.full_like(steps, 20 / 256), atol=1e-5, rtol=0)
    radius = 20 / bend
    assert float((path[-1] - path[0]).norm()) == pytest.approx(2 * radius * math.sin(bend / 2), rel=0.01)


def test_a_shakes_extent_is_the_greatest_distance_of_two_of_its_points() -> None:
    extent = torch.linspace(3, 31, 40)
    path = kernels.shake(extent, torch.Generator().manual_seed(0))
    spread = torch.cdist(path, path).amax(dim=(1, 2))
    assert (spread / extent - 1).abs().max() < 0.03
    again = kernels.shake(extent, torch.Generator().manual_seed(1))
    assert (path - again).abs().max() > 1


@pytest.mark.parametrize("name", every_kernel())
def test_a_blurred_point_is_the_kernel_in_linear_light(name: str) -> None:
    k = every_kernel()[name]
    size = k.shape[-1] + 6
    point = torch.zeros(len(k), 3, size, size)
    point[:, :, size // 2, size // 2] = 1
    seen = operators.to_linear(operators.blur(point, k))
    cut = slice(3, 3 + k.shape[-1])
    torch.testing.assert_close(seen[:, 1, cut, cut], k, atol=1e-5, rtol=1e-3)
    assert float(seen.sum()) == pytest.approx(3 * len(k), rel=1e-3)


def test_a_kernel_is_not_mirrored_by_the_blur() -> None:
    """Convolution, not correlation: a point becomes the kernel, and an unsymmetric one shows which way round."""
    k = torch.zeros(1, 3, 3)
    k[0, 0, 2] = 1
    point = torch.zeros(1, 3, 7, 7)
    point[..., 3, 3] = 1
    assert operators.blur(point, k)[0, 0, 2, 4] == pytest.approx(1, abs=1e-5)


def test_a_flat_picture_stays_flat_to_its_very_edge() -> None:
    for name, k in every_kernel().items():
        for size in (64, 5):  # also smaller than the kernel
            flat = torch.full((len(k), 3, size, size), 0.3)
            torch.testing.assert_close(operators.blur(flat, k), flat, atol=1e-4, rtol=0, msg=name)


def test_the_srgb_curve_is_the_standards() -> None:
    """IEC 61966-2-1: known pairs, and there and back."""
    for srgb, light in ((0.0, 0.0), (0.04045, 0.0031308), (0.5, 0.214041), (0.735357, 0.5), (1.0, 1.0)):
        assert float(operators.to_linear(torch.tensor(srgb))) == pytest.approx(light, abs=1e-5)
        assert float(operators.to_srgb(torch.tensor(light))) == pytest.approx(srgb, abs=1e-5)
    x = torch.linspace(0, 1, 1001)
    torch.testing.assert_close(operators.to_srgb(operators.to_linear(x)), x, atol=1e-5, rtol=0)


def test_lamps_leave_trails_of_full_brightness() -> None:
    lamp = torch.zeros(1, 3, 33, 33)
    lamp[..., 16, 16] = 1
    k = kernels.splat(kernels.arc(one(9.0), one(0.0)))
    plain, bright = operators.blur(lamp, k), operators.blur(lamp, k, 20.0)
    assert plain.max() < 0.5 and bright.max() > 0.9999
    grey = torch.full((1, 3, 33, 33), 0.6)
    torch.testing.assert_close(operators.blur(grey, k, 20.0), operators.blur(grey, k))
