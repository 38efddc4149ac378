"""Samples ready when they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

Made = TypeVar("Made", bound=Iterable[Any])


def ahead(make: Callable[[int], Made], first: int, device: torch.device) -> Iterator[Made]:
    """`make(first)`, `make(first + 1)`, and so on for ever. On a GPU the next is made in another thread and stream
    while the one before is worked with."""
    number = first
    if device.type != "cuda":
        while True:
            yield make(number)
            number += 1
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def work(number: int) -> tuple[Made, torch.cuda.Event]:
        with torch.cuda.stream(stream):
            return make(number), stream.record_event()

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(work, number)
        while True:
            made, done = coming.result()
            number += 1
            coming = pool.submit(work, number)
            torch.cuda.current_stream().wait_event(done)
            for x in made:
                if isinstance(x, torch.Tensor) and x.is_cuda:
                    x.record_stream(torch.cuda.current_stream())
            yield made
