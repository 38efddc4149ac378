"""Sets: which photos a method is measured on. Each is a small TOML file in `unires/bench/sets` (or the user's own).

    kind = "synthetic"                  # clean photos, degraded on the fly
    clean = "val/clean"                 # folder below the data root
    recipes = "SINGLES"                 # of unires.degrade.recipes; or a table: name = "noise(sigma=15) + jpeg"
    seed = 0

    kind = "paired"                     # degraded photos with their truth
    folder = "GOPRO_Large/test"
    degraded = "*/blur/*.png"           # glob below the folder
    truth = ["/blur/", "/sharp/"]       # in the degraded photo's path: pattern and what replaces it, or several such

    kind = "plain"                      # photos without truth
    folder = "val/real"

Any of them may carry `expert` (the matching one), `from` (where to get the set) and `note`. With folders, `parts` makes
several sets: a table part = glob, or a glob of folders, each of them a part. A set that isn't there becomes one row of
the table that says so."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL
import torch
from torch import Tensor

from unires.bench.code import code_hash
from unires.degrade import kernels, operators, recipes, resample
from unires.degrade.recipe import Recipe
from unires.errors import OptionError, UniresError, nearest, shown

FOLDER = Path(__file__).resolve().parent / "sets"
ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".avif"}
CLEAN = "clean"  # the recipe that does nothing


@dataclass(frozen=True)
class Truth:
    """What is known of a synthetic degradation, for peers that have to be told."""

    recipe: Recipe | None = None  # with every parameter that would have been drawn filled in
    sigma: float | None = None  # of white noise on sRGB values, of 255
    kernel: Tensor | None = None  # k x k, of the blur in linear light
    scale: float | None = None  # of the reduction


@dataclass(frozen=True)
class Case:
    """One photo of a set: pixels 1 x 3 x H x W in [0, 1]; `gt` is None where no truth is known."""

    photo: str
    lq: Tensor
    gt: Tensor | None
    truth: Truth


@dataclass(frozen=True)
class Entry:
    """One photo of a set: its name there, its file (synthetic: the clean one), the file of its truth."""

    photo: str
    path: Path
    true: Path | None = None


@dataclass(frozen=True)
class PhotoSet:
    """Photos and what is done to them. `missing` says why it can't be used, "" if it can."""

    name: str
    kind: str = "plain"
    files: tuple[Entry, ...] = ()
    recipe: str = ""
    expert: str = ""
    seed: int = 0
    crop: int = 0
    missing: str = ""
    note: str = ""

    def definition(self, index: int) -> str:
        """Identifies what is made of a photo in the results: another recipe, seed, crop or file is another one, and so
        is what other code made of it."""
        entry = self.files[index]
        files = [[p.parent.name, p.name, p.stat().st_size] for p in (entry.path, entry.true) if p is not None]
        parts = [self.kind, self.recipe, self.seed, self.crop, files, *(_made_by() if self.kind == "synthetic" else ())]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:10]

    def fewer(self, photos: int, crop: int) -> PhotoSet:
        """At most `photos` photos, evenly spaced, and centre crops of `crop` pixels (0: all, whole)."""
        files = self.files
        if photos and len(files) > photos:
            files = tuple(files[math.floor(i * len(files) / photos)] for i in range(photos))
        return dataclasses.replace(self, files=files, crop=crop)

    def load(self, index: int, cache: Path | None = None) -> Case:
        """The photo with that number; synthetic ones are made, or taken from `cache` if they were made before.
        Raises UniresError for files that can't be read or don't fit each other."""
        entry = self.files[index]
        label, path, true = entry.photo, entry.path, entry.true
        x = _centre(read_pixels(path), self.crop)
        if self.kind != "synthetic":
            if true is None:
                return Case(label, x, None, Truth())
            y = _centre(read_pixels(true), self.crop)
            if x.shape != y.shape:  # published at its own low resolution
                x = resample.resize(x, (y.shape[-2], y.shape[-1]), "bicubic").clamp(0, 1)
            return Case(label, x, y, Truth())
        if self.recipe == CLEAN:
            return Case(label, x, x, Truth())
        seed = photo_seed(self.seed, path.stem)
        recipe = settled(Recipe.parse(self.recipe), seed)
        made = None if cache is None else cache / f"{path.stem}-{_digest(path, recipe, seed, self.crop)}.png"
        lq = read_pixels(made) if made and made.is_file() else recipe(x, seed)
        if made and not made.is_file():
            _keep(lq, made)
        return Case(label, lq, x, truth_of(recipe))


