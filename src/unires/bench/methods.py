"""Methods: what turns a degraded photo into a restored one. Ours by name, weights and dials; peers by one function.

    input                        the degraded photo
    expert                       the expert that the set's degradation belongs to, one step
    default                      `unires restore` without options
    blind, denoise, ...          one expert; or any weights: "denoise=0.7,motion-deblur=0.3; dejpeg@relay"
    chain:denoise>motion-deblur  one after the other, each on the result of the one before
    search:grid                  the best of the paper's 1,512 weights, by the harm that the router sees left;
                                 search:frequent: of `presets.FREQUENT`; search:climb: by gradient
    mixed:FOLDER                 the blind expert of another model, such as one that `unires train` trained on mixtures
    ... [steps=8 fidelity=0]     dials after it, in brackets; exact=1: computed in float32; maps=0: with default, the
                                 router's weights, but the same for all places; ensemble=8: the mean of eight views
    bm3d, nlm, ...               peers (`unires.bench.peers`)
    spandrel:FILE  onnx:FILE  cmd:PROGRAM ... {input} ... {output}"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from unires.bench import peers, programs
from unires.bench.code import code_hash
from unires.bench.interface import Answer, Method, NotApplicable
from unires.bench.sets import Case, PhotoSet
from unires.compose.experts import KEEP
from unires.errors import OptionError, UniresError, nearest

INPUT, EXPERT, DEFAULT = "input", "expert", "default"
SEARCHES = ("grid", "frequent", "climb")


class Ours:
    """Our methods, from one Restorer that is made when first used."""

    def __init__(self, model: str | None = None, device: str = "auto", number_type: str = "") -> None:
        """number_type: what to compute in ("bfloat16"); "" lets the machine's self-test choose. It is timed, so that
        two runs on a busy machine may choose differently."""
        self.model, self.device, self.number_type = model, device, number_type
        self._open: dict[tuple[str, int], Any] = {}

    @property
    def restorer(self) -> Any:
        return self.open(self.number_type)

    def open(self, number_type: str, ensemble: int = 1) -> Any:
        """The model, computed in a number type ("" lets the machine choose), from so many views."""
        import torch

        from unires.restore.restorer import Restorer

        if (number_type, ensemble) not in self._open:
            folder = None if self.model is None else Path(self.model)
            kind = getattr(torch, number_type) if number_type else None
            self._open[number_type, ensemble] = Restorer.from_pretrained(folder, self.device, kind, ensemble)
        return self._open[number_type, ensemble]

    @property
    def tasks(self) -> tuple[str, ...]:
        tasks: tuple[str, ...] = self.restorer.denoiser.facts.tasks
        return tasks

    @property
    def version(self) -> str:
        """Of the weights in use and of what is done with them: the weights' hash, the number type that they are
        computed in, and the code's hash."""
        return f"{model_hash(self.model)}-{self.restorer.denoiser.facts.number_type}-{code_hash()}"

    def method(self, name: str, text: str | None, dials: dict[str, float]) -> Method:
        """text: weights, or None for the default."""
        options: dict[str, Any] = {"weights": text, **dials}
        exact, maps, views = bool(options.pop("exact", 0)), bool(options.pop("maps", 1)), options.pop("ensemble", 1)
        restorer = self.open("float32" if exact else self.number_type, views)
        weights, _ = restorer.plan(text, options.get("steps"), options.get("fidelity"), 1)  # refuses nonsense now

        def run(case: Case) -> Answer:
            own = options
            if not maps:
                read = restorer.read(case.lq)
                flat = read.within(options.get("steps", read.weights.steps)).flat()
                own = {**options, "weights": flat, "steps": flat.steps}
            out = restorer.pixels(case.lq, **own)
            return Answer(out, restorer.report.passes * restorer.report.tiles * views)

        meaning = "" if text and name.startswith(text) else f"-{weights}"
        if text and text.endswith(".json"):
            meaning += f"-{hashlib.sha256(Path(text).read_bytes()).hexdigest()[:6]}"  # the file may be another tomorrow
        return Method(name, run, f"{self.version}{exact * '-exact'}{meaning}")

    def chain(self, name: str, experts: list[str]) -> Method:
        """Each expert on the result of the one before, one step each."""
        restorer = self.restorer
        for expert in experts:
            restorer.plan(expert, None, None, 1)

        def run(case: Case) -> Answer:
            x, passes = case.lq, 0
            for expert in experts:
                x = restorer.pixels(x, weights=expert).clamp(0, 1)
                passes += restorer.report.passes * restorer.report.tiles
            return Answer(x, passes)

        return Method(name, run, self.version)


    def searched(self, name: str, how: str) -> Method:
        """Weights chosen for each photo by a quality function that isn't told the truth, one step."""
        import torch

        from unires.compose import presets, quality, search
        from unires.compose.weights import Weights

        restorer = self.restorer
        if restorer.router is None:
            raise UniresError("This model has no router, whose reading is what candidates are judged by.")
        judge = quality.remaining_harm(restorer.router)
        sets = [Weights.parse(text, self.tasks) for text in presets.FREQUENT]
        if how not in SEARCHES:
            raise OptionError(nearest(how, SEARCHES, kind="search"))

        def rows(weights: Weights) -> torch.Tensor:
            values = {str(e): v for e, v in zip(weights.experts, weights.flat().values[0].tolist(), strict=True)}
            return torch.tensor([values.get(e, 0.0) for e in search.EXPERTS])

        def run(case: Case) -> Answer:
            parts = torch.cat([restorer.pixels(case.lq, weights=e) for e in search.EXPERTS]).cpu()
            if how == "climb":
                start = rows(restorer.read(case.lq).weights)
                w = search.optimised(parts, judge, start + (1 - start.sum()) / len(start))
            else:
                candidates = search.grid() if how == "grid" else torch.stack(list(map(rows, sets)))
                w = search.best_of(parts, candidates, judge)
            out = torch.einsum("k,kchw->chw", w, parts)[None]
            return Answer(out, len(search.EXPERTS) - 1)

        return Method(name, run, f"{self.version}-{presets.FREQUENT if how == 'frequent' else how}")


