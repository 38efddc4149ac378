"""How large tiles may be, and what a failed allocation looks like."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path

import torch

TILE = 1024  # pixels a side, where there is memory enough: more brings no speed
SHARE = 0.25  # of the memory there is, for what a network holds while it works on a tile
_GRAIN = 128
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container
_SAID = ("out of memory", "not enough memory", "can't allocate memory", "bad_alloc")  # by torch, as plain RuntimeError


def tile_for(bytes_a_pixel: int, device: str) -> int:
    """The side of a tile that the memory there is can hold. What is there, not what is free at the moment: otherwise
    the same photo could come out in other last bits from one day to the next."""
    there = memory_of(device)
    if there is None:
        return TILE
    return min(TILE, math.isqrt(int(SHARE * there) // bytes_a_pixel) // _GRAIN * _GRAIN)


def memory_of(device: str) -> int | None:
    """Bytes that the device has or, of a computer's own memory, that this process may use. None: can't be told."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[1])
    found = []
    with suppress(AttributeError, ValueError, OSError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for limit in _LIMITS:
        with suppress(OSError, ValueError):  # there is none, or it says "max"
            found.append(int(Path(limit).read_text()))
    return min((n for n in found if n > 0), default=None)


def ran_out(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _SAID)
