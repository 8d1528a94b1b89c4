"""Drives the `lastword` binary of this machine. The one place that knows its command line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO, Any, Optional, cast

from ._binary import StrPath, find_binary
from ._errors import BadRequest, LastwordError, NotFound
from ._types import Json

# How long a child that was asked to end may take. A run cancels its program and waits for its end; a batch
# waits for what runs. Asked once more it ends at once, and what still runs then ends by itself.
END_RUN_SECONDS = 30.0
END_BATCH_SECONDS = 5.0
END_AT_ONCE_SECONDS = 5.0
# What is kept of the text on stderr of a child.
_STDERR_BYTES_MAX = 64 * 1024
_CHUNK_BYTES = 1 << 20
_EXIT_BAD_REQUEST = 2
_ID = re.compile(r"[0-9a-fA-F][0-9a-fA-F-]{0,63}")
_FIELD = re.compile(
    r"(?:.*?: )??((?:runtime|command|args|code|files|entry|cwd|image|backend|network|stdin|env|secrets"
    r"|outputs|labels|tty|ordering|on_output_limit|flush|strict|compile_flags|limits)"
    r"(?:\.[a-z_]+|\[\d+\])*) (.+)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Local:
    """The binary, and the data directory that it works on."""

    binary: str
    globals: tuple[str, ...] = field(default=())

    @classmethod
    def find(cls, binary: Optional[StrPath], data_dir: Optional[StrPath]) -> Local:
        """Absolute paths: an execution can be asked for its records also after a chdir."""
        options = () if data_dir is None else (f"--data-dir={os.path.abspath(data_dir)}",)
        return cls(find_binary(binary), options)

    def command(self, name: str, *arguments: str) -> list[str]:
        return [self.binary, *self.globals, name, *arguments]

    def run_command(self, host_options: Sequence[str]) -> list[str]:
        return self.command("run", "--json", "--request=-", *host_options)

    def batch_command(self, jobs: Optional[int], ordered: bool, host_options: Sequence[str]) -> list[str]:
        options = [*host_options]
        if jobs is not None:
            options.append(f"-j{jobs}")
        if not ordered:
            options.append("--as-they-end")
        return self.command("batch", *options, "-")

    def run(self, body: bytes, host_options: Sequence[str]) -> Json:
        return self._object(self.run_command(host_options), body)

    def get(self, id: str) -> Json:
        return self._object(self.command("get", "--json", "--", checked_id(id)))

    def listed(self, options: Sequence[str]) -> list[Json]:
        page = self._object(self.command("list", "--json", *options))
        return cast("list[Json]", page["items"])

    def verify(self, id: str) -> Json:
        # It exits with 1 if something is wrong, and says what all the same.
        report = self._object(self.command("verify", "--json", "--", checked_id(id)), failure_has_object=True)
        return cast(Json, report["items"][0])

    def remove(self, id: str) -> None:
        self._output(self.command("rm", "--", checked_id(id)))

    def records(self, id: str) -> Iterator[Json]:
        with self._stream(self.command("logs", "--format=jsonl", "--", checked_id(id))) as stdout:
            for line in stdout:
                yield parsed(line)

    def file(self, id: str, path: str) -> Iterator[bytes]:
        """The bytes of an output file, in pieces."""
        with self._stream(self.command("files", "--", checked_id(id), path)) as stdout:
            while True:
                chunk = stdout.read(_CHUNK_BYTES)
                if not chunk:
                    return
                yield chunk

    def _object(self, command: Sequence[str], stdin: bytes = b"", failure_has_object: bool = False) -> Json:
        return parsed(self._output(command, stdin, failure_has_object))

    def _output(self, command: Sequence[str], stdin: bytes = b"", failure_has_object: bool = False) -> bytes:
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Ctrl-C in a terminal reaches us alone, and we pass it on once: the second signal would end the
            # child at once.
            start_new_session=True,
        ) as child:
            try:
                stdout, stderr = child.communicate(stdin)
            except BaseException:
                end(child)
                raise
        if child.returncode != 0 and not (failure_has_object and stdout):
            raise failure(child.returncode, stderr)
        return stdout

    @contextmanager
    def _stream(self, command: Sequence[str]) -> Iterator[IO[bytes]]:
        """Its stdout while it runs. Raises after the last byte if it failed: then not all bytes were
        there."""
        with tempfile.TemporaryFile() as stderr:
            child = start(command, stderr, stdin=False)
            try:
                yield piped(child.stdout)
                child.wait()
            except BaseException:
                end(child)
                raise
            piped(child.stdout).close()
            if child.returncode != 0:
                raise failure(child.returncode, tail(stderr))


def start(command: Sequence[str], stderr: IO[bytes], stdin: bool = True) -> subprocess.Popen[bytes]:
    """Starts a child whose stdout is a pipe. Its stderr is a file: nobody has to read it meanwhile."""
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        start_new_session=True,
    )


def piped(stream: Optional[IO[bytes]]) -> IO[bytes]:
    if stream is None:
        raise LastwordError("the child has no such pipe")
    return stream


def end(child: subprocess.Popen[bytes], seconds: float = END_RUN_SECONDS) -> None:
    """Asks a child to end, and waits for it so long. Then, or at an interrupt, it is asked to end at once."""
    # Closed before the wait: it must not be held up by a write that nobody reads.
    for stream in (child.stdout, child.stderr):
        if stream is not None:
            stream.close()
    for patience in (seconds, END_AT_ONCE_SECONDS):
        if child.poll() is None:
            child.terminate()
            with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
                child.wait(patience)
    if child.poll() is None:
        child.kill()
        child.wait()


def tail(stderr: IO[bytes]) -> bytes:
    size = stderr.seek(0, os.SEEK_END)
    stderr.seek(max(0, size - _STDERR_BYTES_MAX))
    return stderr.read()


def parsed(line: bytes) -> Json:
    try:
        value: Any = json.loads(line)
    except ValueError as error:
        raise LastwordError(f"lastword printed no JSON: {line[:100]!r}") from error
    if not isinstance(value, dict):
        raise LastwordError(f"lastword printed no JSON object: {line[:100]!r}")
    return value


def checked_id(id: str) -> str:
    """An id, or the beginning of one: nothing else comes on the command line in its place."""
    if not _ID.fullmatch(id):
        raise NotFound(f"{id[:64]!r} is no id of an execution")
    return id


def failure(code: int, stderr: bytes) -> LastwordError:
    """The error that a child's exit code and its words stand for."""
    text = stderr[-_STDERR_BYTES_MAX:].decode("utf-8", "replace").strip()
    if code == _EXIT_BAD_REQUEST:
        if text.startswith("error:") and "Usage:" in text:
            return LastwordError(f"this lastword binary is older than the package, or not ours: {text}")
        found = _FIELD.fullmatch(text)
        if found is not None:
            return BadRequest(found.group(2), found.group(1))
        return BadRequest(_without_name(text) or "lastword says no more")
    if code < 0:
        return LastwordError(f"lastword was ended by signal {-code}{': ' + text if text else ''}")
    message = _without_name(text) or f"lastword ended with exit code {code} and no message"
    return NotFound(message) if _is_not_found(text) else LastwordError(message)


def _without_name(text: str) -> str:
    return text[len("lastword: ") :] if text.startswith("lastword: ") else text


def _is_not_found(text: str) -> bool:
    return bool(re.search(r"\bno (?:such )?(?:execution|output)", text))
