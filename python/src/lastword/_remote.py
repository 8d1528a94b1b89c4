"""A server's executions: `lastword.Client`.

```text
  requests --> feeder (thread) --> threads, each with one request that waits for an end --> results
                  ^                                                                            |
                  +----------------------------------- window <-------------------------------+
```
"""

from __future__ import annotations

import os
import queue
import threading
import uuid
from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Optional, TypedDict, Union

from . import _types as types
from ._batch import AnyRequest, BatchResult, request_key, rows_under_way
from ._client import point_in_time
from ._errors import BadRequest
from ._execution import Execution, from_json
from ._quantity import Duration, Size
from ._request import Files, Flush, OnOutputLimit, Ordering, Request, encoded
from ._server import Server, new_key, row_key
from ._types import Json, Status

if TYPE_CHECKING:
    from typing_extensions import Unpack

# More tries of a row that failed before its program was started.
RETRIES = 2
_RETRY_SECONDS = 0.1
# How long a batch that is left early waits for the rows that run.
END_SECONDS = 5.0
_JOBS_MAX = 1024


class RunOptions(TypedDict, total=False):
    """What `Request` describes, but for what is of this machine: `venv` and `ro`."""

    runtime: str
    command: Optional[Sequence[str]]
    args: Sequence[str]
    files: Optional[Files]
    entry: Optional[str]
    cwd: Optional[str]
    stdin: Union[str, bytes, None]
    env: Optional[Mapping[str, str]]
    secrets: Optional[Mapping[str, str]]
    timeout: Duration
    memory: Size
    cpu_time: Optional[Duration]
    cpus: Optional[float]
    pids: Optional[int]
    disk: Optional[Size]
    output_limit: Optional[Size]
    on_output_limit: Optional[OnOutputLimit]
    stack: Optional[Size]
    open_files: Optional[int]
    outputs: Sequence[str]
    labels: Optional[Mapping[str, str]]
    image: Optional[str]
    tty: bool
    ordering: Optional[Ordering]
    flush: Optional[Flush]
    compile_flags: Sequence[str]
    strict: bool


