"""Sets: what is degraded how, pairs in published layouts, and what is said where photos are missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from unires.bench import sets
from unires.degrade import kernels, operators
from unires.degrade.recipe import Recipe
from unires.errors import UniresError

from .conftest import picture, save


def by_name(name: str, data: Path) -> dict[str, sets.PhotoSet]:
    return {s.name: s for s in sets.open_sets(name, data)}


def test_each_photo_has_its_own_seed(data: Path) -> None:
    motion = by_name("singles", data)["motion 9"]
    cases = [motion.load(i) for i in range(2)]
    angles = {dict(c.truth.recipe.steps[0][1])["angle"] for c in cases if c.truth.recipe}
    assert len(angles) == 2
    again = motion.load(1)
    assert torch.equal(again.lq, cases[1].lq)
    alone = motion.fewer(1, 0)  # who else is measured changes nothing
    assert torch.equal(alone.load(0).lq, cases[0].lq)


@pytest.mark.parametrize("name", ["motion 9", "defocus 3"])
def test_the_kernel_that_peers_get_is_the_true_one(data: Path, name: str) -> None:
    case = by_name("singles", data)[name].load(0)
    assert case.gt is not None and case.truth.kernel is not None and case.truth.sigma == 1
    blurred = operators.blur(case.gt, case.truth.kernel[None])
    error = (case.lq - blurred) * 255
    assert float(error.std()) == pytest.approx(1, abs=0.1)  # the noise of sigma 1 and the rounding are all that is left
    other = operators.blur(case.gt, kernels.gaussian(torch.tensor([1.0])))
    assert float((case.lq - other).std()) * 255 > 2


def test_truths() -> None:
    def truth(text: str) -> sets.Truth:
        return sets.truth_of(sets.settled(Recipe.parse(text), 3))

    assert truth("noise(sigma=25)").sigma == 25
    assert truth("resize(scale=3) + jpeg(quality=30)").scale == 3
    assert truth("noise(sigma=5) + jpeg + noise(sigma=7)").sigma is None
    assert truth("jpeg").kernel is None
    for text in ("motion(length=9, angle=30, bend=20)", "defocus(radius=2, blades=6, rotation=10)", "gaussian_blur"):
        kernel = truth(text).kernel
        assert kernel is not None
        x = torch.rand(1, 3, 40, 40)
        expected = operators.round8(operators.blur(x, kernel[None]))
        assert torch.allclose(sets.settled(Recipe.parse(text), 3)(x, 3), expected, atol=1e-6)


def test_a_cached_photo_is_the_photo(data: Path, tmp_path: Path) -> None:
    noise = by_name("singles", data)["noise 25"]
    plain, made, cached = noise.load(0), noise.load(0, tmp_path), noise.load(0, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    assert torch.equal(plain.lq, made.lq) and torch.equal(plain.lq, cached.lq)


def test_crops_and_fewer_photos(data: Path) -> None:
    whole = by_name("singles", data)["noise 25"]
    small = whole.fewer(1, 32)
    assert [e.photo for e in small.files] == ["clean0"]
    assert small.load(0).lq.shape == (1, 3, 32, 32)
    assert small.definition(0) != whole.definition(0) != whole.definition(1)


def test_another_file_of_that_name_is_another_photo(data: Path, tmp_path: Path) -> None:
    entry = by_name("singles", data)["noise 25"].files[0]
    copies = []
    for folder, more in (("a", b""), ("b", b""), ("a", b"x")):
        (tmp_path / folder).mkdir(exist_ok=True)
        path = tmp_path / folder / entry.path.name
        path.write_bytes(entry.path.read_bytes() + more)
        copies.append(sets.PhotoSet("mine", files=(sets.Entry(entry.photo, path),)).definition(0))
    assert len(set(copies)) == 3


def test_real_pairs(data: Path) -> None:
    noise = by_name("real-noise", data)["real-noise"]
    assert [e.photo for e in noise.files] == ["pair0", "pair1"]
    case = noise.load(0)
    assert case.gt is not None and noise.expert == "denoise"
    assert 8 < float((case.lq - case.gt).std()) * 255 < 14


PUBLISHED = {
    "gopro": ("GOPRO_Large/test/A/blur/1.png", "GOPRO_Large/test/A/sharp/1.png", "gopro"),
    "realblur": ("RealBlur_J/input/1.png", "RealBlur_J/target/1.png", "realblur J"),
    "dpdd": ("DPDD/test_c/source/1.png", "DPDD/test_c/target/1.png", "dpdd"),
    "sidd": ("SIDD_Medium_Srgb/Data/1/1_NOISY_SRGB_01.PNG", "SIDD_Medium_Srgb/Data/1/1_GT_SRGB_01.PNG", "sidd medium"),
    "realsr": ("RealSR (V3)/Canon/Test/4/Canon_001_LR4.png", "RealSR (V3)/Canon/Test/4/Canon_001_HR.png", "realsr x4"),
    "drealsr": ("DRealSR/Test_x3/test_LR/a_x1.png", "DRealSR/Test_x3/test_HR/a_x3.png", "drealsr x3"),
    "cdd11": ("CDD-11_test/low_haze/1.png", "CDD-11_test/clear/1.png", "cdd11 low_haze"),
    "mio100": ("MiO100/LQ/blur+jpeg/1.png", "MiO100/HQ/1.png", "mio100 LQ/blur+jpeg"),
    "foundir": ("FoundIR/Blur+Noise/LQ/1.png", "FoundIR/Blur+Noise/GT/1.png", "foundir Blur+Noise"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_layouts(name: str, tmp_path: Path) -> None:
    degraded, true, label = PUBLISHED[name]
    small = (40, 36) if "realsr" in name else (80, 72)
    save(picture(0, *small), tmp_path / degraded)
    save(picture(1, 80, 72), tmp_path / true)
    found = by_name(name, tmp_path)[label]
    assert not found.missing
    case = found.load(0)
    assert case.gt is not None and case.gt.shape == case.lq.shape == (1, 3, 80, 72)
    if small == (80, 72):
        assert np.array_equal((case.lq[0].permute(1, 2, 0) * 255).round().byte().numpy(), picture(0, 80, 72))
    assert np.array_equal((case.gt[0].permute(1, 2, 0) * 255).round().byte().numpy(), picture(1, 80, 72))


def test_photos_of_one_name_in_several_folders(tmp_path: Path) -> None:
    for scene in ("A", "B"):
        for kind in ("blur", "sharp"):
            save(picture(0), tmp_path / f"GOPRO_Large/test/{scene}/{kind}/000001.png")
    assert [e.photo for e in by_name("gopro", tmp_path)["gopro"].files] == ["A/blur/000001", "B/blur/000001"]


def test_a_missing_set_says_where_to_get_it(tmp_path: Path) -> None:
    for name in sets.names():
        for s in sets.open_sets(name, tmp_path):
            assert s.missing and not s.files
    assert "get it from" in sets.open_sets("gopro", tmp_path)[0].missing
    save(picture(0), tmp_path / "val/paired/noise/a_lq.png")
    assert "no true photo a_gt.png" in sets.open_sets("real-noise", tmp_path)[0].missing


def test_declarations_that_can_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(UniresError, match="did you mean 'singles'"):
        sets.open_sets("single", tmp_path)
    path = tmp_path / "own.toml"
    wrong = {"kind = 'odd'": "kind 'odd'", "kind = [": "can't be read", "kind = 'plain'\nfoldre = 'x'": "folder"}
    for text, said in wrong.items():
        path.write_text(text)
        with pytest.raises(UniresError, match=said):
            sets.open_sets(str(path), tmp_path)
    path.write_text('kind = "synthetic"\nclean = "val/clean"\nrecipes = { soft = "gaussian_blur(sigma=2)" }\n')
    save(picture(0), tmp_path / "val/clean/a.png")
    assert sets.open_sets(str(path), tmp_path)[0].load(0).truth.kernel is not None
