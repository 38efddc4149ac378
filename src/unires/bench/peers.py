"""Other people's restorers behind one function each: Case in, Answer out."""

from __future__ import annotations

from collections.abc import Callable

from unires.bench.methods import Answer, Method

PEERS: dict[str, Callable[[str], Method]] = {
    # enlarged again by bicubic is how reduced photos come (see `unires.degrade.recipe.resize`)
    "bicubic": lambda name: Method(name, lambda case: Answer(case.lq)),
}


def find(name: str) -> Callable[[str], Method] | None:
    """What makes the peer of that name; None if there is none."""
    return PEERS.get(name)
