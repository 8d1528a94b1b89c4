"""A request to run code, and how it is written as JSON."""

from __future__ import annotations

import base64
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Optional, Union

from ._binary import StrPath
from ._errors import BadRequest
from ._quantity import Duration, Size, milliseconds, size_bytes

_EXECUTABLE = 0o111
_MODE_EXECUTABLE = 0o755


@dataclass(frozen=True)
class File:
    """A file for the sandbox: its path in the working directory, and its content."""

    path: str
    content: Union[str, bytes, "os.PathLike[str]"]
    """A text, bytes, or the path of a file of this machine."""
    mode: Optional[int] = None
    """Like 0o755. Of a file of this machine it is taken over whether it is executable."""


Content = Union[str, bytes, "os.PathLike[str]"]
Files = Union[Mapping[str, Content], Sequence[Union[File, "os.PathLike[str]"]]]
ReadOnly = Union[StrPath, Sequence[StrPath], Mapping[str, str]]
Ordering = Literal["exact", "arrival"]
OnOutputLimit = Literal["kill", "drop"]
Flush = Literal["line", "unbuffered", "off"]


@dataclass(frozen=True)
class Request:
    """One request to run code. None leaves a choice to lastword's own default.

    Durations are seconds, or texts like "500ms"; sizes are bytes, or texts like "64MiB".
    """

    code: Optional[str] = None
    """Source text for `runtime`."""
    runtime: str = "python"
    """What runs the code. Has no meaning with `command`."""
    command: Optional[Sequence[str]] = None
    """A command as it is, instead of code."""
    args: Sequence[str] = ()
    files: Optional[Files] = None
    """{path: content}, or a sequence of `File` and paths of this machine's files. A path of this machine is
    always an `os.PathLike`, never a `str`: a text is content."""
    entry: Optional[str] = None
    """Which of `files` is run."""
    cwd: Optional[str] = None
    stdin: Union[str, bytes, None] = None
    env: Optional[Mapping[str, str]] = field(default=None, repr=False)
    secrets: Optional[Mapping[str, str]] = field(default=None, repr=False)
    """Variables whose values nobody ever shows."""
    timeout: Duration = 30.0
    """Wall time."""
    memory: Size = "1GiB"
    """With what the program writes to its file system."""
    cpu_time: Optional[Duration] = None
    cpus: Optional[float] = None
    pids: Optional[int] = None
    disk: Optional[Size] = None
    output_limit: Optional[Size] = None
    on_output_limit: Optional[OnOutputLimit] = None
    stack: Optional[Size] = None
    open_files: Optional[int] = None
    outputs: Sequence[str] = ()
    """Patterns of files to keep."""
    labels: Optional[Mapping[str, str]] = None
    image: Optional[str] = None
    tty: bool = False
    ordering: Optional[Ordering] = None
    flush: Optional[Flush] = None
    compile_flags: Sequence[str] = ()
    strict: bool = False
    """Refuse where a limit or the ordering can't be had."""
    venv: Optional[StrPath] = None
    """A virtual environment of this machine. Not in a batch: see there."""
    ro: Optional[ReadOnly] = None
    """Paths of this machine that the program may read: "SRC" or "SRC:DST", or {SRC: DST}. Not in a batch."""
    key: Optional[str] = None
    """The caller's own name for a row of a batch."""

    def body(self) -> dict[str, Any]:
        """The request as a JSON object. Raises BadRequest; reads files of this machine that it names."""
        body: dict[str, Any] = {}
        if self.command is not None:
            if self.code is not None:
                raise BadRequest("can't be given together with code", "command")
            body["command"] = _texts("command", self.command)
        elif self.code is not None or self.files:
            body["runtime"] = self.runtime
        elif self.image is None:
            raise BadRequest("is missing, and there are no files and no command: nothing to run", "code")
        optional: dict[str, Any] = {
            "args": _texts("args", self.args),
            "code": self.code,
            "files": list(_files(self.files)) if self.files else None,
            "entry": self.entry,
            "cwd": self.cwd,
            "image": self.image,
            "stdin": _bytes_or_text(self.stdin),
            "env": dict(self.env) if self.env else None,
            "secrets": dict(self.secrets) if self.secrets else None,
            "outputs": _texts("outputs", self.outputs),
            "labels": dict(self.labels) if self.labels else None,
            "tty": True if self.tty else None,
            "ordering": self.ordering,
            "on_output_limit": self.on_output_limit,
            "flush": self.flush,
            "strict": True if self.strict else None,
            "compile_flags": _texts("compile_flags", self.compile_flags),
            "key": self.key,
        }
        body.update((name, value) for name, value in optional.items() if value is not None and value != [])
        body["limits"] = self._limits()
        return body

    def _limits(self) -> dict[str, Any]:
        limits: dict[str, Any] = {
            "wall_ms": milliseconds("timeout", self.timeout),
            "memory_bytes": size_bytes("memory", self.memory),
            "cpu_ms": None if self.cpu_time is None else milliseconds("cpu_time", self.cpu_time),
            "cpus": self.cpus,
            "pids": self.pids,
            "disk_bytes": None if self.disk is None else size_bytes("disk", self.disk),
            "output_bytes": None
            if self.output_limit is None
            else size_bytes("output_limit", self.output_limit),
            "stack_bytes": None if self.stack is None else size_bytes("stack", self.stack),
            "open_files": self.open_files,
        }
        return {name: value for name, value in limits.items() if value is not None}

    def host_options(self) -> list[str]:
        """What names paths of this machine, as options of the command line: never part of the JSON."""
        return host_options(self.venv, self.ro)