class Client:
    """A lastword server. Threads may share one; it keeps its connections.

    `server` is an address like "http://127.0.0.1:7070", or what LASTWORD_SERVER holds; `api_key` is its key,
    or what LASTWORD_API_KEY holds. What breaks on the way is tried again, and nothing runs twice for that.
    """

    def __init__(self, server: Optional[str] = None, api_key: Optional[str] = None) -> None:
        server = server or os.environ.get("LASTWORD_SERVER")
        if not server:
            raise BadRequest("is missing, and LASTWORD_SERVER is not set", "server")
        self._server = Server(server, api_key or os.environ.get("LASTWORD_API_KEY"))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections that are kept. It can be used again."""
        self._server.http.close()

    def run(
        self,
        code: Optional[str] = None,
        *,
        check: bool = False,
        key: Optional[str] = None,
        **options: Unpack[RunOptions],
    ) -> Execution:
        """As `lastword.run`, at the server.

        With a `key` of the caller's own the same request gives the same execution, for 24 hours.
        """
        body, key = body_of(code, options), key or new_key()
        try:
            raw = self._server.run(body, key)
        except BaseException as error:
            if not isinstance(error, Exception):
                cancel_run(self._server, body, key)
            raise
        execution = from_json(raw, self._server)
        return execution.raise_for_status() if check else execution

    def start(
        self, code: Optional[str] = None, *, key: Optional[str] = None, **options: Unpack[RunOptions]
    ) -> Execution:
        """The same without waiting for the end: `records(id, follow=True)` and `wait(id)` go on with it."""
        return from_json(self._server.submit(body_of(code, options), key or new_key()), self._server)

    def records(self, id: str, *, follow: bool = False) -> Generator[types.Record, None, None]:
        """Each piece that it said, in order. With `follow` until it ends, each as soon as it is there."""
        for raw in self._server.records(id, follow):
            yield types.record(raw)

    def wait(self, id: str) -> Execution:
        """The execution once it has ended."""
        return from_json(self._server.ended(id), self._server)

    def cancel(self, id: str) -> Execution:
        """Ends an execution, and waits for that. One that has ended stays as it is."""
        self._server.cancel(id)
        return self.wait(id)

    def get(self, id: str) -> Execution:
        """An execution by its whole id. Raises NotFound."""
        return from_json(self._server.get(id), self._server)

    def executions(
        self,
        *,
        status: Union[Status, Iterable[Status]] = (),
        labels: Optional[Mapping[str, str]] = None,
        since: Union[datetime, timedelta, str, None] = None,
        limit: int = 50,
    ) -> list[Execution]:
        """As `lastword.executions`."""
        if not 1 <= limit <= 1000:
            raise BadRequest("has to be between 1 and 1000", "limit")
        query: dict[str, Any] = {
            "status": [status] if isinstance(status, str) else list(status),
            "label": [f"{key}={value}" for key, value in (labels or {}).items()],
        }
        if since is not None:
            query["since"] = point_in_time(since)
        return [from_json(raw, self._server) for raw in self._server.listed(query, limit)]

    def batch(
        self,
        requests: Iterable[AnyRequest],
        *,
        jobs: Optional[int] = None,
        ordered: bool = True,
    ) -> Generator[BatchResult, None, None]:
        """As `lastword.batch`, at the server. `jobs` is by default what the server does at a time."""
        return Batch(self._server, jobs).results(requests, ordered)


def body_of(code: Optional[str], options: Any) -> bytes:
    return encoded(Request(code, **options).body())


def cancel_run(server: Server, body: bytes, key: str) -> None:
    """Ends a run whose answer nobody waits for any more, and waits for its end."""
    # The same key gives the same execution, also where the first answer never came.
    taken = server.submit(body, key)
    server.cancel(taken["id"])
    server.ended(taken["id"])


class Batch:
    """Many requests, so many at a time."""

    def __init__(self, server: Server, jobs: Optional[int]) -> None:
        if jobs is not None and jobs < 1:
            raise BadRequest("has to be at least 1", "jobs")
        self._server = server
        self._jobs = jobs
        self._name = f"python-batch-{uuid.uuid4()}"
        self.stopped = threading.Event()

    def pool(self) -> ThreadPoolExecutor:
        """Its threads. Asks the server how many there should be, if the caller hasn't said."""
        if self._jobs is None:
            self._jobs = int(self._server.capacity()["concurrency"])
        self._jobs = max(1, min(self._jobs, _JOBS_MAX))
        return ThreadPoolExecutor(self._jobs, "lastword-batch")

    @property
    def window(self) -> int:
        return rows_under_way(self._jobs)

    def row(self, row: int, request: AnyRequest) -> Optional[BatchResult]:
        """The result of a row; None if it was not started, because the batch stops."""
        key = request_key(request)
        before: Optional[str] = None
        try:
            body = _row_body(request)
            for left in range(RETRIES, -1, -1):
                if self.stopped.is_set():
                    return None
                raw = self._server.run(body, row_key(self._name, row, before), self.stopped, for_room=True)
                if not _is_for_again(raw) or left == 0:
                    return self._result(row, key, raw)
                before = raw["id"]
                self.stopped.wait(_RETRY_SECONDS)
        except BadRequest as error:
            problem = types.Problem("bad_request", str(error))
            raw = {"row": row, "key": key, "id": None, "status": "error"}
            return BatchResult(row, key, None, problem, types.Retry(False, False), raw)
        return None

    def _result(self, row: int, key: Optional[str], raw: Json) -> BatchResult:
        execution = from_json(raw, self._server)
        whole = {"row": row, **({} if key is None else {"key": key}), **raw}
        return BatchResult(row, key, execution, execution.problem, execution.retry, whole)

    def results(self, requests: Iterable[AnyRequest], ordered: bool) -> Generator[BatchResult, None, None]:
        pool = self.pool()
        feeder = _Feeder(self, pool, requests, ordered)
        feeder.start()
        try:
            answered = 0
            while feeder.fed is None or answered < feeder.fed:
                future = feeder.out.get()
                if future is None:
                    continue
                answered += 1
                result = future.result()
                feeder.room.release()
                if result is not None:
                    yield result
        finally:
            self.stopped.set()
            feeder.room.release()
            pool.shutdown(wait=False, cancel_futures=True)
            wait(list(feeder.under_way), END_SECONDS)
        if feeder.error is not None:
            # All that was asked before it has been answered.
            raise feeder.error


class _Feeder(threading.Thread):
    """Gives requests to the pool as long as there is room in the window."""

    def __init__(
        self, batch: Batch, pool: ThreadPoolExecutor, requests: Iterable[AnyRequest], ordered: bool
    ) -> None:
        # A daemon: an iterator that never returns must not keep the process from ending.
        super().__init__(name="lastword-feeder", daemon=True)
        self._batch, self._pool, self._requests, self._ordered = batch, pool, requests, ordered
        self.room = threading.Semaphore(batch.window)
        self.out: queue.SimpleQueue[Optional[Future[Optional[BatchResult]]]] = queue.SimpleQueue()
        self.under_way: deque[Future[Optional[BatchResult]]] = deque(maxlen=batch.window + 1)
        self.fed: Optional[int] = None
        """Rows, once all are known."""
        self.error: Optional[BaseException] = None

    def run(self) -> None:
        fed = 0
        try:
            for request in self._requests:
                self.room.acquire()
                if self._batch.stopped.is_set():
                    return
                future = self._pool.submit(self._batch.row, fed, request)
                self.under_way.append(future)
                fed += 1
                if self._ordered:
                    self.out.put(future)
                else:
                    future.add_done_callback(self.out.put)
        except BaseException as error:
            self.error = error
        finally:
            self.fed = fed
            # Wakes whoever waits for a row that doesn't come.
            self.out.put(None)


def _row_body(request: AnyRequest) -> bytes:
    if isinstance(request, Request):
        if request.host_options():
            raise BadRequest(
                "is of this machine, which the server can't see", "venv" if request.venv else "ro"
            )
        body: Mapping[str, Any] = request.body()
    elif isinstance(request, Mapping):
        body = request
    else:
        raise BadRequest(f"is a {type(request).__name__}, neither a Request nor a mapping", "request")
    return encoded({name: value for name, value in body.items() if name != "key"})


def _is_for_again(raw: Json) -> bool:
    retry = raw["retry"]
    return raw["status"] == "error" and retry["safe"] and not retry["program_started"]
