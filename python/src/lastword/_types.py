"""The parts of an execution object, and how they are read from JSON.

Fields that a newer lastword adds are passed over here; `Execution.raw` has them.
"""

from __future__ import annotations

import base64
import binascii
import calendar
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Literal, Optional, cast

from ._errors import LastwordError

Json = Mapping[str, Any]
Status = Literal["queued", "running", "succeeded", "failed", "timed_out", "cancelled", "error"]
Stream = Literal["stdout", "stderr"]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9})\d*)?(?:Z|\+00:00)")


def time_ns(text: str) -> int:
    """Nanoseconds since 1970 of an RFC 3339 time in UTC. `datetime` would lose the last three digits."""
    found = _TIME.fullmatch(text)
    if found is None:
        raise LastwordError(f"lastword printed a time that can't be understood: {text[:64]!r}")
    year, month, day, hour, minute, second = (int(part) for part in found.groups()[:6])
    fraction = int((found.group(7) or "").ljust(9, "0"))
    return calendar.timegm((year, month, day, hour, minute, second)) * 1_000_000_000 + fraction


def datetime_of(ns: int) -> datetime:
    """To the microsecond, in UTC."""
    return _EPOCH + timedelta(microseconds=ns // 1000)


def time_of(text: Optional[str]) -> Optional[datetime]:
    return None if text is None else datetime_of(time_ns(text))


def decoded(text: str, encoding: str) -> bytes:
    """The exact bytes behind a text of the object and its encoding."""
    if encoding == "utf-8":
        return text.encode("utf-8")
    if encoding == "base64":
        try:
            return base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise LastwordError("lastword printed base64 that can't be understood") from error
    raise LastwordError(f"unknown encoding {encoding!r}: this package is older than the binary it drives")


@dataclass(frozen=True)
class StreamSummary:
    """One stream of a transcript."""

    bytes: int
    """Bytes in the transcript."""
    dropped: int
    """Bytes that were read and dropped."""
    blake3: Optional[str]
    """Digest over the stream's bytes, in hex. None until the run has ended."""


@dataclass(frozen=True)
class Transcript:
    """What is known of all that the program said."""

    complete: Optional[bool]
    """True only if nothing is missing. None until the run has ended."""
    why_incomplete: Optional[str]
    ordering: Optional[str]
    """"exact": the order of the writes; "arrival": the order in which bytes were read."""
    ordering_until_seq: Optional[int]
    """With "arrival": records below this seq are still in exact order."""
    records: int
    tty: bool
    stdout: StreamSummary
    stderr: StreamSummary


@dataclass(frozen=True)
class Usage:
    """What the run used. None where the machine doesn't say."""

    wall_ms: float
    cpu_user_ms: Optional[float]
    cpu_system_ms: Optional[float]
    memory_peak_bytes: Optional[int]
    processes_peak: Optional[int]


@dataclass(frozen=True)
class Compile:
    """The compile step of a runtime that has one."""

    id: Optional[str]
    """The compile step's own execution, where it has one."""
    exit_code: Optional[int]
    stdout: str
    stderr: str
    cached: bool
    usage: Optional[Usage]


@dataclass(frozen=True)
class OutputFile:
    """A declared file that the program left behind. The path is the program's own choice: don't trust it."""

    path: str
    """With bytes that are no UTF-8 as surrogate escapes."""
    size: int
    """In bytes."""
    blake3: str


@dataclass(frozen=True)
class OutputRefused:
    """A declared file that was not kept."""

    path: str
    reason: str


@dataclass(frozen=True)
class Environment:
    """What the program ran on."""

    runtime_version: Optional[str]
    image_digest: Optional[str]
    kernel: Optional[str]
    lastword: str


@dataclass(frozen=True)
class Problem:
    """How lastword failed, or why it refused."""

    code: str
    message: str
    backend_message: Optional[str] = None


@dataclass(frozen=True)
class Retry:
    """Whether the request can be run again without running the program twice."""

    safe: bool
    program_started: bool


@dataclass(frozen=True)
class Record:
    """One captured piece of what the program said."""

    seq: int
    """Counts from 0 without a gap over both streams."""
    timestamp: datetime
    """When it was read, in UTC, to the microsecond."""
    timestamp_ns: int
    """The same in nanoseconds since 1970."""
    stream: Stream
    data: bytes
    dropped: int = 0
    """So many bytes were read and dropped here; `data` is empty then."""

    @property
    def text(self) -> str:
        """Bytes that are no UTF-8 become surrogate escapes. A record may end inside a character."""
        return self.data.decode("utf-8", "surrogateescape")


@dataclass(frozen=True)
class Verdict:
    """What reading a transcript again from disk has shown."""

    ok: bool
    """Every byte is what was promised. A transcript that is not complete and says so is ok."""
    complete: bool
    why_incomplete: Optional[str]
    records: int
    stdout_bytes: int
    stderr_bytes: int
    problems: tuple[str, ...]


def stream_summary(raw: Json) -> StreamSummary:
    return StreamSummary(raw["bytes"], raw["dropped"], raw.get("blake3"))


def transcript(raw: Json) -> Transcript:
    return Transcript(
        complete=raw["complete"],
        why_incomplete=raw.get("why_incomplete"),
        ordering=raw.get("ordering"),
        ordering_until_seq=raw.get("ordering_until_seq"),
        records=raw["records"],
        tty=raw.get("tty", False),
        stdout=stream_summary(raw["stdout"]),
        stderr=stream_summary(raw["stderr"]),
    )


def usage(raw: Optional[Json]) -> Optional[Usage]:
    if raw is None:
        return None
    return Usage(
        wall_ms=raw["wall_ms"],
        cpu_user_ms=raw.get("cpu_user_ms"),
        cpu_system_ms=raw.get("cpu_system_ms"),
        memory_peak_bytes=raw.get("memory_peak_bytes"),
        processes_peak=raw.get("processes_peak"),
    )


def compile_step(raw: Optional[Json]) -> Optional[Compile]:
    if raw is None:
        return None
    return Compile(
        id=raw.get("id"),
        exit_code=raw.get("exit_code"),
        stdout=raw.get("stdout") or "",
        stderr=raw.get("stderr") or "",
        cached=bool(raw.get("cached")),
        usage=usage(raw.get("usage")),
    )


def path_of(raw: Json) -> str:
    """A path as Python keeps paths: bytes that are no UTF-8 as surrogate escapes."""
    return decoded(raw["path"], raw.get("path_encoding", "utf-8")).decode("utf-8", "surrogateescape")


def output_file(raw: Json) -> OutputFile:
    return OutputFile(path_of(raw), raw["bytes"], raw["blake3"])


def output_refused(raw: Json) -> OutputRefused:
    return OutputRefused(path_of(raw), str(raw["reason"]))


def environment(raw: Json) -> Environment:
    return Environment(
        runtime_version=raw.get("runtime_version"),
        image_digest=raw.get("image_digest"),
        kernel=raw.get("kernel"),
        lastword=raw.get("lastword", ""),
    )


def problem(raw: Optional[Json]) -> Optional[Problem]:
    if raw is None:
        return None
    return Problem(raw["code"], raw["message"], raw.get("backend_message"))


def retry(raw: Json) -> Retry:
    return Retry(raw["safe"], raw["program_started"])


def record(raw: Json) -> Record:
    ns = time_ns(raw["timestamp"])
    if "log" in raw:
        data = decoded(raw["log"], "utf-8")
    elif "log_b64" in raw:
        data = decoded(raw["log_b64"], "base64")
    else:
        data = b""
    stream = cast(Stream, raw["stream"])
    return Record(raw["seq"], datetime_of(ns), ns, stream, data, raw.get("dropped", 0))


def verdict(raw: Json) -> Verdict:
    return Verdict(
        ok=raw["ok"],
        complete=raw["complete"],
        why_incomplete=raw.get("why_incomplete"),
        records=raw["records"],
        stdout_bytes=raw["stdout_bytes"],
        stderr_bytes=raw["stderr_bytes"],
        problems=tuple(raw["problems"]),
    )
