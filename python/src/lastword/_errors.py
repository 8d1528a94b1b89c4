"""What can go wrong. A program's own failure is a result, and raises only where it was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from ._execution import Execution

# Characters of a program's last line that an error's message shows.
_SHOWN_CHARS_MAX = 200


class LastwordError(Exception):
    """lastword itself could not do what was asked."""


class BinaryNotFound(LastwordError):
    """There is no `lastword` binary to drive. The message says where it was looked for and what to do."""


class BadRequest(LastwordError):
    """The request is wrong; nothing ran.

    `field` is the name of the wrong field, or None where that isn't known; `message` is the rest of the
    sentence.
    """

    def __init__(self, message: str, field: Optional[str] = None) -> None:
        super().__init__(message if field is None else f"{field} {message}")
        self.field = field
        self.message = message

    def __reduce__(self) -> tuple[type[BadRequest], tuple[str, Optional[str]]]:
        return (type(self), (self.message, self.field))


class NotFound(LastwordError):
    """There is no such execution, or it has no such output file."""


class Unreachable(LastwordError):
    """The server can't be reached, or the connection to it broke and did not come back."""


class ServerError(LastwordError):
    """The server refused. `code` is from its closed list, like "unauthorized" or "queue_full"."""

    def __init__(self, message: str, code: str, retry_after: float = 0.0) -> None:
        super().__init__(f"{message} ({code})")
        self.message = message
        self.code = code
        self.retry_after = retry_after
        """Seconds after which the server wants to be asked again; 0 if it didn't say."""

    def __reduce__(self) -> tuple[type[ServerError], tuple[str, str, float]]:
        return (type(self), (self.message, self.code, self.retry_after))


class RunFailed(LastwordError):
    """An execution didn't end well. Raised by `raise_for_status()` and by `check=True` alone."""

    def __init__(self, execution: Execution) -> None:
        super().__init__(_sentence(execution))
        self.execution = execution

    def __reduce__(self) -> tuple[type[RunFailed], tuple[Execution]]:
        return (type(self), (self.execution,))


class Incomplete(RunFailed):
    """Its transcript is not complete, or not known to be: something that it said may be missing."""


def _sentence(execution: Execution) -> str:
    reason = execution.reason or "no reason known"
    parts = [f"execution {execution.id}: {execution.status} ({reason})"]
    if execution.exit_code is not None:
        parts.append(f"exit code {execution.exit_code}")
    if execution.signal is not None:
        parts.append(execution.signal)
    if execution.problem is not None:
        parts.append(escaped(execution.problem.message))
    elif not execution.complete:
        parts.append(f"transcript not complete: {execution.why_incomplete or 'its end is not known'}")
    else:
        last = execution._last_line()
        if last:
            parts.append(escaped(last))
    return ", ".join(parts)


def escaped(text: str) -> str:
    """The end of a text, without anything that could steer a terminal."""
    if len(text) > _SHOWN_CHARS_MAX:
        text = "..." + text[-_SHOWN_CHARS_MAX:]
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
