"""Files appear whole or not at all.

A file is written under a temporary name in its own folder, synced, reopened and verified, and only then given
its name, in one step of the file system. Whatever goes wrong, Ctrl-C included, the temporary file is removed.
Only `kill -9` or a power cut can leave one behind; its name starts with `.unires-` and ends with `.part`. As long as
somebody writes it, it is locked, by which `sweep` tells it from one that was left behind.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from unires.errors import PhotoError, shown

_REASONS = {
    errno.ENOSPC: "there is no space left",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than this file system or account allows",
    errno.EACCES: "the folder may not be written to",
    errno.EPERM: "the folder may not be written to",
    errno.EROFS: "the file system is read-only",
    errno.ENOENT: "there is no such folder",
    errno.ENOTDIR: "its folder is a file",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EISDIR: "there is a folder of that name",
    errno.EIO: "the disk reports an error",
}


TEMPORARY = ".unires-*.part"  # names of files that are being written


def why(error: OSError, *, reading: bool = False) -> str:
    """The cause of a failed write, or of a failed read, in plain words."""
    if reading and isinstance(error, PermissionError):
        return "permission is denied"
    return _REASONS.get(error.errno or 0) or (error.strerror or type(error).__name__).lower()


def exists(path: Path) -> bool:
    """Whether anything has that name, a link that leads nowhere included. Raises `PhotoError` where it can't
    be told."""
    try:
        return os.path.lexists(path)
    except (OSError, ValueError) as error:
        raise PhotoError(f"{shown(path)} cannot be written: it is no possible name.") from error


def refuse_existing(path: Path) -> PhotoError:
    """The error for a name that is taken."""
    return PhotoError(f"{shown(path)} exists already and is not overwritten.")


def write_atomically(
    path: Path,
    fill: Callable[[BinaryIO], object],
    *,
    verify: Callable[[Path], object] | None = None,
    before: Callable[[Path], object] | None = None,
    overwrite: bool = False,
) -> None:
    """Writes `path` by `fill(file)`; `verify(temporary path)` may object by raising, and so may `before(temporary
    path)`, which is called last, just before the file gets its name.

    A link of that name is replaced, not followed. Raises `PhotoError` when the file system refuses or, unless
    `overwrite`, when the name is taken (also when another program takes it in the meantime). Errors of `fill`,
    `verify` and `before` that are no `OSError` pass through; in every case nothing is left behind.
    """
    if not overwrite and exists(path):
        raise refuse_existing(path)
    try:
        with contextlib.ExitStack() as held:
            temporary = _created(path.parent, held)
            with open(temporary, "r+b") as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
            if verify is not None:
                verify(temporary)
            if before is not None:
                before(temporary)
            _publish(temporary, path, overwrite)
    except FileExistsError as error:
        raise refuse_existing(path) from error
    except OSError as error:
        raise PhotoError(f"{shown(path)} cannot be written: {why(error)}.") from error
    except ValueError as error:
        if "null" in str(error):  # a name with a zero byte
            raise PhotoError(f"{shown(path)} cannot be written: it is no possible name.") from error
        raise
    _sync_folder(path.parent)


def sweep(folder: Path) -> None:
    """Removes the temporary files that killed processes left in a folder, but none that is being written: a folder
    has more writers than one job."""
    for part in folder.glob(TEMPORARY):
        with contextlib.suppress(OSError), _taken(part):
            os.unlink(part)


def _created(folder: Path, held: contextlib.ExitStack) -> Path:
    """A new, empty file. It is locked until `held` is left, and removed then if that name is still there. Raises
    OSError."""
    # O_EXCL never follows a link; the permissions become what the user's umask says.
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    while True:
        # Short, so that a photo's name may be as long as the file system allows; hidden, so that no viewer picks
        # it up.
        temporary = folder / TEMPORARY.replace("*", secrets.token_hex(8))
        held.callback(_remove, temporary)
        handle = os.open(temporary, flags, 0o666)
        try:
            import fcntl
        except ImportError:  # Windows has no such locks, and gives no other name to a file that is open
            os.close(handle)
            return temporary
        held.callback(os.close, handle)
        with contextlib.suppress(OSError):  # some network shares have none either
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.path.lexists(temporary):  # else it was swept up in the moment before it was locked
            return temporary


def _remove(temporary: Path) -> None:
    with contextlib.suppress(OSError):
        os.unlink(temporary)


@contextlib.contextmanager
def _taken(part: Path) -> Iterator[None]:
    """Lock a temporary file. Raises OSError where another process or thread, which writes it, has done so."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = os.open(part, os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _publish(temporary: Path, path: Path, overwrite: bool) -> None:
    if overwrite:
        os.replace(temporary, path)
        return
    try:
        # Unlike a rename, a hard link fails when the name was taken since we looked.
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        # File systems without hard links (FAT, some network shares): look once more, then rename.
        if exists(path):
            raise FileExistsError(errno.EEXIST, "exists", str(path)) from None
        os.replace(temporary, path)


def _sync_folder(folder: Path) -> None:
    """Makes the new name itself survive a power cut, where the system can do that."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
