"""The execution object: one request to run code, and all that came of it."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Optional, Protocol, cast

from . import _types as types
from ._binary import StrPath
from ._errors import Incomplete, LastwordError, NotFound, RunFailed
from ._save import Target
from ._types import Json

StreamName = Literal["stdout", "stderr", "output"]


class Source(Protocol):
    """Where an execution is kept: a data directory of this machine, or a server."""

    def records(self, id: str) -> Iterator[Json]: ...

    def file(self, id: str, path: str) -> Iterator[bytes]: ...

    def verify(self, id: str) -> Json: ...

    def remove(self, id: str) -> None: ...


@dataclass(frozen=True, eq=False)
class Execution:
    """One execution as it stood when it was asked for; it never changes afterwards.

    Two of them are equal if all that lastword said of them is equal.
    """

    id: str
    status: types.Status
    reason: Optional[str]
    ok: bool
    """Succeeded, and the transcript is complete."""
    exit_code: Optional[int]
    signal: Optional[str]
    """The signal's name, like "SIGKILL"."""
    oom_killed: bool
    inline_truncated: bool
    """The object itself carries only the beginning of its streams. `stdout`, `stderr` and `output` read the
    rest from the store when they are asked for."""
    transcript: types.Transcript
    compile: Optional[types.Compile]
    outputs: tuple[types.OutputFile, ...]
    outputs_refused: tuple[types.OutputRefused, ...]
    usage: Optional[types.Usage]
    limits: Mapping[str, Any]
    enforced: Mapping[str, bool]
    backend: str
    runtime: Optional[str]
    image: Optional[str]
    labels: Mapping[str, str]
    environment: types.Environment
    problem: Optional[types.Problem]
    retry: types.Retry
    created_at: datetime
    started_at: Optional[datetime]
    ended_at: Optional[datetime]
    queue_ms: Optional[float]
    raw: Json = field(repr=False)
    """The whole object as lastword printed it."""
    _local: Source = field(repr=False)
    _streams: dict[str, bytes] = field(default_factory=dict, repr=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Execution) and self.raw == other.raw

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def complete(self) -> bool:
        """Nothing of what it said is missing. False as long as it runs."""
        return self.transcript.complete is True

    @property
    def why_incomplete(self) -> Optional[str]:
        return self.transcript.why_incomplete

    @property
    def duration(self) -> Optional[float]:
        """Seconds from exec to the end of the program. None where nothing ran, or nobody saw the end."""
        return None if self.usage is None else self.usage.wall_ms / 1000

    @property
    def stdout(self) -> str:
        """All of its stdout. Bytes that are no UTF-8 become surrogate escapes, and are lost to no one."""
        return _text(self.stdout_bytes)

    @property
    def stderr(self) -> str:
        """All of its stderr, in the same way."""
        return _text(self.stderr_bytes)

    @property
    def output(self) -> str:
        """Both together, in the order in which they were written."""
        return _text(self.output_bytes)

    @property
    def stdout_bytes(self) -> bytes:
        return self._bytes("stdout")

    @property
    def stderr_bytes(self) -> bytes:
        return self._bytes("stderr")

    @property
    def output_bytes(self) -> bytes:
        return self._bytes("output")

    def records(self) -> Generator[types.Record, None, None]:
        """Each piece that it said, in order, from the store."""
        for raw in self._local.records(self.id):
            yield types.record(raw)

    def read_output(self, path: str) -> bytes:
        """The bytes of a declared output file.

        Raises NotFound if there is none of this path, and LastwordError if not all of its bytes came.
        """
        return b"".join(self._file(self._output_of(path)))

    def save_outputs(self, directory: StrPath) -> list[Path]:
        """Writes all declared output files below a directory, and returns where they are.

        One below the working directory keeps its path from there on; /tmp/x becomes tmp/x. The paths are the
        program's own choice: none leads out of the directory or through a link. A path that would, or that a
        link or a directory is in the way of, raises LastwordError. An older file is replaced.
        """
        saved = []
        with Target(os.fspath(directory)) as target:
            for output in self.outputs:
                saved.append(target.save(output.path, self._file(output)))
        return saved

    def verify(self) -> types.Verdict:
        """Reads the transcript again from disk, and checks every byte against what was promised."""
        return types.verdict(self._local.verify(self.id))

    def remove(self) -> None:
        """Removes it with its transcript from the store. It must have ended."""
        self._local.remove(self.id)

    def raise_for_status(self) -> Execution:
        """Itself if it is ok.

        Raises Incomplete if the transcript is not complete, whatever the program did, and else RunFailed.
        """
        if self.ok:
            return self
        if self.status != "error" and not self.complete:
            raise Incomplete(self)
        raise RunFailed(self)

    def _last_line(self) -> str:
        """The last line on stderr that isn't empty, of what the object itself carries."""
        lines = (self._inline("stderr") or b"").decode("utf-8", "replace").rstrip().splitlines()
        return lines[-1] if lines else ""

    def _inline(self, name: StreamName) -> Optional[bytes]:
        text = self.raw.get(name)
        return None if text is None else types.decoded(text, self.raw.get(f"{name}_encoding", "utf-8"))

    def _bytes(self, name: StreamName) -> bytes:
        if name not in self._streams:
            inline = self._inline(name)
            summaries = {"stdout": self.transcript.stdout.bytes, "stderr": self.transcript.stderr.bytes}
            size = summaries.get(name, sum(summaries.values()))
            # A list has no streams at all, and a long stream is cut: the store has the whole.
            if inline is None or len(inline) < size:
                inline = b"".join(r.data for r in self.records() if name in (r.stream, "output"))
                if len(inline) < size:
                    raise LastwordError(
                        f"{size} bytes of {name} of {self.id} were promised, {len(inline)} are there"
                    )
            self._streams[name] = inline
        return self._streams[name]

    def _output_of(self, path: str) -> types.OutputFile:
        for output in self.outputs:
            if output.path == path:
                return output
        raise NotFound(f"execution {self.id} has no output file {path!r}")

    def _file(self, output: types.OutputFile) -> Iterator[bytes]:
        size = 0
        for chunk in self._local.file(self.id, output.path):
            size += len(chunk)
            yield chunk
        if size != output.size:
            raise LastwordError(f"{output.path!r} has {size} bytes, {output.size} were sealed")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def from_json(raw: Json, local: Source) -> Execution:
    """Reads an execution object. Raises LastwordError if it is none."""
    try:
        return _read(raw, local)
    except (KeyError, TypeError, AttributeError) as error:
        raise LastwordError(f"lastword printed an execution that can't be understood: {error!r}") from error