def photo_seed(seed: int, name: str) -> int:
    """Each photo's own, from the set's seed and its name: angles and noise differ from photo to photo, and don't
    depend on which others are measured."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:4], "big") >> 1


def settled(recipe: Recipe, seed: int) -> Recipe:
    """The recipe with the angle of a motion filled in, so that a peer can be told the kernel."""
    generator = torch.Generator().manual_seed(seed)
    steps = []
    for name, parameters in recipe.steps:
        if name == "motion" and dict(parameters).get("angle") is None:
            angle = round(float(torch.rand((), generator=generator)) * 180, 3)
            parameters = (*(p for p in parameters if p[0] != "angle"), ("angle", angle))
        steps.append((name, parameters))
    return Recipe(tuple(steps))


def truth_of(recipe: Recipe) -> Truth:
    """Noise level, blur kernel and scale of a settled recipe, where it has just one of each."""
    sigma = [float(dict(p).get("sigma", 25)) for n, p in recipe.steps if n == "noise"]
    scale = [float(dict(p).get("scale", 2)) for n, p in recipe.steps if n == "resize"]
    blurs = [k for k in (_kernel(n, dict(p)) for n, p in recipe.steps) if k is not None]
    one: Any = lambda values: values[0] if len(values) == 1 else None  # noqa: E731
    return Truth(recipe, one(sigma), one(blurs), one(scale))


def _kernel(name: str, parameters: dict[str, Any]) -> Tensor | None:
    """What `unires.degrade.recipe` blurs with."""
    def t(key: str, otherwise: float) -> Tensor:
        return torch.tensor([float(parameters.get(key, otherwise))])

    if name == "motion":
        return kernels.splat(kernels.arc(t("length", 12), t("angle", 0).deg2rad(), t("bend", 0).deg2rad()))[0]
    if name == "defocus" and parameters.get("blades"):
        return kernels.polygon(t("radius", 3), t("blades", 0), t("rotation", 0).deg2rad())[0]
    if name == "defocus":
        return kernels.disc(t("radius", 3))[0]
    if name == "gaussian_blur":
        return kernels.gaussian(t("sigma", 1.5))[0]
    return None


def read_pixels(path: Path) -> Tensor:
    """1 x 3 x H x W in [0, 1]."""
    from unires.photo import read_photo

    return torch.from_numpy(read_photo(path).pixels).permute(2, 0, 1)[None].contiguous()


def _centre(x: Tensor, size: int) -> Tensor:
    if not size:
        return x
    high, wide = (min(size, s) for s in x.shape[-2:])
    top, left = (x.shape[-2] - high) // 2, (x.shape[-1] - wide) // 2
    return x[..., top : top + high, left : left + wide].contiguous()


def entries(pairs: Sequence[tuple[Path, Path | None]]) -> tuple[Entry, ...]:
    """Named by the file, and by as many of its folders as it takes to tell all of them apart."""
    for depth in range(1, 6):
        labels = ["/".join((*p.parts[-depth:-1], p.stem.removesuffix("_lq"))) for p, _ in pairs]
        if len(set(labels)) == len(labels):
            break
    return tuple(Entry(label, p, true) for label, (p, true) in zip(labels, pairs, strict=True))


def _made_by() -> tuple[str, ...]:
    """What degraded photos depend on besides their recipe."""
    return str(torch.__version__), PIL.__version__, code_hash("degrade/*.py")


def _digest(path: Path, recipe: Recipe, seed: int, crop: int) -> str:
    parts = [path.stat().st_size, path.parent.name, str(recipe), seed, crop, *_made_by()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _keep(pixels: Tensor, path: Path) -> None:
    """As PNG, whole or not at all; a full disk is no reason to stop."""
    import contextlib
    import os

    from PIL import Image

    data = (operators.round8(pixels)[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        Image.fromarray(data).save(part, "PNG", compress_level=1)
        os.replace(part, path)


# -- declarations ---------------------------------------------------------------------------------------------

KEYS = {
    "synthetic": {"clean", "recipes", "seed"},
    "paired": {"folder", "degraded", "truth", "parts"},
    "plain": {"folder", "degraded", "parts"},
}


def names() -> list[str]:
    """The sets that come with the package."""
    return sorted(p.stem for p in FOLDER.glob("*.toml"))


def open_sets(name: str, data: Path) -> list[PhotoSet]:
    """The sets that a declaration stands for: a name from `names()` or the path of a TOML file; `data` is the root
    that its folders lie below. Raises UniresError for an unknown name or a declaration that can't be read; photos
    that aren't there are no error (see `PhotoSet.missing`)."""
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not path.is_file():
        raise OptionError(nearest(name, names(), kind="set"))
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UniresError(f"The set {shown(path)} can't be read: {error}.") from error
    kind = values.pop("kind", None)
    if kind not in KEYS:
        raise UniresError(f"The set {shown(path)} has the kind {kind!r}; it is one of {', '.join(KEYS)}.")
    known = KEYS[kind] | {"from", "note", "expert"}
    for key in values:
        if key not in known:
            raise UniresError(nearest(key, known, kind=f"entry of {path.name}"))
    return (_synthetic if kind == "synthetic" else _folders)(kind, path.stem, values, data)


