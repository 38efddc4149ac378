"""Clean photos from tar shards (WebDataset's format) or plain files, wherever fsspec reaches, streamed in lanes.

A lane is an endless sequence of photos that follows from (seed, lane) alone; sample j of every batch comes from lane j.
So a run sees the same photos on any number of processes, and goes on exactly after a kill: a lane's place is two
numbers."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unires.errors import UniresError, shown
from unires.train.data import SUFFIXES, photo_paths

Place = tuple[int, int]  # which visit to a source, counted from 0, and how many of its files are done
Report = Callable[[str], None]
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def sources(data: Sequence[str]) -> list[str]:
    """Folders become their photos, `s3://bucket/train-{0000..0999}.tar` its thousand shards, a glob what it finds.
    Raises UniresError for one that stands for nothing."""
    import fsspec

    found: list[str] = []
    for name in data:
        if Path(name).is_dir():
            found += map(str, photo_paths(Path(name)))
            continue
        if match := RANGE.search(name):
            first, last = match.groups()
            numbers = range(int(first), int(last) + 1)
            found += [name[: match.start()] + str(i).zfill(len(first)) + name[match.end() :] for i in numbers]
        elif "*" in name:
            with _reached(name):
                files, _, paths = fsspec.get_fs_token_paths(name)
            if not paths:
                raise UniresError(f"Nothing is found for {shown(name)}.")
            found += [files.unstrip_protocol(path) for path in sorted(paths)]
        else:
            found.append(name)
    if not found:
        raise UniresError("The configuration names no data.")
    return found


class Lane:
    """An endless iterator of (photo, 3 x H x W in [0, 1]; the place after it)."""

    def __init__(
        self, names: Sequence[str], seed: int, lane: int, smallest: int, report: Report, place: Place = (0, 0),
        stride: int = 1,
    ) -> None:
        """smallest: least side of a photo; report: is told what is skipped, and why; stride: of a shard, every so many
        photos are taken in one visit, others in the next. Where lanes are more than shards, it is so many times, or
        those that meet in one would all take the same photos at the same time."""
        self.names, self.seed, self.lane, self.smallest, self.report = names, seed, lane, smallest, report
        self.place, self.stride = place, stride

    def __iter__(self) -> Iterator[tuple[Tensor, Place]]:
        (visit, done), fruitless = self.place, 0
        while fruitless <= len(self.names) * self.stride:
            fruitless += 1
            for number, photo in self._photos(self._name(visit), done, visit):
                fruitless = 0
                yield photo, (visit, number)
            visit, done = visit + 1, 0
        raise UniresError("No photo of the data can be used; what was skipped is said above.")

    def _name(self, visit: int) -> str:
        """Every lane goes through all sources in an order of its own, another one each time."""
        epoch, place = divmod(visit, len(self.names))
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.lane) * 1_000_003 + epoch)
        return self.names[int(torch.randperm(len(self.names), generator=generator)[place])]

    def _photos(self, name: str, done: int, visit: int) -> Iterator[tuple[int, Tensor]]:
        stride = self.stride if name.endswith(".tar") else 1
        try:
            for number, (file, content) in enumerate(files(name), start=1):
                if number <= done or (number - self.lane - visit // len(self.names)) % stride:
                    continue
                try:
                    with Image.open(io.BytesIO(content)) as image:
                        values: Any = np.array(image.convert("RGB"))
                except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                    self.report(f"skipped {shown(file)} of {shown(name)}: {error}")
                    continue
                if min(values.shape[:2]) < self.smallest:
                    self.report(f"skipped {shown(file)} of {shown(name)}: a side is under {self.smallest} pixels")
                    continue
                yield number, torch.from_numpy(values).permute(2, 0, 1).float() / 255
        except (OSError, ValueError, tarfile.TarError) as error:
            self.report(f"skipped the rest of {shown(name)}: {error}")


def files(name: str) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the photos in a shard, or of one photo. Raises OSError or TarError where it is broken."""
    import fsspec

    with _reached(name):
        file = fsspec.open(name, "rb")
    with file as stream:
        if not name.endswith(".tar"):
            yield name, stream.read()
            return
        watched = _Watched(stream)
        with tarfile.open(fileobj=watched, mode="r|") as tar:  # type: ignore[call-overload]
            for member in tar:
                content = tar.extractfile(member) if member.isfile() else None
                if content is not None and Path(member.name).suffix.lower() in SUFFIXES:
                    yield member.name, content.read()
        if watched.end.strip(b"\0"):  # which tarfile passes over in silence
            raise tarfile.ReadError("it ends early")


@contextmanager
def _reached(name: str) -> Iterator[None]:
    """Raises UniresError where a package is missing that reaches such an address."""
    try:
        yield
    except ImportError as error:
        raise UniresError(f"{shown(name)} can't be reached: {str(error).rstrip('.')}.") from error


class _Watched:
    """A stream whose last bytes are remembered: of a whole archive they are zero."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.end = stream, b"\1"

    def read(self, size: int) -> bytes:
        part: bytes = self.stream.read(size)
        self.end = part[-512:] or self.end
        return part
