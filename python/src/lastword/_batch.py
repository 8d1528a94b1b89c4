"""Many requests through one `lastword batch`.

```text
  requests --> Feeder (thread) --stdin--> lastword batch --stdout--> results, in the caller's thread
                  ^                                             |
                  +---------------- window <-------------------+    so many rows are under way at most
```
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Optional, Union

from . import _types as types
from ._errors import BadRequest, LastwordError
from ._execution import Execution, from_json
from ._local import END_BATCH_SECONDS, Local, end, failure, parsed, piped, start, tail
from ._request import Request, encoded
from ._types import Json

AnyRequest = Union[Request, Mapping[str, Any]]

# Rows under way for each job: enough that none waits for the next row, and a bound on what a fast producer
# makes us hold.
_ROWS_PER_JOB = 4
_ROWS_MIN = 16
# A feeder that sits in the caller's own iterator can't be interrupted: it is left to end at the iterator's
# next item.
_FEEDER_END_SECONDS = 1.0
# Sent in place of a request that can't be written as JSON: the binary refuses it too, and the rows keep their
# numbers.
_NO_REQUEST = b"null\n"
_BAD_REQUEST = "bad_request"


@dataclass(frozen=True)
class BatchResult:
    """What came of one row."""

    row: int
    """Counts from 0, in the order of the requests."""
    key: Optional[str]
    """The request's own key, if it had one."""
    execution: Optional[Execution]
    """None if there is none: the problem says why."""
    problem: Optional[types.Problem]
    """How lastword failed, or why it refused the request."""
    retry: types.Retry
    raw: Json = field(repr=False)

    @property
    def ok(self) -> bool:
        """There is an execution, it succeeded, and its transcript is complete."""
        return self.execution is not None and self.execution.ok

    def raise_for_status(self) -> Execution:
        """Its execution, if that is ok. Raises RunFailed, Incomplete, BadRequest or LastwordError."""
        if self.execution is not None:
            return self.execution.raise_for_status()
        code = "unknown" if self.problem is None else self.problem.code
        message = "nobody can say why" if self.problem is None else self.problem.message
        text = f"row {self.row}: {message}"
        raise BadRequest(text) if code == _BAD_REQUEST else LastwordError(f"{text} ({code})")


def rows_under_way(jobs: Optional[int]) -> int:
    return max(_ROWS_MIN, _ROWS_PER_JOB * (jobs or os.cpu_count() or 1))


class Rows:
    """Numbers requests, writes them as lines, and understands what comes back. Knows no pipe and no
    thread."""

    def __init__(self, local: Local) -> None:
        self._local = local
        self._refused: dict[int, tuple[BadRequest, Optional[str]]] = {}
        self.fed = 0
        self.answered = 0

    def line(self, request: AnyRequest) -> bytes:
        row = self.fed
        self.fed += 1
        try:
            return _line(request)
        except BadRequest as error:
            # A row of its own: one wrong request must not end the others.
            self._refused[row] = (error, request_key(request))
            return _NO_REQUEST

    def result(self, line: bytes) -> BatchResult:
        raw = parsed(line)
        self.answered += 1
        try:
            return self._result(raw)
        except (KeyError, TypeError) as error:
            raise LastwordError(f"lastword printed a row that can't be understood: {error!r}") from error

    def _result(self, raw: Json) -> BatchResult:
        row, key = raw["row"], raw.get("key")
        problem = types.problem(raw.get("problem"))
        execution = None if raw.get("id") is None else from_json(raw, self._local)
        refused = self._refused.pop(row, None)
        if refused is not None:
            error, key = refused
            problem = types.Problem(_BAD_REQUEST, str(error))
        return BatchResult(row, key, execution, problem, types.retry(raw["retry"]), raw)

    def ended(self, code: int, stderr: bytes, whole: bool) -> Optional[LastwordError]:
        """What is wrong with how the child ended. `whole`: it was given all rows."""
        if whole and self.answered == self.fed and (code == 0 or self.fed > 0):
            return None
        if code == 0:
            return LastwordError(f"lastword batch ended after {self.answered} of {self.fed} rows")
        error = failure(code, stderr)
        # A wrong row is a result of its own: this is about the command line.
        message = f"lastword batch ended after {self.answered} of {self.fed} rows: {error}"
        return LastwordError(message)


def _line(request: AnyRequest) -> bytes:
    if isinstance(request, Request):
        if request.host_options():
            raise BadRequest(
                "is given to the whole batch: batch(..., venv=, ro=)", "venv" if request.venv else "ro"
            )
        return encoded(request.body())
    if isinstance(request, Mapping):
        return encoded(request)
    raise BadRequest(f"is a {type(request).__name__}, neither a Request nor a mapping", "request")


def request_key(request: AnyRequest) -> Optional[str]:
    key = request.key if isinstance(request, Request) else None
    if isinstance(request, Mapping):
        key = request.get("key")
    return key if isinstance(key, str) else None


class _Feeder(threading.Thread):
    """Writes rows as long as there is room in the window, then closes the child's stdin."""

    def __init__(self, requests: Iterable[AnyRequest], rows: Rows, stdin: int, window: int) -> None:
        # A daemon: an iterator that never returns must not keep the process from ending.
        super().__init__(name="lastword-batch", daemon=True)
        self._requests = requests
        self._rows = rows
        self._stdin = stdin
        self._window = threading.Semaphore(window)
        self._stopped = threading.Event()
        self.error: Optional[BaseException] = None
        self.finished = threading.Event()
        self.whole = False

    def run(self) -> None:
        try:
            self._feed()
            self.whole = True
        except (BrokenPipeError, _Stopped):
            # The child's own end says more, and is looked at by who reads its results.
            pass
        except BaseException as error:
            self.error = error
        finally:
            # Before the close: who sees the child end because of it has to find it set.
            self.finished.set()
            os.close(self._stdin)

    def _feed(self) -> None:
        requests = iter(self._requests)
        while True:
            self._window.acquire()
            if self._stopped.is_set():
                raise _Stopped
            try:
                request = next(requests)
            except StopIteration:
                return
            if self._stopped.is_set():
                raise _Stopped
            left = memoryview(self._rows.line(request))
            while left:
                left = left[os.write(self._stdin, left) :]

    def room(self) -> None:
        """One row less is under way."""
        self._window.release()

    def stop(self) -> None:
        self._stopped.set()
        self._window.release()


class _Stopped(Exception):
    pass


def run_batch(
    requests: Iterable[AnyRequest], local: Local, command: list[str], window: int
) -> Generator[BatchResult, None, None]:
    """Yields results as the child prints them. Closing the iterator ends the child, and waits for that."""
    rows = Rows(local)
    with tempfile.TemporaryFile() as stderr:
        child = start(command, stderr)
        feeder = _Feeder(requests, rows, _own_stdin(child), window)
        try:
            feeder.start()
            for line in piped(child.stdout):
                result = rows.result(line)
                feeder.room()
                yield result
            child.wait()
        finally:
            feeder.stop()
            end(child, END_BATCH_SECONDS)
            feeder.join(_FEEDER_END_SECONDS)
        whole = feeder.finished.is_set() and (feeder.whole or feeder.error is not None)
        wrong = rows.ended(child.returncode, tail(stderr), whole)
        if wrong is not None:
            raise wrong
    if feeder.error is not None:
        # All that was asked before it has been answered.
        raise feeder.error


def _own_stdin(child: subprocess.Popen[bytes]) -> int:
    """The feeder's own descriptor: a blocked write must not hold a lock that closing needs."""
    stdin = piped(child.stdin)
    fd = os.dup(stdin.fileno())
    stdin.close()
    return fd
