"""The training configuration: dataclasses read from a TOML file; unknown options are refused."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unires.denoise.compact import CompactConfig
from unires.errors import UniresError, nearest


@dataclass(frozen=True)
class TrainConfig:
    """What to train on, for how long, and how. Folders are relative to the configuration file."""

    clean: tuple[str, ...] = ()  # folders of clean photos
    validation: tuple[str, ...] = ()  # folders of clean photos that are never trained on
    paired: dict[str, tuple[str, ...]] = field(default_factory=dict)  # task -> folders of NAME_lq / NAME_gt
    paired_share: float = 0.3  # of a task's samples, where it has pairs
    run: str = "runs/compact"
    start_from: str = ""  # a checkpoint folder; empty: random weights
    tasks: dict[str, float] = field(
        default_factory=lambda: {
            "super-resolution": 0.22,
            "motion-deblur": 0.26,
            "defocus-deblur": 0.18,
            "denoise": 0.2,
            "dejpeg": 0.14,
        }
    )
    crop: int = 96
    margin: int = 16  # cut off after degrading: a blur sees beyond the crop, a JPEG grid has any phase
    batch: int = 16
    steps: int = 1_000_000
    minutes: float = 0.0  # stop after so long; 0: after `steps`
    optimizer: str = "muon"  # or "adamw"
    rate: float = 1e-3
    warmup: int = 200
    decay_minutes: float = 0.0  # the last so many minutes of `minutes`: the rate falls linearly to zero
    first_step_share: float = 0.5  # of the samples at t = 1
    task_dropout: float = 0.1
    condition_dropout: float = 0.1
    severity_dropout: float = 0.5
    ema: float = 0.999
    clip: float = 1.0
    save_minutes: float = 5.0
    validate_minutes: float = 15.0
    seed: int = 0
    device: str = "cpu"
    threads: int = 0
    model: CompactConfig = field(default_factory=CompactConfig)

    @classmethod
    def read(cls, path: Path, changes: Sequence[str] = ()) -> TrainConfig:
        """From a TOML file; `changes` are lines in TOML (`minutes=10`) that win over it.

        Raises UniresError naming the unknown option."""
        try:
            values = tomllib.loads(Path(path).read_text())
            for change in changes:
                values |= tomllib.loads(change)
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UniresError(f"The configuration {path} can't be read: {error}.") from error
        model = build(CompactConfig, values.pop("model", {}), "model.")
        base = Path(path).parent
        for key in ("clean", "validation"):
            values[key] = tuple(str(base / v) for v in values.get(key, ()))
        values["paired"] = {k: tuple(str(base / f) for f in v) for k, v in values.get("paired", {}).items()}
        config: TrainConfig = build(cls, values | {"model": model}, "")
        return config


def build(kind: type, values: dict[str, Any], prefix: str) -> Any:
    """A dataclass from a dictionary; lists become tuples, unknown keys are refused."""
    names = [f.name for f in dataclasses.fields(kind)]
    for key in values:
        if key not in names:
            raise UniresError(nearest(prefix + key, [prefix + n for n in names], kind="option"))
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