def _synthetic(kind: str, name: str, values: dict[str, Any], data: Path) -> list[PhotoSet]:
    wanted = values["recipes"]
    if isinstance(wanted, str):
        wanted = getattr(recipes, wanted)
    table = dict(wanted) if isinstance(wanted, dict) else {text: text for text in wanted}
    files, missing = _find(data / values["clean"], "*", values)
    return [
        PhotoSet(label, kind, entries([(f, f) for f in files]), text, values.get("expert") or expert_for(label),
                 values.get("seed", 0), 0, missing, values.get("note", ""))
        for label, text in table.items()
    ]


def expert_for(label: str) -> str:
    """The expert that a single degradation belongs to, by the first word of its name; "" for mixtures."""
    return recipes.EXPERT_FOR.get(label.split()[0], "") if label in recipes.SINGLES else ""


def _folders(kind: str, name: str, values: dict[str, Any], data: Path) -> list[PhotoSet]:
    root = data / values["folder"]
    pattern = values.get("degraded", "*_lq.*" if kind == "paired" else "*")
    parts = values.get("parts", {"": pattern})
    if isinstance(parts, str):
        places = [p.relative_to(root).as_posix() for p in sorted(root.glob(parts)) if p.is_dir()]
        parts = {place.removesuffix("/LQ"): f"{place}/{pattern}" for place in places} or {"": pattern}
    out = []
    for part, glob in parts.items():
        files, missing = _find(root, glob, values)
        pairs: list[tuple[Path, Path | None]] = [(f, None) for f in files]
        if kind == "paired" and not missing:
            pairs, missing = _pair(root, files, values.get("truth", [r"_lq\.", "_gt."]))
        out.append(PhotoSet(f"{name} {part}".strip(), kind, entries(pairs), "", values.get("expert", ""), 0, 0, missing,
                            values.get("note", "")))
    return out


def _pair(root: Path, files: Sequence[Path], replace: Sequence[str]) -> tuple[list[tuple[Path, Path | None]], str]:
    pairs: list[tuple[Path, Path | None]] = []
    for f in files:
        # every second entry replaces the one before it, in the path below the root
        text = "/" + f.relative_to(root).as_posix()
        for old, new in zip(replace[::2], replace[1::2], strict=True):
            text = re.sub(old, new, text)
        true = root / text[1:]
        if not true.is_file():  # photos of a pair may differ in format
            others = [p for p in true.parent.glob(f"{true.stem}.*") if p.suffix.lower() in ENDINGS]
            if not others:
                return [], f"{f.name} has no true photo {true.name} below {shown(root)}"
            true = others[0]
        pairs.append((f, true))
    return pairs, ""


def _find(root: Path, pattern: str, values: dict[str, Any]) -> tuple[list[Path], str]:
    where = f"; get it from {values['from']}" if values.get("from") else ""
    if not root.is_dir():
        return [], f"there is no folder {shown(root)}{where}"
    found = sorted(p for p in root.glob(pattern) if p.suffix.lower() in ENDINGS)
    return (found, "") if found else ([], f"there is no photo {pattern} in {shown(root)}{where}")
