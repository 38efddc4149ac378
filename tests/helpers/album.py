"""A folder of photos, the digests of what lies in one, and the command that restores one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from unires.jobs.journal import NAME, RECORDS

ENCODE = {"format": None, "quality": None, "bit_depth": None}


def make_photos(where: Path, count: int, height: int = 24, width: int = 32) -> None:
    dice = np.random.default_rng(0)
    for i in range(count):
        path = where / ("inner" if i % 3 == 0 else ".") / f"photo{i:02}{('.png', '.jpg')[i % 2]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(dice.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)


def digests(where: Path) -> dict[str, str]:
    files = {p.relative_to(where).as_posix(): p for p in sorted(where.rglob("*")) if p.is_file()}
    return {
        name: hashlib.sha256(p.read_bytes()).hexdigest()
        for name, p in files.items()
        if name != NAME and not name.startswith(RECORDS)
    }


def command(source: object, target: object, model: Path, *words: str) -> list[str]:
    plain = ["restore", str(source), "-o", str(target), "--model", str(model), "--device", "cpu", "--recursive"]
    return [*plain, "--weights", "keep=0.5,denoise=0.5", *words]
