"""A toy world: photos, pairs made on the spot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unires.bench.methods import Ours
from unires.bench.run import Bench, Store


def picture(seed: int, height: int = 64, width: int = 72) -> np.ndarray:
    """Something with edges, flat parts and texture: H x W x 3, uint8."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    out = np.stack([90 + 60 * np.sin(x / (9 + c) + seed) + 0.6 * y for c in range(3)], axis=-1)
    for _ in range(6):
        top, left = random.integers(0, height - 16), random.integers(0, width - 16)
        out[top : top + 14, left : left + 12] = random.uniform(20, 235, 3)
    out[: height // 3] += random.normal(0, 9, (height // 3, width, 1))
    return out.clip(0, 255).round().astype(np.uint8)


def save(array: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).permute(2, 0, 1)[None].float() / 255


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root: two clean photos, two photos to tune on, two real pairs of noise."""
    root = tmp_path_factory.mktemp("data")
    for i in range(2):
        save(picture(i), root / "val/clean" / f"clean{i}.png")
        save(picture(10 + i), root / "train" / f"train{i}.png")
        clean = picture(20 + i)
        noisy = clean + np.random.default_rng(i).normal(0, 12, clean.shape)
        save(clean, root / "val/paired/noise" / f"pair{i}_gt.png")
        save(noisy.clip(0, 255).astype(np.uint8), root / "val/paired/noise" / f"pair{i}_lq.png")
    return root


@pytest.fixture(scope="session")
def model(tiny_folder: Path) -> str:
    return str(tiny_folder)


@pytest.fixture
def bench(model: str, tmp_path: Path) -> Bench:
    return Bench(Ours(model, "cpu", "float32"), Store(tmp_path / "results.jsonl"), log=lambda line: None)
