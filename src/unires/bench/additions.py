"""The named run about added experts: two are trained as `unires add-expert` does it, then measured on photos that they
were not trained on, alone and in a sum with old ones; and it is checked that the old ones stayed what they were."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from unires.bench import oracle
from unires.bench.measures import psnr
from unires.bench.methods import model_hash
from unires.bench.named import TUNING_CROP, TUNING_PHOTOS, Scope
from unires.bench.report import Results, Table, overview, plain, signed
from unires.bench.run import Bench, Log
from unires.bench.sets import PhotoSet, entries
from unires.degrade import operators
from unires.denoise.checkpoint import load_denoiser
from unires.denoise.compact import TASKS
from unires.errors import UniresError
from unires.train.data import photo_paths
from unires.train.expert import ExpertTraining, add_expert

SUM, RELAYED = "weighted sum", "weighted sum, relayed"
CLEAN, TRAINING = "val/clean", "train"  # below the data root
GAP, BAND = 8, 22  # pixels between pictures, and of the line above them


@dataclass(frozen=True)
class Addition:
    """A new expert (`new`: its name and the recipe it learns), and a mixture for which an `old` one has a say."""

    new: str
    old: str
    mixture: str


ADDITIONS = (
    Addition("haze", "denoise", "haze + noise(sigma=15)"),
    Addition("low_light", "dejpeg", "low_light + jpeg(quality=30)"),
)


def train(model: str | None, data: Path, out: Path, minutes: float, device: str, log: Log) -> Path:
    """The folder of a model that has both new experts beside those of `model` (None: the shipped one), each trained for
    so many minutes on the photos in `data`; taken from `out` if they were trained there before, for that very model.
    Raises UniresError as `add_expert` does."""
    base = None if model is None else Path(model)
    for addition in ADDITIONS:
        folder = out / f"added-{model_hash(model)}-{minutes:g}-{addition.new}"
        if not folder.exists():
            add_expert(ExpertTraining(addition.new, data, folder, base, addition.new, minutes, device=device), log)
        base = folder
    assert base is not None
    return base


def said_by_old(model: str | Path | None) -> str:
    """SHA-256 of what the experts that every compact model has say of one input, at two times, with a condition and
    without, on the processor in float32."""
    denoiser = load_denoiser(None if model is None else Path(model), kind=torch.float32)
    z, c = (torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(i)) for i in range(2))
    total = hashlib.sha256()
    for task in TASKS:
        for t in (1.0, 0.4):
            for condition in (c, None):
                total.update(denoiser.predict(z, t, condition, [task]).numpy().tobytes())
    return total.hexdigest()


def additions(bench: Bench, scope: Scope, model: str | None, out: Path) -> tuple[list[Table], list[str]]:
    """The tables, and the names of the pictures written to `out`. bench: opened with the model that `train` made of
    `model`. Raises UniresError where the photos aren't there or a picture can't be written."""
    pictures: list[str] = []
    alone = Table("New experts on what they learnt", ["degradation", "input dB", "blind dB", "new expert dB",
                  "over input", "over blind"])  # fmt: skip
    mixed = Table("New and old experts on mixtures", ["mixture", "input dB", "blind dB", "old expert dB",
                  "new expert dB", "sum dB", "over the better one", "relayed dB", "over the better one"])  # fmt: skip
    singles = [_set(scope, a.new, CLEAN, scope.photos, scope.crop) for a in ADDITIONS]
    results = Results(bench.run(singles, lambda s: ["input", "blind", s.recipe]))
    for s in singles:
        means = (plain(results.mean(s.name, m)) for m in ("input", "blind", s.recipe))
        gains = (signed(results.gain(s.name, s.recipe, m)) for m in ("input", "blind"))
        alone.rows.append([s.name, *means, *gains])
        pictures.append(_picture(bench, s, {"restored": s.recipe}, out))
    rows = list(results.rows)
    for a in ADDITIONS:
        tuning = _set(scope, a.mixture, TRAINING, scope.photos or TUNING_PHOTOS, scope.crop or TUNING_CROP)
        pair = (a.old, a.new)
        chosen = {sum_of(bench, tuning, a): SUM, relayed_sum_of(bench, tuning, a): RELAYED}
        s = _set(scope, a.mixture, CLEAN, scope.photos, scope.crop)
        found = bench.run([s], functools.partial(_always, ("input", "blind", *pair, *chosen)))
        results = Results([{**r, "method": chosen.get(r["method"], r["method"])} for r in found])
        better = max(pair, key=lambda m: results.mean(s.name, m).value)
        cells = [s.name, *(plain(results.mean(s.name, m)) for m in ("input", "blind", *pair))]
        for method in (SUM, RELAYED):
            cells += [plain(results.mean(s.name, method)), signed(results.gain(s.name, method, better))]
        mixed.rows.append(cells)
        mixed.notes.append(f"{s.name}: the better one is {better}; sum `{'`, relayed `'.join(chosen)}`.")
        shown = {a.old: a.old, a.new: a.new, **{method: text for text, method in chosen.items()}}
        pictures.append(_picture(bench, s, shown, out))
        rows += results.rows
    before, after = said_by_old(model), said_by_old(bench.ours.model)
    same = Table("What the old experts say", ["model", "SHA-256"], [["before", before], ["after", after]])
    same.notes.append("The same." if before == after else "NOT the same: adding an expert changed others.")
    alone.notes.append(scope.note(bench, singles))
    mixed.notes.append(
        f"Weights: the best fixed ones, none negative, on {scope.photos or TUNING_PHOTOS} training photos. Sum: "
        "both experts on the photo, one step. Relayed: one expert's estimate and what the other makes of it, two "
        "steps, in the order that was better there. The better one: of the two experts alone, on average here."
    )
    return [alone, mixed, same, overview(Results(rows), "All measures")], pictures


def sum_of(bench: Bench, tuning: PhotoSet, a: Addition) -> str:
    """The best weights of one step of both experts on the photos of `tuning`. None is negative: a few photos of random
    severity led to extrapolation (-0.9 and 1.9) that other photos suffered from."""
    pair = (a.old, a.new)
    return oracle.text_of(pair, oracle.best_of_signs(oracle.collect(bench, tuning, pair, singles=False)))


def relayed_sum_of(bench: Bench, tuning: PhotoSet, a: Addition) -> str:
    """The best weights of a second step of one expert on what the other said, and of that as it is, in the order that
    is better on the photos of `tuning`; none is negative."""
    found = []
    for first, then in ((a.old, a.new), (a.new, a.old)):
        grams = oracle.collect(bench, tuning, (first, f"{first}; {then}@relay"), singles=False)
        w = oracle.best_of_signs(grams)
        reached = sum(oracle.psnr_of(g, w) for g in grams)
        found.append((reached, f"{first}; {oracle.text_of(('keep@relay', f'{then}@relay'), w)}"))
    return max(found)[1]


def _set(scope: Scope, recipe: str, folder: str, photos: int, crop: int) -> PhotoSet:
    """Photos of a folder below the data root, degraded; training photos have seeds of their own."""
    paths = photo_paths(scope.data / folder)
    name = recipe if folder == CLEAN else f"{recipe} (training photos)"
    return PhotoSet(name, "synthetic", entries([(p, p) for p in paths]), recipe).fewer(photos, crop)


def _always(methods: tuple[str, ...], photo_set: PhotoSet) -> tuple[str, ...]:
    return methods


def _picture(bench: Bench, photo_set: PhotoSet, shown: dict[str, str], out: Path) -> str:
    """Input, results of the methods `shown` (title: method) and truth side by side, of the photo that stands in the
    middle of the set; returns the file's name."""
    case = photo_set.load(len(photo_set.files) // 2, bench.cache)
    assert case.gt is not None
    restored = {title: bench.open(m, photo_set).run(case).pixels.float().cpu() for title, m in shown.items()}
    row = {"degraded": case.lq, **restored, "the original": case.gt}
    width, height = case.gt.shape[-1], case.gt.shape[-2]
    sheet = Image.new("RGB", (len(row) * (width + GAP) - GAP, height + BAND), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (title, x) in enumerate(row.items()):
        x = operators.round8(x)
        decibel = "" if title == "the original" else f", {float(psnr(x, case.gt)):.1f} dB"
        values = (x[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        sheet.paste(Image.fromarray(values), (i * (width + GAP), BAND))
        draw.text((i * (width + GAP) + 2, 5), title + decibel, fill="black")
    name = f"new-experts-{''.join(c if c.isalnum() else '-' for c in photo_set.recipe).strip('-')}.jpg"
    try:
        out.mkdir(parents=True, exist_ok=True)
        sheet.save(out / name, quality=85)
    except OSError as error:
        raise UniresError(f"The picture {out / name} can't be written: {error.strerror}.") from error
    return name
