"""The journal of a folder job: what was done with which input, settings and model, one JSON line each.

A file that exists is no proof that it is complete, or that it was made from this input with these settings. So a photo
is skipped only if its last line names the same input bytes, settings and model, and the output still has the bytes that
were written. Lines are appended and synced just before the output gets its final name, when its bytes are known: a job
killed at any moment does only what it was at again, arrives at the same bytes, and knows every result as its own.

A file is replaced only if it is such a result, of the same photo: not what its user has made of it since, nor what was
made of another folder's photo of that name."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unires.errors import UniresError, shown
from unires.photo.whole import damaged

NAME = ".unires-journal.jsonl"
RECORDS = ".unires-journal"  # a folder, where many machines write: a file can't be appended to by several


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal. Raises OSError, and UniresError for what is no regular file."""
    kind = path.stat().st_mode
    # to open a named pipe would wait for ever; what a folder is called, opening it tells
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        raise UniresError(f"{shown(path)} is not a regular file.")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of_settings(settings: Mapping[str, Any]) -> str:
    """SHA-256 of settings that JSON can hold, independent of their order."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Entry:
    """One photo: path below the input folder, digests, the output's path below the output folder, the photo's own path
    (absolute, without links). Older journals don't have the last, and lines without the output's digest."""

    input: str
    input_digest: str
    settings_digest: str
    output: str
    output_digest: str
    source: str = ""


def is_own(path: Path, digests: Collection[str]) -> bool:
    """Whether a file has one of these digests, so is as it was written, or is damaged, so that nothing is lost with it.
    """
    try:
        return digest_of_file(path) in digests or damaged(path)
    except (OSError, UniresError):
        return False


class Journal:
    """The journal in an output folder. Raises UniresError where it can't be read or written."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self.entries: dict[str, Entry] = {}
        # of all that jobs have written here: the photo it is the last result of, and the digests that these have had
        self.outputs: dict[str, tuple[str, set[str]]] = {}
        try:
            text = self.path.read_bytes() if self.path.exists() else b""
        except OSError as error:
            raise UniresError(f"The journal {shown(self.path)} can't be read: {error.strerror}.") from error
        for line in text.splitlines():
            try:
                entry = Entry(**json.loads(line))
            except (ValueError, TypeError):
                continue  # the line that was being written when the job was killed
            self._note(entry)
        self._cut_short = bool(text) and not text.endswith(b"\n")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other jobs on this machine out of the folder while this one runs; a killed job lets go by itself.

        Raises UniresError where another job is at work."""
        try:
            import fcntl
        except ImportError:  # Windows has no such locks: two jobs would merely do some photos twice
            yield
            return
        try:
            file = self.path.open("ab")
        except OSError as error:
            raise UniresError(f"The journal {shown(self.path)} can't be written: {error.strerror}.") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UniresError(f"Another job is writing into {shown(self.path.parent)}.") from error
            yield

    def done(self, name: str, input_digest: str, settings_digest: str, output: Path) -> bool:
        """Whether `output` is what these settings made of this input, byte for byte."""
        entry = self.entries.get(name)
        if entry is None or (entry.input_digest, entry.settings_digest) != (input_digest, settings_digest):
            return False
        try:
            return output.name == Path(entry.output).name and digest_of_file(output) == entry.output_digest
        except (OSError, UniresError):
            return False

    def owns(self, name: str, output: Path, source: str) -> bool:
        """Whether `output`, of that name below the folder, is there, and is a result of the photo `source`, or what is
        left of one. It is read only where the journal tells of such a result."""
        known, digests = self.outputs.get(name, ("", set()))
        return bool(digests) and known in ("", source) and is_own(output, digests)

    def add(self, entry: Entry) -> None:
        """Append and sync."""
        line = json.dumps(vars(entry), sort_keys=True).encode() + b"\n"
        try:
            with self.path.open("ab") as file:
                file.write(b"\n" * self._cut_short + line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UniresError(f"The journal {shown(self.path)} can't be written: {error.strerror}.") from error
        self._cut_short = False
        self._note(entry)

    def _note(self, entry: Entry) -> None:
        self.entries[entry.input] = entry
        source, digests = self.outputs.get(entry.output, ("", set()))
        if source not in ("", entry.source):
            digests = set()
        self.outputs[entry.output] = entry.source, digests | {entry.output_digest}
