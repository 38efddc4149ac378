"""What a method is: a function from a case to an answer, with a name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from unires.bench.sets import Case
from unires.errors import UniresError


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
    not reused. `oracle` says what it was told that a user does not know."""

    name: str
    run: Callable[[Case], Answer] = field(compare=False)
    version: str = ""
    oracle: str = ""


class NotApplicable(UniresError):
    """The method has no meaning for that set or photo (a kernel is wanted where none is known); it gets no row."""