def model_hash(folder: str | None) -> str:
    """Ten hexadecimal digits of a checkpoint's digest (None: the shipped one's)."""
    from unires.denoise.checkpoint import digest

    return digest(None if folder is None else Path(folder))[:10]


DIALS = ("steps", "fidelity", "seed", "exact", "maps", "ensemble")
_DIALS = re.compile(r"^(?P<name>.*?)\s*\[(?P<dials>[^\]]*)\]$")


def open_method(text: str, photo_set: PhotoSet, ours: Ours) -> Method:
    """The method that a name stands for, for one set. Raises NotApplicable, or UniresError for what is unknown,
    can't be loaded, or isn't installed."""
    found = None if re.match(r"\w+:", text.strip()) else _DIALS.match(text.strip())
    name, dials = (found["name"], _dials(found["dials"])) if found else (text.strip(), {})
    if name == INPUT:
        return Method(text, lambda case: Answer(case.lq))
    if name == EXPERT:
        if not photo_set.expert:
            raise NotApplicable(f"{photo_set.name} belongs to no single expert.")
        return ours.method(text, photo_set.expert, dials)
    if name == DEFAULT:
        return ours.method(text, None, dials)
    kind, colon, rest = name.partition(":")
    if kind == "search":
        return ours.searched(name, rest)
    if kind == "mixed":
        return Ours(rest, ours.device, ours.number_type).method(text, "blind", dials)
    if kind == "chain":
        return ours.chain(name, rest.split(">"))
    if colon and kind in programs.KINDS:
        return programs.KINDS[kind](text, rest.strip())
    if name in peers.PEERS:
        return peers.open_peer(name)
    try:
        return ours.method(text, name, dials)
    except OptionError:
        if re.fullmatch(r"[\w-]+", name) and name not in (*ours.tasks, KEEP):
            known = [INPUT, EXPERT, DEFAULT, *ours.tasks, *peers.PEERS]
            raise OptionError(nearest(name, known, kind="method")) from None
        raise


def _dials(text: str) -> dict[str, float]:
    out: dict[str, float] = {}
    for item in text.split():
        key, _, number = item.partition("=")
        if key not in DIALS:
            raise OptionError(nearest(key, DIALS, kind="dial"))
        try:
            out[key] = float(number) if key == "fidelity" else int(number)
        except ValueError as error:
            raise OptionError(f"The dial {key} is {number!r}, which is no number.") from error
    return out
