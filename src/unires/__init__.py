"""UniRes restores photos that suffer from several degradations at once, by a weighted sum of experts' estimates.

>>> import unires                                                          # doctest: +SKIP
>>> better = unires.restore(photo)                                         # doctest: +SKIP
>>> worse = unires.degrade(photo, "defocus(radius=3) + noise(sigma=15)")   # doctest: +SKIP
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from unires.errors import UniresError

if TYPE_CHECKING:
    from unires.compose.weights import Weights
    from unires.restore.restorer import Restorer
    from unires.restore.tiled import Progress

__version__ = "0.1.0"
__all__ = ["Restorer", "UniresError", "Weights", "degrade", "restore"]

_LATE = {"Restorer": "unires.restore.restorer", "Weights": "unires.compose.weights"}


def __getattr__(name: str) -> Any:
    """Heavy names are imported when first used: `import unires` costs milliseconds."""
    if name in _LATE:
        return getattr(import_module(_LATE[name]), name)
    raise AttributeError(f"module 'unires' has no attribute {name!r}")


class _Package(ModuleType):
    """`unires.restore` and `unires.degrade` are functions and also packages inside; the import of such a package
    would otherwise put it in the function's place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in ("restore", "degrade") and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def restore(
    image: Any,
    *,
    weights: str | Weights | None = None,
    steps: int | None = None,
    fidelity: float | None = None,
    scale: float = 1,
    seed: int = 0,
    device: str = "auto",
    model: str | Path | None = None,
    progress: Progress | None = None,
) -> Any:
    """Restore one picture; see `Restorer.__call__` for what it takes and returns. To restore many, make a
    `Restorer` once and call that. Raises UniresError in one sentence."""
    from unires.restore.restorer import Restorer

    return Restorer.from_pretrained(model, device)(
        image, weights=weights, steps=steps, fidelity=fidelity, scale=scale, seed=seed, progress=progress
    )


def degrade(image: Any, recipe: str, seed: int = 0) -> Any:
    """Degrade one picture by a recipe such as `"defocus(radius=3) + noise(sigma=15) + jpeg(quality=30)"`.

    Takes and returns what `restore` does; values are rounded to 8 bits, as in a file. Same seed, same bytes.
    Raises UniresError in one sentence."""
    from unires.degrade.recipe import Recipe
    from unires.photo.tiles import Window
    from unires.restore.pictures import open_picture

    recipe_read = Recipe.parse(recipe)
    picture = open_picture(image)
    worse = recipe_read(picture[..., :, :], seed)
    canvas = picture.canvas(worse.shape[-2], worse.shape[-1])
    canvas.put(Window(0, 0, worse.shape[-2], worse.shape[-1]), worse)
    return canvas.close()
