"""Methods: what turns a degraded photo into a restored one. Ours by name, weights and dials; peers by one function.

    input                        the degraded photo
    expert                       the expert that the set's degradation belongs to, one step
    default                      `unires restore` without options
    blind, denoise, ...          one expert; or any weights: "denoise=0.7,motion-deblur=0.3; dejpeg@relay"
    ...  [steps=8 fidelity=0]    dials after it, in brackets
    bm3d, nlm, ...               peers (`unires.bench.peers`)
    spandrel:FILE  onnx:FILE  cmd:PROGRAM ... {input} ... {output}"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from unires.bench.sets import Case, PhotoSet
from unires.errors import OptionError, UniresError, nearest

INPUT, EXPERT, DEFAULT = "input", "expert", "default"


@dataclass(frozen=True)
class Answer:
    """A restored photo, 1 x 3 x H x W in about [0, 1]; network passes it cost (0 for peers); and what to know about
    it, such as the strength that was best."""

    pixels: Tensor
    passes: int = 0
    note: str = ""


@dataclass(frozen=True)
class Method:
    """`version` identifies what stands behind the name (weights, package version): results of another version are
    not reused. `oracle` says that it was told something that a user does not know."""

    name: str
    run: Callable[[Case], Answer] = field(compare=False)
    version: str = ""
    oracle: str = ""


class NotApplicable(UniresError):
    """The method has no meaning for that set (a kernel is wanted where none is known); it gets no row."""


class Ours:
    """Our methods, from one Restorer that is made when first used."""

    def __init__(self, model: str | None = None, device: str = "auto") -> None:
        self.model, self.device = model, device
        self._restorer: Any = None

    @property
    def restorer(self) -> Any:
        if self._restorer is None:
            from unires.restore.restorer import Restorer

            self._restorer = Restorer.from_pretrained(self.model, self.device)
        return self._restorer

    @property
    def tasks(self) -> tuple[str, ...]:
        tasks: tuple[str, ...] = self.restorer.denoiser.facts.tasks
        return tasks

    @property
    def version(self) -> str:
        """Of the weights in use: their hash and the number type that they are computed in."""
        return f"{model_hash(self.model)}-{self.restorer.denoiser.facts.number_type}"

    def method(self, name: str, text: str | None, dials: dict[str, float]) -> Method:
        """text: weights, or None for the default."""
        options: dict[str, Any] = {"weights": text, **dials}
        if "steps" in options:
            options["steps"] = int(options["steps"])
        restorer = self.restorer
        weights, _ = restorer.plan(text, options.get("steps"), options.get("fidelity"), 1)  # refuses nonsense now

        def run(case: Case) -> Answer:
            out = restorer.pixels(case.lq, **options)
            return Answer(out, restorer.report.passes * restorer.report.tiles)

        # what is chosen without options may change with the code as well as with the weights
        return Method(name, run, f"{self.version}{'' if text else f'-{weights}'}")


def model_hash(folder: str | None) -> str:
    """Ten hexadecimal digits of a checkpoint's configuration and weights (None: the shipped one)."""
    from unires.denoise.checkpoint import SHIPPED

    where = SHIPPED if folder is None else Path(folder)
    digest = hashlib.sha256()
    for file in ("config.json", "model.safetensors"):
        try:
            digest.update((where / file).read_bytes())
        except OSError as error:
            raise UniresError(f"The checkpoint {str(where)!r} has no {file}.") from error
    return digest.hexdigest()[:10]


_DIALS = re.compile(r"^(?P<name>.*?)\s*\[(?P<dials>[^\]]*)\]$")


def open_method(text: str, photo_set: PhotoSet, ours: Ours) -> Method:
    """The method that a name stands for, for one set. Raises NotApplicable, or UniresError for what is unknown,
    can't be loaded, or isn't installed."""
    from unires.bench import peers

    found = _DIALS.match(text.strip())
    name, dials = (found["name"], _dials(found["dials"])) if found else (text.strip(), {})
    if name == INPUT:
        return Method(text, lambda case: Answer(case.lq))
    if name == EXPERT:
        if not photo_set.expert:
            raise NotApplicable(f"{photo_set.name} belongs to no single expert.")
        return ours.method(text, photo_set.expert, dials)
    if name == DEFAULT:
        return ours.method(text, None, dials)
    peer = peers.find(name)
    if peer is not None:
        return peer(text)
    try:
        return ours.method(text, name, dials)
    except OptionError:
        if re.fullmatch(r"[\w-]+", name):
            known = [INPUT, EXPERT, DEFAULT, *ours.tasks, *peers.PEERS]
            raise OptionError(nearest(name, known, kind="method")) from None
        raise


def _dials(text: str) -> dict[str, float]:
    out: dict[str, float] = {}
    for item in text.split():
        key, _, number = item.partition("=")
        if key not in ("steps", "fidelity", "seed"):
            raise OptionError(nearest(key, ["steps", "fidelity", "seed"], kind="dial"))
        try:
            out[key] = float(number) if key == "fidelity" else int(number)
        except ValueError as error:
            raise OptionError(f"The dial {key} is {number!r}, which is no number.") from error
    return out
