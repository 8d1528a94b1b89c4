"""Writes files whose paths were chosen by an untrusted program."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Optional

from ._errors import LastwordError

_MODE_FILE = 0o666
_MODE_DIRECTORY = 0o777
# A deeper path is nothing that a program needs; each level holds one open descriptor at a time.
_DEPTH_MAX = 64


class Target:
    """A directory to save below. Every step goes from an open directory to a name in it, and never follows a
    link."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._root = -1
        self._saved: set[Path] = set()

    def __enter__(self) -> Target:
        os.makedirs(self.directory, exist_ok=True)
        self._root = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        value: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        os.close(self._root)

    def save(self, path: str, chunks: Iterator[bytes]) -> Path:
        """Writes one file, whole or not at all. The absolute path /tmp/x is tmp/x here."""
        *parents, name = _parts(path)
        saved = Path(self.directory, *parents, name)
        if saved in self._saved:
            raise LastwordError(f"can't save {path!r}: another output is saved in its place")
        parent = self._open_parent(path, parents)
        try:
            _write(parent, name, chunks)
        except OSError as error:
            raise LastwordError(f"can't save {path!r}: {error.strerror}") from error
        finally:
            os.close(parent)
        self._saved.add(saved)
        return saved

    def _open_parent(self, path: str, parents: list[str]) -> int:
        here = os.dup(self._root)
        for name in parents:
            try:
                below = _open_directory(here, name)
            except OSError as error:
                raise LastwordError(
                    f"can't save {path!r}: {name!r} is in the way ({error.strerror}); links are not followed"
                ) from error
            finally:
                os.close(here)
            here = below
        return here


def _parts(path: str) -> list[str]:
    parts = (path[1:] if path.startswith("/") else path).split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts) or len(parts) > _DEPTH_MAX:
        raise LastwordError(f"{path[:200]!r} is no path below a directory: not saved")
    return parts


def _open_directory(parent: int, name: str) -> int:
    try:
        os.mkdir(name, _MODE_DIRECTORY, dir_fd=parent)
    except FileExistsError:
        pass
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, dir_fd=parent)


def _write(parent: int, name: str, chunks: Iterator[bytes]) -> None:
    with suppress(FileNotFoundError):
        mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
        if not stat.S_ISREG(mode):
            raise FileExistsError(errno.EEXIST, "a link, a directory or a device is in the way")
    # Under another name first. Whatever takes this one meanwhile, the rename replaces it and follows no link.
    temporary = f".lastword-{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, _MODE_FILE, dir_fd=parent)
    try:
        with os.fdopen(fd, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
        os.replace(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
    except BaseException:
        os.unlink(temporary, dir_fd=parent)
        raise
