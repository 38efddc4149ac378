"""Restoring in latents: any size, tiles like one piece, the autoencoder's ceiling, the command line."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from unires.denoise.checkpoint import load_denoiser
from unires.denoise.convert import convert
from unires.denoise.latent import LatentDenoiser
from unires.doors.cli import main
from unires.errors import OptionError, UniresError
from unires.photo.tiles import cut, plan_tiles
from unires.restore.latents import TiledLatents, blend, plan_latents, psnr_of
from unires.restore.restorer import Restorer

LEVEL = 1 / 255


@pytest.fixture(scope="module")
def folder(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("latent") / "model"
    convert(str(base_folder), out)
    return out


@pytest.fixture(scope="module")
def denoiser(folder: Path) -> LatentDenoiser:
    made = load_denoiser(folder, kind=torch.float32)
    assert isinstance(made, LatentDenoiser)
    return made


@pytest.fixture(scope="module")
def wide(astronaut: Any) -> Tensor:
    return torch.from_numpy(astronaut).permute(2, 0, 1)[None].float() / 255


def tiled(denoiser: LatentDenoiser, height: int = 64) -> TiledLatents:
    """For height x 64 latents, with tiles smaller than any restore would make them."""
    latents, pixels = (
        plan_tiles(height * k, 64 * k, 48 * k, 24 * k, margin=8 * k, multiple=2 * k) for k in (1, 8)
    )
    assert len(latents) > 1
    return TiledLatents(denoiser, latents, pixels)


def test_tiled_decoding_is_untiled_decoding(denoiser: LatentDenoiser, wide: Tensor) -> None:
    """To a hundredth of a level of 255, for an untrained autoencoder with ten times the range of a photo's detail."""
    latents = denoiser.encode(wide)
    whole, parts = denoiser.decode(latents), tiled(denoiser)
    assert float((parts.decode(latents) - whole).abs().mean()) < LEVEL / 100 < float(whole.std()) / 1000
    alone = blend(parts.pixels, (denoiser.decode(cut(latents, window)) for window in parts.plan))
    assert float((alone - whole).abs().mean()) > 4 * LEVEL  # what sharing the statistics is for


def test_tiled_encoding_is_untiled_encoding(denoiser: LatentDenoiser, wide: Tensor) -> None:
    latents = denoiser.encode(wide)
    assert float((tiled(denoiser).encode(wide) - latents).abs().mean() / latents.std()) < 1e-3


def test_pictures_too_large_for_all_tiles_at_once(
    denoiser: LatentDenoiser, wide: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statistics of crops: within one level on average."""
    monkeypatch.setattr(import_module("unires.restore.latents"), "WAITING", 0.0)
    latents = denoiser.encode(wide)
    whole, parts = denoiser.decode(latents), tiled(denoiser)
    assert 0 < float((parts.decode(latents) - whole).abs().mean()) < LEVEL
    assert float((parts.encode(wide) - latents).abs().mean() / latents.std()) < 0.03


def test_an_autoencoder_with_attention_everywhere_is_not_cut(
    denoiser: LatentDenoiser, wide: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for block in (*denoiser.net.vae.encoder.down_blocks, *denoiser.net.vae.decoder.up_blocks):
        monkeypatch.setattr(block, "attentions", [torch.nn.Identity()], raising=False)
    with pytest.raises(UniresError, match="can't be cut into tiles"):
        tiled(denoiser).encode(wide)


@pytest.mark.parametrize("size", [(64, 4096), (1344, 2048), (3008, 1008)])
def test_tiles_in_pixels_are_the_tiles_in_latents(denoiser: LatentDenoiser, size: tuple[int, int]) -> None:
    latents, pixels = plan_latents(denoiser.facts, *size, 1024)
    assert [tuple(8 * v for v in window) for window in latents] == [tuple(window) for window in pixels]


def test_a_batch_is_its_pictures_one_by_one(denoiser: LatentDenoiser, wide: Tensor) -> None:
    both = torch.cat((wide, wide.flip(-1)))[..., :384, :]
    parts = tiled(denoiser, 48)
    torch.testing.assert_close(parts.encode(both)[1:], parts.encode(both[1:]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [(40, 56), (64, 64), (33, 17)])
def test_any_size_and_seed(denoiser: LatentDenoiser, wide: Tensor, size: tuple[int, int]) -> None:
    restorer, x = Restorer(denoiser), wide[..., : size[0], : size[1]]
    options: dict[str, Any] = {"weights": "denoise=0.6,dejpeg=0.4; motion-deblur@relay", "steps": 2}
    first = restorer.pixels(x, seed=1, **options)
    assert first.shape == x.shape and torch.equal(first, restorer.pixels(x, seed=1, **options))
    assert not torch.equal(first, restorer.pixels(x, seed=2, **options))
    assert restorer.report is not None and restorer.report.passes == 3


def test_detail_puts_back_what_the_autoencoder_loses(denoiser: LatentDenoiser, wide: Tensor) -> None:
    restorer, x = Restorer(denoiser), wide[..., :64, :80]
    plain, half, whole = (restorer.pixels(x, weights="denoise", detail=share) for share in (0.0, 0.5, 1.0))
    lost = x - denoiser.decode(denoiser.encode(x))
    torch.testing.assert_close(half - plain, 0.5 * lost, atol=1e-5, rtol=0)
    torch.testing.assert_close(whole - plain, lost, atol=1e-5, rtol=0)
    assert restorer.report is not None and restorer.report.ceiling == pytest.approx(psnr_of(lost), abs=1e-3)
    assert restorer.ceiling(x) == pytest.approx(psnr_of(lost), abs=1e-3)
    with pytest.raises(OptionError, match="detail is a number from 0 to 1"):
        restorer.pixels(x, detail=2)


def test_a_model_on_pixels_has_no_ceiling(tiny: Any, wide: Tensor) -> None:
    with pytest.raises(UniresError, match="no autoencoder"):
        Restorer(tiny).ceiling(wide)


def test_odd_names_are_told_in_one_line(
    tmp_path: Path, astronaut: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Measure:
        def ceiling(self, _: Any) -> float:
            return 30.0

    photo = tmp_path / "caf\udce9\x1b[2J.png"
    Image.fromarray(astronaut[:8, :8]).save(photo)
    monkeypatch.setattr(Restorer, "from_pretrained", lambda *_: Measure())
    assert main(["ceiling", str(photo), "--model", "any"]) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("/caf\\udce9\\x1b[2J.png': 30.00 dB")


def test_the_command_line(
    base_folder: Path, tmp_path: Path, astronaut: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Convert, measure, restore, restore composed: as with the compact model."""
    photo, model = tmp_path / "photo.png", tmp_path / "model"
    Image.fromarray(astronaut[:48, :72]).save(photo)
    assert main(["convert", str(base_folder), str(model)]) == 0
    assert main(["ceiling", str(photo), "--model", str(model), "--device", "cpu"]) == 0
    assert "dB" in capsys.readouterr().out
    for name, extra in (("one", []), ("composed", ["--weights", "denoise=0.7,dejpeg=0.3; motion-deblur@relay"])):
        out = tmp_path / f"{name}.png"
        words = ["restore", str(photo), "-o", str(out), "--model", str(model), "--device", "cpu", *extra]
        assert main(words) == 0, capsys.readouterr().err
        assert "the autoencoder alone" in capsys.readouterr().out
        with Image.open(out) as restored:
            assert restored.size == (72, 48)
    assert main(["ceiling", str(photo), "--model", str(base_folder)]) == 1
    assert "no config.json" in capsys.readouterr().err