def _read(raw: Json, local: Source) -> Execution:
    created_at = types.time_of(raw["created_at"])
    if created_at is None:
        raise KeyError("created_at")
    return Execution(
        id=raw["id"],
        status=cast(types.Status, raw["status"]),
        reason=raw["reason"],
        ok=raw["ok"],
        exit_code=raw["exit_code"],
        signal=raw["signal"],
        oom_killed=raw["oom_killed"],
        inline_truncated=raw.get("inline_truncated", False),
        transcript=types.transcript(raw["transcript"]),
        compile=types.compile_step(raw.get("compile")),
        outputs=tuple(types.output_file(item) for item in raw["outputs"]),
        outputs_refused=tuple(types.output_refused(item) for item in raw.get("outputs_refused") or ()),
        usage=types.usage(raw.get("usage")),
        limits=raw["limits"],
        enforced=raw["enforced"],
        backend=raw["backend"],
        runtime=raw.get("runtime"),
        image=raw.get("image"),
        labels=raw["labels"],
        environment=types.environment(raw["environment"]),
        problem=types.problem(raw.get("problem")),
        retry=types.retry(raw["retry"]),
        created_at=created_at,
        started_at=types.time_of(raw.get("started_at")),
        ended_at=types.time_of(raw.get("ended_at")),
        queue_ms=raw.get("queue_ms"),
        raw=raw,
        _local=local,
    )
