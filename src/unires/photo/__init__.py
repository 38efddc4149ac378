"""Photos as files: pixels, colour profile, metadata, depth and transparency, in and out; and tiles.

The names below are imported on first use, so that `import unires.photo` loads neither Pillow nor numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unires.photo.files import check_output, read_photo, write_photo
    from unires.photo.model import Encoding, Photo
    from unires.photo.tiles import Blender, TilePlan, Window, plan_tiles

_HOME = {
    "read_photo": "files",
    "write_photo": "files",
    "check_output": "files",
    "Photo": "model",
    "Encoding": "model",
    "plan_tiles": "tiles",
    "Blender": "tiles",
    "TilePlan": "tiles",
    "Window": "tiles",
}

__all__ = [
    "Blender",
    "Encoding",
    "Photo",
    "TilePlan",
    "Window",
    "check_output",
    "plan_tiles",
    "read_photo",
    "write_photo",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
