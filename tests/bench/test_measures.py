"""Every measure against an independent implementation, and intervals against known values."""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from unires.bench import measures
from unires.errors import UniresError
from unires.train.lpips import Lpips

from .conftest import picture, tensor


@pytest.fixture(scope="module")
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    a = tensor(picture(3, 181, 200))
    noise = torch.randn(a.shape, generator=torch.Generator().manual_seed(0))
    return a, (a + 0.08 * noise).clamp(0, 1)


def hwc(x: torch.Tensor) -> np.ndarray:
    return x[0].permute(1, 2, 0).numpy()


def test_psnr_and_ssim_are_those_of_scikit_image(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    metrics = pytest.importorskip("skimage.metrics")
    a, b = pair
    ratio = metrics.peak_signal_noise_ratio(hwc(a), hwc(b), data_range=1)
    assert float(measures.psnr(a, b)) == pytest.approx(ratio, abs=1e-4)
    theirs = metrics.structural_similarity(
        hwc(a), hwc(b), data_range=1, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert float(measures.ssim(a, b)) == pytest.approx(theirs, abs=1e-4)


def test_psnr_known_values() -> None:
    x = torch.full((2, 3, 16, 16), 0.5)
    y = x.clone()
    y[1] += 0.1
    assert math.isinf(float(measures.psnr(x, y)[0]))
    assert float(measures.psnr(x, y)[1]) == pytest.approx(20, abs=1e-5)


def slow_ms_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2003 with scipy's filters, in a plain loop over channels and scales."""
    ndimage = pytest.importorskip("scipy.ndimage")
    weights = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)

    def smooth(x: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(x, 1.5, truncate=3.5, mode="reflect")[5:-5, 5:-5]

    values = []
    for channel in range(3):
        x, y = a[..., channel].astype(float), b[..., channel].astype(float)
        product = 1.0
        for i, weight in enumerate(weights):
            mx, my = smooth(x), smooth(y)
            vx, vy, vxy = smooth(x * x) - mx**2, smooth(y * y) - my**2, smooth(x * y) - mx * my
            contrast = (2 * vxy + 0.0009) / (vx + vy + 0.0009)
            factor = contrast if i < 4 else contrast * (2 * mx * my + 0.0001) / (mx**2 + my**2 + 0.0001)
            product *= factor.mean() ** weight
            x, y = (p[: p.shape[0] // 2 * 2, : p.shape[1] // 2 * 2] for p in (x, y))
            x, y = (p.reshape(p.shape[0] // 2, 2, p.shape[1] // 2, 2).mean(axis=(1, 3)) for p in (x, y))
        values.append(product)
    return float(np.mean(values))


def test_ms_ssim_against_a_slow_one() -> None:
    a = tensor(picture(4, 192, 208))  # sides that halve four times
    b = (a + 0.1 * torch.randn(a.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    assert float(measures.ms_ssim(a, b)) == pytest.approx(slow_ms_ssim(hwc(a), hwc(b)), abs=1e-4)


def test_ms_ssim_is_that_of_pytorch_msssim(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    package = pytest.importorskip("pytorch_msssim")
    assert float(measures.ms_ssim(*pair)) == pytest.approx(float(package.ms_ssim(*pair, data_range=1.0)), abs=1e-4)


def test_small_pictures() -> None:
    x = torch.rand(1, 3, 40, 40)
    assert math.isnan(float(measures.ms_ssim(x, x)))
    with pytest.raises(UniresError, match="11 pixels"):
        measures.ssim(x[..., :9, :], x[..., :9, :])


# -- LPIPS ----------------------------------------------------------------------------------------------------


class Fire(nn.Module):
    def __init__(self, entry: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(entry, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat((F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))), 1)


class SqueezeNet(nn.Module):
    """Iandola et al. 2016, version 1.1, as torchvision numbers its layers."""

    def __init__(self) -> None:
        super().__init__()
        pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 3, stride=2), nn.ReLU(), pool, Fire(64, 16, 64), Fire(128, 16, 64), pool,
            Fire(128, 32, 128), Fire(256, 32, 128), pool, Fire(256, 48, 192), Fire(384, 48, 192),
            Fire(384, 64, 256), Fire(512, 64, 256),
        )


def slow_lpips(path: Path, a: torch.Tensor, b: torch.Tensor) -> float:
    """Zhang et al. 2018, from modules: taps after the layers 1, 4, 7, 9, 10, 11, 12."""
    from safetensors.torch import load_file

    tensors = load_file(path)
    net = SqueezeNet()
    net.load_state_dict({k: v for k, v in tensors.items() if k.startswith("features")})
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    total = 0.0
    pictures = [((p * 2 - 1) - shift.view(1, 3, 1, 1)) / scale.view(1, 3, 1, 1) for p in (a, b)]
    tap = 0
    for i, layer in enumerate(net.features):
        pictures = [layer(p) for p in pictures]
        if i in (1, 4, 7, 9, 10, 11, 12):
            x, y = (p / (p.norm(dim=1, keepdim=True) + 1e-10) for p in pictures)
            total += float((((x - y) ** 2) * tensors[f"lin{tap}.weight"]).sum(1).mean())
            tap += 1
    return total


def test_lpips_against_plain_modules(lpips_file: Path, pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    ours = Lpips(lpips_file)
    with torch.no_grad():
        assert float(ours(*pair)) == pytest.approx(slow_lpips(lpips_file, *pair), abs=1e-4)
    assert float(ours(pair[0], pair[0])) == 0


def test_lpips_is_that_of_the_package(
    lpips_file: Path, pair: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same weights. The package wants torchvision's SqueezeNet; ours above stands in for it."""
    if not all(importlib.util.find_spec(name) for name in ("lpips", "tqdm")):
        pytest.skip("the package lpips is not installed")
    from safetensors.torch import load_file

    vision = types.ModuleType("torchvision")
    vision.models = types.SimpleNamespace(squeezenet1_1=lambda **options: SqueezeNet())  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", vision)
    package = importlib.import_module("lpips")
    theirs = package.LPIPS(net="squeeze", pretrained=False, pnet_rand=True, verbose=False).eval()
    tensors = load_file(lpips_file)
    features = {k.removeprefix("features."): v for k, v in tensors.items() if k.startswith("features.")}
    state = theirs.state_dict()
    for name in state:
        if name.startswith("net.slice"):
            state[name] = features[name.split(".", 2)[2]]
        elif name.startswith("lin"):
            state[name] = tensors[f"lin{name.removeprefix('lins.')[0] if name.startswith('lins') else name[3]}.weight"]
    theirs.load_state_dict(state)
    with torch.no_grad():
        expected = float(theirs(pair[0] * 2 - 1, pair[1] * 2 - 1))
    assert float(Lpips(lpips_file)(*pair)) == pytest.approx(expected, abs=1e-4)


def test_lpips_weights_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(measures.LPIPS_VARIABLE, raising=False)
    assert measures.find_lpips(None) is None
    with pytest.raises(UniresError, match="--lpips FILE"):
        measures.find_lpips(str(tmp_path / "nothing.safetensors"))
    wrong = tmp_path / "wrong.safetensors"
    save_file({"a": torch.zeros(1)}, wrong)
    monkeypatch.setenv(measures.LPIPS_VARIABLE, str(wrong))
    with pytest.raises(UniresError, match=r"features\.0\.weight"):
        measures.find_lpips(None)


# -- pyiqa ----------------------------------------------------------------------------------------------------


def test_measures_of_pyiqa(monkeypatch: pytest.MonkeyPatch) -> None:
    class Metric:
        def __init__(self, mode: str) -> None:
            self.metric_mode = mode

        def __call__(self, *pictures: torch.Tensor) -> torch.Tensor:
            return torch.tensor(float(len(pictures)))

    module = types.ModuleType("pyiqa")
    known = {"niqe": "NR", "dists": "FR"}
    module.create_metric = lambda name, device: Metric(known[name])  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyiqa", module)
    extra = measures.Extra(["niqe", "dists"])
    x = torch.zeros(1, 3, 8, 8)
    assert extra(x, x) == {"niqe": 1.0, "dists": 2.0}
    assert math.isnan(extra(x, None)["dists"])
    with pytest.raises(UniresError, match="no measure 'nique'"):
        measures.Extra(["nique"])
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(UniresError, match="pip install pyiqa"):
        measures.Extra(["niqe"])


# -- intervals ------------------------------------------------------------------------------------------------


def test_a_known_interval() -> None:
    """Darwin's maize, crossed less self-fertilised plants, in eighths of an inch: Fisher (1935, section 17) gives the
    mean 314/15 and the limits 0.03 and 41.8 (t = 2.145)."""
    darwin = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    found = measures.mean_interval(darwin)
    assert found.value == pytest.approx(314 / 15)
    assert (found.value - found.half, found.value + found.half) == pytest.approx((0.03, 41.84), abs=0.02)


def test_mixtures_of_one_photo_are_no_independent_ones() -> None:
    """However many there are, they make nothing surer than their photo is."""
    photos = [1.0, 2.0, 4.0]
    once = measures.mean_by_photo(enumerate(photos))
    many = measures.mean_by_photo((i, v + d) for i, v in enumerate(photos) for d in (-0.5, 0, 0.5) * 10)
    assert once == measures.mean_interval(photos)
    assert (many.value, many.half, many.count) == pytest.approx((once.value, once.half, 3))
    assert measures.mean_interval([v + d for v in photos for d in (-0.5, 0, 0.5) * 10]).half < once.half / 5
    assert measures.mean_by_photo([(0, 1.0), (0, math.nan), (1, math.nan)]).count == 1


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 23, 100])
def test_quantiles_of_student(freedom: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    for p in (0.9, 0.975, 0.995):
        assert measures.student_quantile(p, freedom) == pytest.approx(stats.t.ppf(p, freedom), rel=1e-6)


def test_differences_are_paired() -> None:
    base = [20.0, 30.0, 40.0]
    found = measures.paired_difference([b + d for b, d in zip(base, (1.0, 1.1, 0.9), strict=True)], base)
    assert found.value == pytest.approx(1)
    assert found.half < 0.3  # far narrower than the spread of the photos
    assert math.isnan(measures.mean_interval([1.0]).half)
    assert measures.mean_interval([]).count == 0
