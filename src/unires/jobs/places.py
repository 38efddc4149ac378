"""Where photos come from and results go to: a folder, or a bucket (s3://, gs://) through fsspec.

A file has a stamp, by which a change is noticed: of a folder the digest of the file's bytes, of a bucket the size and
the checksum that the store keeps, so that nothing has to be downloaded to know that it is done already. A file under
its final name is always complete: folders get a temporary name and a rename, buckets one upload, which a store shows
only once it has it all."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from unires.errors import OptionError, PhotoError, UniresError, shown
from unires.jobs import folder
from unires.jobs.journal import digest_of_file
from unires.photo.atomic import why, write_atomically

EXTRAS = {"s3": "s3", "gs": "gs"}  # what an address may begin with, and the extra that reads it
_CHECKSUMS = ("ETag", "md5Hash", "crc32c")  # of S3 and Google, the best first


class Place(Protocol):
    """A folder somewhere; names in it have slashes. It can be sent to another process. Methods raise UniresError."""

    @property
    def address(self) -> str: ...

    def names(self, *, recursive: bool, avoid: Place, refused: dict[str, str]) -> Iterator[tuple[str, str]]:
        """(name, stamp, or "" where telling it means reading the file) in the order of names, without what lies below
        `avoid`. In the end `refused` has the inner folders that can't be read, each with a sentence that says why."""

    def stamp(self, name: str) -> str:
        """"" where there is no such file."""

    def read(self, name: str) -> bytes | None:
        """A small file's bytes; None where there is no such file."""

    def write(self, name: str, content: bytes) -> None:
        """A small file: whole, or not at all."""

    def fetched(self, name: str) -> AbstractContextManager[Path]:
        """A file on this machine with a photo's bytes."""

    def filled(self, name: str) -> AbstractContextManager[Path]:
        """A path on this machine to write a photo to; without an error it then is under its name in this place."""

    def sweep(self, names: set[str]) -> None:
        """Remove what killed workers left half-written beside files of such names."""


def is_address(text: str) -> bool:
    """Whether it says how to get there (`s3://...`), rather than being a plain path."""
    return "://" in text


def place(text: str) -> Place:
    """The folder or bucket of an address. Raises OptionError for one that isn't understood."""
    kind, separator, rest = text.partition("://")
    if not separator or kind == "file":
        return Folder(str(Path(rest if separator else text).absolute()))
    if kind not in EXTRAS:
        raise OptionError(f"{shown(text)} can't be reached: an address begins with s3://, gs:// or file://.")
    if not rest.strip("/"):
        raise OptionError(f"{shown(text)} names no bucket.")
    return Bucket(text.rstrip("/"))


@dataclass(frozen=True)
class Folder:
    """A folder of this machine; for workers on others, one that all see under the same path. address: absolute."""

    address: str

    def names(self, *, recursive: bool, avoid: Place, refused: dict[str, str]) -> Iterator[tuple[str, str]]:
        root = Path(self.address)
        if not root.is_dir():
            raise UniresError(f"There is no folder {shown(root)}.")
        inner: dict[Path, str] = {}
        try:
            for path in folder.walk(root, recursive, Path(avoid.address).resolve(), inner):
                yield path.relative_to(root).as_posix(), ""
        except OSError as error:
            raise UniresError(folder.unread(root, error)) from error
        refused |= {path.relative_to(root).as_posix(): said for path, said in inner.items()}

    def stamp(self, name: str) -> str:
        path = Path(self.address, name)
        try:
            return digest_of_file(path)
        except (FileNotFoundError, NotADirectoryError):
            return ""
        except OSError as error:
            raise UniresError(f"{shown(path)} can't be read: {why(error, reading=True)}.") from error

    def read(self, name: str) -> bytes | None:
        path = Path(self.address, name)
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UniresError(f"{shown(path)} can't be read: {why(error, reading=True)}.") from error

    def write(self, name: str, content: bytes) -> None:
        with self.filled(name) as path:
            write_atomically(path, lambda file: file.write(content), overwrite=True)

    @contextmanager
    def fetched(self, name: str) -> Iterator[Path]:
        yield Path(self.address, name)

    @contextmanager
    def filled(self, name: str) -> Iterator[Path]:
        root = Path(self.address)
        folder.check_place(root / name, root)
        yield root / name

    def sweep(self, names: set[str]) -> None:
        folder.sweep({Path(self.address, name).parent for name in names})


