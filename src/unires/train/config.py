"""What training is configured by: dataclasses read from a TOML file; unknown options are refused."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from unires.denoise.compact import CompactConfig
from unires.errors import UniresError, nearest, shown

DEVICES = ("cpu", "cuda", "mps")


@dataclass(frozen=True)
class TrainConfig:
    """What to train on, for how long, and how. Folders of photos are relative to the configuration file, `run` and
    `start_from` to where training is started."""

    clean: tuple[str, ...] = ()  # folders of clean photos
    validation: tuple[str, ...] = ()  # folders of clean photos that are never trained on
    paired: dict[str, tuple[str, ...]] = field(default_factory=dict)  # task -> folders of NAME_lq / NAME_gt
    paired_share: float = 0.3  # of a task's samples, where it has pairs
    relay_share: float = 0.0  # of a task's other samples: what another expert has cleaned (`relay.py`)
    kept_share: float = 0.0  # of the photos to be enlarged: what counts is what equation (3) makes of the estimate
    soft_share: float = 0.0  # of the photos that noise or JPEG are to be taken out of: blurred, and to stay so
    mixtures: bool = False  # `blind` alone learns, from random mixtures: what experts are compared with (`mixed.py`)
    run: str = "runs/compact"
    start_from: str = ""  # a checkpoint folder (see `reshape.py` where its shape is another); empty: random weights
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
    surfaces_only: bool = False  # of the network nothing is trained but what tasks have for themselves (`model.own`)
    rate: float = 1e-3
    warmup: int = 200
    decay_minutes: float = 0.0  # the last so many minutes of `minutes`: the rate falls linearly to zero
    first_step_share: float = 0.5  # of the samples at t = 1
    task_dropout: float = 0.1
    condition_dropout: float = 0.1
    severity_dropout: float = 0.5
    severity_jitter: float = 0.02  # deviation of what experts are told from the truth, as a router's reading has it
    angle_jitter: float = 0.04  # likewise, radians
    angle_dropout: float = 0.1  # of the motions' directions: not told
    relay_jitter: float = 0.02  # `severity_jitter` where another expert has cleaned: less can be read there
    relay_angle_dropout: float = 0.1  # likewise
    ema: float = 0.999
    clip: float = 1.0
    save_minutes: float = 5.0
    validate_minutes: float = 15.0
    seed: int = 0
    device: str = "cpu"
    threads: int = 0
    model: CompactConfig = field(default_factory=CompactConfig)

    def __post_init__(self) -> None:
        for name, choices in (("optimizer", ("muon", "adamw")), ("device", DEVICES)):
            if getattr(self, name) not in choices:
                raise UniresError(nearest(getattr(self, name), choices, kind=name))
        for name in ("crop", "batch", "steps", "warmup", "rate"):
            if not getattr(self, name) > 0:
                raise UniresError(f"The option {name} must be more than 0, not {getattr(self, name)}.")
        multiple = self.model.multiple
        if self.crop % multiple or (self.relay_share and 2 * self.margin % multiple):
            said = ", and so must 2 margin with relay_share" if self.relay_share else ""
            raise UniresError(f"The option crop must be a multiple of {multiple}{said}.")
        if self.surfaces_only and not self.model.own:
            raise UniresError("With surfaces_only nothing is trained but what `model.own` names, and that is empty.")
        if not self.tasks or not all(odds > 0 for odds in self.tasks.values()):
            raise UniresError("The option tasks needs at least one task, and odds of more than 0.")

    @classmethod
    def read(cls, path: Path, changes: Sequence[str] = ()) -> TrainConfig:
        """From a TOML file; `changes` are lines in TOML (`minutes=10`) that win over it.

        Raises UniresError naming the unknown option."""
        values = read_values(path, changes)
        model = values.pop("model", {})
        if not isinstance(model, dict):
            raise UniresError("The option model is a table.")
        config: TrainConfig = build(cls, values | {"model": build(CompactConfig, model, "model.")}, "")
        base = Path(path).parent

        def beside(folders: Sequence[str]) -> tuple[str, ...]:
            return tuple(str(base / folder) for folder in folders)

        paired = {task: beside(folders) for task, folders in config.paired.items()}
        return dataclasses.replace(
            config, clean=beside(config.clean), validation=beside(config.validation), paired=paired
        )


@dataclass(frozen=True)
class RouterTraining:
    """How to train a router. Folders are relative to the configuration file, `model` and `run` to where training is
    started; `model` "" is the shipped one."""

    clean: tuple[str, ...] = ()
    model: str = ""
    run: str = "runs/router"
    start_from: str = ""  # a folder with a router: its report is kept, only what goes with experts is new
    add: str = ""  # an expert that was added to `model`: that router is kept whole, and only the expert's column is new
    degradation: str = ""  # what that expert is for (`unires.degrade.recipe`); half of the samples suffer it first
    crop: int = 256  # that the report is learnt from
    seen: int = 352  # pixels a side that the router sees of a sample when weights are learnt,
    asked: int = 160  # and of its centre, that experts run on,
    rim: int = 0  # but for so many on each side, where their errors don't count: experts see less there than in photos
    margin: int = 16
    region_share: float = 0.25  # of the samples, of which a part stays clean
    camera_share: float = 0.0  # of the samples, whose clean picture is made like a camera's file (`degrade.camera`)
    plain_share: float = 0.5  # of the samples: straight paths, discs, white noise, one encoder (`degrade.mixtures`)
    report_from: str = ""  # a folder with a router whose report is learnt further; empty: from the start
    report_rounds: int = 4000  # of `batch` new samples each; its rate falls to zero over them,
    report_minutes: float = 0.0  # or over so long, if that isn't 0
    report_views: int = 1  # how often each of them is seen, each time turned or mirrored: to draw them takes longest
    second_samples: int = 0  # that the second look is learnt from; 0: it stays as it is in `start_from`
    second_views: int = 8  # how often each of them is seen, turned or mirrored
    batch: int = 64
    samples: int = 1600  # that the experts are run on
    rounds: int = 3000  # of 64 of them each, of each step's weights; 0: they stay as they are in `start_from`
    last_step_only: bool = False  # the default's last step's weights are learnt on; all others stay as in `start_from`
    rate: float = 2e-3
    charge: float = 0.015  # what a network pass costs, in units of the log error: 0.065 dB
    seed: int = 0
    device: str = "cpu"
    threads: int = 0

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise UniresError(nearest(self.device, DEVICES, kind="device"))
        ones = ("crop", "seen", "asked", "report_rounds", "report_views", "second_views", "batch")
        zeros = ("second_samples", "rounds", "rate")
        for name, least in {**dict.fromkeys(ones, 1), "samples": 2, **dict.fromkeys(zeros, 0)}.items():
            if not getattr(self, name) >= least:
                raise UniresError(f"The option {name} must be at least {least}, not {getattr(self, name)}.")
        if not self.rounds and not self.start_from:
            raise UniresError("Without rounds a router's weights are those of `start_from`, which is missing.")
        if self.last_step_only and not self.start_from:
            raise UniresError("With `last_step_only` the other weights are those of `start_from`, which is missing.")

    @classmethod
    def read(cls, path: Path, changes: Sequence[str] = ()) -> RouterTraining:
        """From a TOML file; raises UniresError naming an unknown option."""
        config: RouterTraining = build(cls, read_values(path, changes), "")
        base = Path(path).parent
        return dataclasses.replace(config, clean=tuple(str(base / folder) for folder in config.clean))


def read_values(path: Path, changes: Sequence[str]) -> dict[str, Any]:
    """A TOML file's values; `changes`, lines in TOML, win. Raises UniresError in one sentence."""
    try:
        values = tomllib.loads(Path(path).read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UniresError(f"The configuration {shown(path)} can't be read: {_first_line(error)}.") from error
    for change in changes:
        try:
            _merge(values, tomllib.loads(change))
        except tomllib.TOMLDecodeError as error:
            raise UniresError(f"{shown(change)} is no option; write KEY=VALUE, texts in quotes.") from error
    return values


KINDS: dict[type, str] = {int: "a whole number", float: "a number", str: "a text", tuple: "a list", dict: "a table"}


def build(kind: type, values: dict[str, Any], prefix: str) -> Any:
    """A dataclass from a dictionary; lists become tuples, unknown keys and values of another kind are refused."""
    hints = get_type_hints(kind)
    for key, value in values.items():
        if key not in hints:
            raise UniresError(nearest(prefix + key, [prefix + n for n in hints], kind="option"))
        if not _fits(value, hints[key]):
            what = KINDS.get(get_origin(hints[key]) or hints[key], "of another kind")
            inside = [KINDS[a].split()[-1] for a in get_args(hints[key]) if a in KINDS and a is not str]
            what += f" of {inside[-1]}s" if inside else ""
            raise UniresError(f"The option {prefix}{key} is {what}, not {shown(value)}.")
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value read from TOML is of the type that a field is annotated with."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin is tuple:
        return isinstance(value, (list, tuple)) and all(_fits(v, inside[0]) for v in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(v, inside[1]) for v in value.values())
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, hint)


def _merge(values: dict[str, Any], changes: dict[str, Any]) -> None:
    """`changes` win, inside tables too: `model.embedding=96` leaves the rest of the model as it is."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            _merge(values[key], value)
        else:
            values[key] = value


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