def host_options(venv: Optional[StrPath], ro: Optional[ReadOnly]) -> list[str]:
    options = [] if venv is None else [f"--venv={os.path.abspath(venv)}"]
    pairs: list[str] = []
    if isinstance(ro, Mapping):
        pairs = [f"{os.path.abspath(source)}:{target}" for source, target in ro.items()]
    elif isinstance(ro, (str, os.PathLike)):
        pairs = [os.fspath(ro)]
    elif ro is not None:
        pairs = [os.fspath(item) for item in ro]
    return options + [f"--ro={pair}" for pair in pairs]


def encoded(body: Mapping[str, Any]) -> bytes:
    """A body as one line of JSON with its newline. Raises BadRequest with the field that JSON can't hold."""
    try:
        return _json(body)
    except (TypeError, ValueError) as error:
        for name, value in body.items():
            try:
                _json({name: value})
            except (TypeError, ValueError):
                raise BadRequest(_why(error), name) from None
        raise BadRequest(_why(error)) from None


def _json(value: Mapping[str, Any]) -> bytes:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8") + b"\n"


def _why(error: Exception) -> str:
    # The error's own text may quote the value, and a value may be a secret.
    if isinstance(error, UnicodeEncodeError):
        return "can't be written as UTF-8; pass bytes, where bytes can be passed"
    if isinstance(error, ValueError):
        return "has a number that is not finite, or refers to itself"
    return "has a value of a type that JSON doesn't know"


def _texts(name: str, values: Sequence[str]) -> list[str]:
    if isinstance(values, (str, bytes)):
        raise BadRequest("is one text; give a list of texts", name)
    texts = list(values)
    for value in texts:
        if not isinstance(value, str):
            raise BadRequest(f"has a {type(value).__name__}; all have to be texts", name)
    return texts


def _bytes_or_text(value: Union[str, bytes, None]) -> Union[str, dict[str, str], None]:
    return {"base64": _base64(value)} if isinstance(value, (bytes, bytearray, memoryview)) else value


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _files(files: Files) -> Iterator[dict[str, Any]]:
    if isinstance(files, Mapping):
        for path, content in files.items():
            yield _file(File(path, content))
        return
    for item in files:
        if isinstance(item, File):
            yield _file(item)
        elif isinstance(item, os.PathLike):
            yield _file(File(os.path.basename(os.fspath(item)), item))
        else:
            raise BadRequest(
                f"have a {type(item).__name__}; use File, a path like pathlib.Path, or a mapping", "files"
            )


def _file(file: File) -> dict[str, Any]:
    entry: dict[str, Any] = {"path": file.path}
    content, mode = file.content, file.mode
    if isinstance(content, os.PathLike):
        content, executable = _host_file(content)
        mode = _MODE_EXECUTABLE if mode is None and executable else mode
    if isinstance(content, str):
        entry["text"] = content
    elif isinstance(content, (bytes, bytearray, memoryview)):
        entry["base64"] = _base64(content)
    else:
        raise BadRequest(f"have a {type(content).__name__} for the content of {file.path!r}", "files")
    if mode is not None:
        entry["mode"] = mode
    return entry


def _host_file(path: os.PathLike[str]) -> tuple[bytes, bool]:
    try:
        # A pipe without a writer must not hold us up in the open itself.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as opened:
            mode = os.fstat(fd).st_mode
            # A device might never end.
            if not stat.S_ISREG(mode):
                raise BadRequest(f"have {os.fspath(path)}, which is no regular file", "files")
            return opened.read(), bool(mode & _EXECUTABLE)
    except OSError as error:
        raise BadRequest(f"have {os.fspath(path)}, which can't be read: {error.strerror}", "files") from error