@dataclass(frozen=True)
class Bucket:
    """A bucket, or what begins with a prefix in it. Where the store is and who asks, its own settings say: environment
    variables and files of the machine, which each worker reads for itself."""

    address: str

    def names(self, *, recursive: bool, avoid: Place, refused: dict[str, str]) -> Iterator[tuple[str, str]]:
        with self._explained("read"):
            files, root = self._files, self._path("")
            found = files.find(root, detail=True) if recursive else {f["name"]: f for f in files.ls(root, detail=True)}
        for path, facts in sorted(found.items()):
            name = path[len(root) + 1 :]
            below = avoid.address.startswith(self.address) and f"{self.address}/{name}".startswith(avoid.address + "/")
            # one without a name is a photo's own address, or what consoles make to show an empty folder
            if facts["type"] == "file" and name and not name.endswith("/") and not below:
                yield name, _stamp(facts)

    def stamp(self, name: str) -> str:
        with self._explained("read", name):
            try:
                facts = self._files.info(self._path(name))
            except FileNotFoundError:
                return ""
        return _stamp(facts) if facts["type"] == "file" else ""

    def read(self, name: str) -> bytes | None:
        with self._explained("read", name):
            try:
                content: bytes = self._files.cat_file(self._path(name))
            except FileNotFoundError:
                return None
        return content

    def write(self, name: str, content: bytes) -> None:
        with self._explained("written", name):
            self._files.pipe_file(self._path(name), content)

    @contextmanager
    def fetched(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="unires-") as here:
            path = Path(here, PurePosixPath(name).name)
            content = self.read(name)
            if content is None:
                raise PhotoError(f"There is no file {shown(f'{self.address}/{name}')}.")
            with _named_as(self.address, name, here):
                _on_disk(path.write_bytes, content)
                del content
                yield path

    @contextmanager
    def filled(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="unires-") as here, _named_as(self.address, name, here):
            path = Path(here, PurePosixPath(name).name)
            yield path
            self.write(name, path.read_bytes())

    def sweep(self, names: set[str]) -> None:
        pass  # what is half uploaded has no name

    @property
    def _files(self) -> Any:
        return _file_system(self.address.partition("://")[0])

    def _path(self, name: str) -> str:
        root = self.address.partition("://")[2]
        return f"{root}/{name}" if name else root

    @contextmanager
    def _explained(self, what: str, name: str = "") -> Iterator[None]:
        """Whatever a store's library raises, in one sentence."""
        whole = f"{self.address}/{name}" if name else self.address
        try:
            yield
        except UniresError:
            raise
        except FileNotFoundError as error:
            raise UniresError(f"There is no {shown(whole)}.") from error
        except Exception as error:  # libraries of stores raise hundreds of kinds, of no common class
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise UniresError(f"{shown(whole)} can't be {what}: {reason}.") from error


@lru_cache
def _file_system(kind: str) -> Any:
    try:
        import fsspec

        # listings would be remembered, and what other workers write then overlooked
        return fsspec.filesystem(kind, use_listings_cache=False)
    except ImportError:
        raise UniresError(
            f"For {kind}:// addresses an extra is needed: pip install 'unires[{EXTRAS[kind]}]'."
        ) from None


def _stamp(facts: dict[str, Any]) -> str:
    checksum = next((str(facts[key]) for key in _CHECKSUMS if facts.get(key)), "")
    if not checksum:
        raise UniresError(f"The store keeps no checksum of {shown(facts['name'])}, by which a change could be noticed.")
    return f"{facts['size']} {checksum}"


@contextmanager
def _named_as(address: str, name: str, here: str) -> Iterator[None]:
    """Errors name the file in the bucket, not its copy in the temporary folder `here`."""
    try:
        yield
    except UniresError as error:
        whole = str(PurePosixPath("/", name).parent).rstrip("/")
        raise type(error)(str(error).replace(here, address + whole)) from error


def _on_disk(write: Callable[[bytes], object], content: bytes) -> None:
    try:
        write(content)
    except (OSError, ValueError) as error:
        reason = why(error) if isinstance(error, OSError) else str(error)
        raise UniresError(f"A photo can't be put into the temporary folder: {reason}.") from error
