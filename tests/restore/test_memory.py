"""Memory: flat however large the photo, and when it runs out a restore is repeated with smaller tiles."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unires.denoise.compact_denoiser import CompactDenoiser
from unires.errors import UniresError
from unires.restore import memory
from unires.restore.restorer import Restorer

ERRORS = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried ..."),
    RuntimeError("not enough memory: you tried to allocate 12 bytes."),
]


class Cramped:
    """A denoiser with room for `most` pixels of the picture at once."""

    def __init__(self, inner: CompactDenoiser, most: int, error: Exception, patience: int = 0) -> None:
        self.inner, self.most, self.error, self.patience = inner, most, error, patience
        self.sides: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def predict(self, z: Any, *rest: Any) -> Any:
        self.sides.append(z.shape[-1])
        if z.shape[-1] * z.shape[-2] > self.most and len(self.sides) > self.patience:
            raise self.error
        return self.inner.predict(z, *rest)


def photo(height: int, width: int) -> Any:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize(("error", "patience", "steps"), [*zip(ERRORS, [0, 1, 1, 2], [1, 1, 2, 2], strict=True)])
def test_out_of_memory_halves_the_tile(tiny: CompactDenoiser, error: Exception, patience: int, steps: int) -> None:
    """`patience`: memory runs out only after that many tiles are done."""
    x = photo(620, 420)
    cramped = Cramped(tiny, 390 * 390, error, patience)
    seen: list[float] = []
    out = Restorer(cramped)(x, tile=480, weights="denoise", steps=steps, progress=seen.append)
    assert cramped.sides[0] > 384 and set(cramped.sides[patience + 1 :]) == {384}
    assert seen == sorted(seen) and seen[-1] == 1
    assert np.array_equal(out, Restorer(tiny)(x, tile=384, weights="denoise", steps=steps))


def test_when_no_tile_is_small_enough(tiny: CompactDenoiser) -> None:
    for size in ((900, 700), (100, 80)):
        with pytest.raises(UniresError, match="not enough memory to restore"):
            Restorer(Cramped(tiny, 10, MemoryError()))(photo(*size), weights="denoise")


def test_other_errors_are_no_lack_of_memory(tiny: CompactDenoiser) -> None:
    cramped = Cramped(tiny, 10, RuntimeError("a fault"))
    with pytest.raises(RuntimeError, match="a fault"):
        Restorer(cramped)(photo(500, 400), weights="denoise")
    assert len(cramped.sides) == 1


def test_tiles_fit_the_memory_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, side in ((None, 1024), (64 << 30, 1024), (1 << 30, 768), (256 << 20, 384), (1, 0)):
        monkeypatch.setattr(memory, "memory_of", lambda device, there=there: there)
        assert memory.tile_for(400, "cpu") == side


def test_a_container_has_what_it_is_allowed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "_LIMITS", (str(tmp_path / "none"),))
    there = memory.memory_of("cpu")
    assert there is not None and there > 1 << 28
    for text, expected in (("max\n", there), ("1000000\n", 1_000_000), (str(1 << 62), there)):
        (tmp_path / "limit").write_text(text)
        monkeypatch.setattr(memory, "_LIMITS", (str(tmp_path / "limit"),))
        assert memory.memory_of("cpu") == expected


PEAK = """
import json, re, sys
from pathlib import Path
import numpy as np
import torch
from unires.denoise.compact import TASKS
from unires.denoise.interface import Facts
from unires.restore.restorer import Restorer

class Plain:
    # no network: what is left is what the restorer itself holds
    facts = Facts(TASKS, 3, 1, 16, 16, 0, "float32")
    def encode(self, pixels): return pixels * 2 - 1
    def predict(self, z, t, condition, tasks, hints=None): return condition.clone()
    def decode(self, sample): return (sample + 1) / 2

def peak():
    # not by getrusage: a new process inherits the peak of the one that started it
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

height, width, options = json.loads(sys.argv[1])
Restorer(Plain())(np.zeros((500, 500, 3), np.uint8), tile=256, **options)
before = peak()
x = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
out = Restorer(Plain())(x, tile=256, **options)
scale = options.get("scale", 1)
assert scale != 1 or "down" in options["weights"] or np.abs(out[:50].astype(int) - x[:50]).max() <= 1
print((peak() - before - x.nbytes - out.nbytes) / 2**20)
"""


@pytest.mark.parametrize(
    ("height", "width", "options"),
    [
        (2600, 1500, {"weights": "blind"}),
        (1500, 2600, {"weights": "denoise@down4=0.5,blind=0.5"}),
        (1500, 2600, {"weights": "denoise; dejpeg@relay", "steps": 2, "solver": "multistep"}),
        (700, 1400, {"weights": "blind", "scale": 2}),
    ],
    ids=["one step", "reduced", "two steps", "enlarged"],
)
def test_beside_the_photo_and_the_result_memory_is_flat(height: int, width: int, options: dict[str, Any]) -> None:
    """Four megapixels are 47 MB as float32, and each step would hold several of that size."""
    if not Path("/proc/self/status").exists():
        pytest.skip("peak memory is read from /proc")
    words = [sys.executable, "-c", PEAK, json.dumps([height, width, options])]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False, env={**os.environ})
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 30
