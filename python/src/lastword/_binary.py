"""Finds the `lastword` binary that is to be driven."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Optional, Union

from ._errors import BinaryNotFound

StrPath = Union[str, "os.PathLike[str]"]

VARIABLE = "LASTWORD_BINARY"
_NAME = "lastword"
# Enough of a console script to see whether it is ours.
_SCRIPT_HEAD_BYTES = 4096


def find_binary(explicit: Optional[StrPath] = None) -> str:
    """The binary's absolute path: `explicit`, else $LASTWORD_BINARY, else the one in this package, else the
    one on PATH.

    What was named by hand is never replaced by something else. Raises BinaryNotFound, which says what to do.
    """
    if explicit is not None:
        return _usable(os.path.abspath(explicit), "binary=")
    named = os.environ.get(VARIABLE)
    if named:
        return _usable(os.path.abspath(named), VARIABLE)
    bundled = bundled_binary()
    if bundled.exists():
        return _usable(str(bundled), "the one in this package")
    for candidate in _on_path():
        return candidate
    raise BinaryNotFound(
        "no lastword binary was found: there is none in this package "
        f"({bundled}), {VARIABLE} isn't set, and PATH has none. Do one of these: install the package's wheel "
        "for this platform (it holds the binary); put `lastword` into a directory of PATH; set "
        f"{VARIABLE} to its path; pass binary=PATH"
    )


def bundled_binary() -> Path:
    """Where the wheel of a platform has its binary."""
    return Path(__file__).resolve().parent / "_bin" / _NAME


def _usable(path: str, named_by: str) -> str:
    if not os.path.isfile(path):
        raise BinaryNotFound(f"{path} ({named_by}) is no file: name the lastword binary there")
    if not os.access(path, os.X_OK):
        raise BinaryNotFound(f"{path} ({named_by}) may not be executed: chmod +x {path}")
    return path


def _on_path() -> Iterator[str]:
    for directory in os.get_exec_path():
        path = os.path.abspath(os.path.join(directory, _NAME))
        if os.path.isfile(path) and os.access(path, os.X_OK) and not _is_own_script(path):
            yield path


def _is_own_script(path: str) -> bool:
    """This package's console script is called `lastword` too, and would look for the binary again, for
    ever."""
    try:
        with open(path, "rb") as file:
            head = file.read(_SCRIPT_HEAD_BYTES)
    except OSError:
        return False
    return head.startswith(b"#!") and b"lastword._main" in head
