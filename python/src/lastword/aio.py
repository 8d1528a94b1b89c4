"""The same for asyncio: `await lastword.aio.run(...)`, `async for result in lastword.aio.batch(...)`.

Cancelling the task cancels the run and waits for that; a batch is ended as `lastword.batch` describes. What
an `Execution` reads from the store later (`records`, `read_output`, a very long `stdout`) blocks: use
`asyncio.to_thread` for it.
"""

from __future__ import annotations

import asyncio
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any, Optional, TypeVar, Union

from ._batch import AnyRequest, BatchResult, Rows, rows_under_way
from ._binary import StrPath
from ._client import batch_command
from ._errors import LastwordError
from ._execution import Execution, from_json
from ._local import END_AT_ONCE_SECONDS, END_BATCH_SECONDS, END_RUN_SECONDS, Local, failure, parsed, tail
from ._quantity import Duration, Size
from ._remote import END_SECONDS, Batch, RunOptions, body_of, cancel_run
from ._remote import Client as SyncClient
from ._request import Files, Flush, OnOutputLimit, Ordering, ReadOnly, Request, encoded
from ._server import new_key
from ._types import Record, record

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Unpack

T = TypeVar("T")

__all__ = ["Client", "batch", "run"]

_CHUNK_BYTES = 1 << 18
# Runs and streams of one client that wait at a time; more take their turn.
_THREADS = 256


async def run(
    code: Optional[str] = None,
    *,
    runtime: str = "python",
    command: Optional[Sequence[str]] = None,
    args: Sequence[str] = (),
    files: Optional[Files] = None,
    entry: Optional[str] = None,
    cwd: Optional[str] = None,
    stdin: Union[str, bytes, None] = None,
    env: Optional[Mapping[str, str]] = None,
    secrets: Optional[Mapping[str, str]] = None,
    timeout: Duration = 30.0,
    memory: Size = "1GiB",
    cpu_time: Optional[Duration] = None,
    cpus: Optional[float] = None,
    pids: Optional[int] = None,
    disk: Optional[Size] = None,
    output_limit: Optional[Size] = None,
    on_output_limit: Optional[OnOutputLimit] = None,
    stack: Optional[Size] = None,
    open_files: Optional[int] = None,
    outputs: Sequence[str] = (),
    labels: Optional[Mapping[str, str]] = None,
    image: Optional[str] = None,
    venv: Optional[StrPath] = None,
    ro: Optional[ReadOnly] = None,
    tty: bool = False,
    ordering: Optional[Ordering] = None,
    flush: Optional[Flush] = None,
    compile_flags: Sequence[str] = (),
    strict: bool = False,
    check: bool = False,
    data_dir: Optional[StrPath] = None,
    binary: Optional[StrPath] = None,
) -> Execution:
    """`lastword.run` as a coroutine."""
    request = Request(
        code,
        runtime=runtime,
        command=command,
        args=args,
        files=files,
        entry=entry,
        cwd=cwd,
        stdin=stdin,
        env=env,
        secrets=secrets,
        timeout=timeout,
        memory=memory,
        cpu_time=cpu_time,
        cpus=cpus,
        pids=pids,
        disk=disk,
        output_limit=output_limit,
        on_output_limit=on_output_limit,
        stack=stack,
        open_files=open_files,
        outputs=outputs,
        labels=labels,
        image=image,
        tty=tty,
        ordering=ordering,
        flush=flush,
        compile_flags=compile_flags,
        strict=strict,
        venv=venv,
        ro=ro,
    )
    local = Local.find(binary, data_dir)
    body = encoded(request.body())
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        # Into files: nobody has to read while the child is waited for, also when it is being ended.
        child = await _started(local.run_command(request.host_options()), stdout, stderr)
        try:
            await _write(child, body)
            _close_stdin(child)
            code_of_child = await child.wait()
        except BaseException:
            await _to_the_end(_end(child, END_RUN_SECONDS))
            raise
        if code_of_child != 0:
            raise failure(code_of_child, tail(stderr))
        stdout.seek(0)
        execution = from_json(parsed(stdout.read()), local)
    return execution.raise_for_status() if check else execution


def batch(
    requests: Union[Iterable[AnyRequest], AsyncIterable[AnyRequest]],
    *,
    jobs: Optional[int] = None,
    ordered: bool = True,
    venv: Optional[StrPath] = None,
    ro: Optional[ReadOnly] = None,
    data_dir: Optional[StrPath] = None,
    binary: Optional[StrPath] = None,
) -> AsyncGenerator[BatchResult, None]:
    """`lastword.batch` as an asynchronous generator; `requests` may be one too.

    A loop that is left early should close it: `async with contextlib.aclosing(batch(...)) as results`.
    Otherwise the event loop does so when it finds it.
    """
    command, local = batch_command(jobs, ordered, venv, ro, data_dir, binary)
    return _batch(requests, local, command, rows_under_way(jobs))


async def _batch(
    requests: Union[Iterable[AnyRequest], AsyncIterable[AnyRequest]],
    local: Local,
    command: Sequence[str],
    window: int,
) -> AsyncGenerator[BatchResult, None]:
    rows = Rows(local)
    room = asyncio.Semaphore(window)
    with tempfile.TemporaryFile() as stderr:
        child = await _started(command, PIPE, stderr)
        feeder = asyncio.ensure_future(_feed(child, requests, rows, room))
        try:
            async for line in _lines(child):
                result = rows.result(line)
                room.release()
                yield result
            code = await child.wait()
        finally:
            whole = feeder.done() and not feeder.cancelled()
            feeder.cancel()
            await _to_the_end(_end(child, END_BATCH_SECONDS, feeder))
        error = feeder.exception() if whole else None
        gone = isinstance(error, (BrokenPipeError, ConnectionResetError))
        wrong = rows.ended(code, tail(stderr), whole and not gone)
        if wrong is not None:
            raise wrong
    if error is not None:
        raise error


async def _started(command: Sequence[str], stdout: Union[int, IO[bytes]], stderr: IO[bytes]) -> Process:
    return await asyncio.create_subprocess_exec(
        *command, stdin=PIPE, stdout=stdout, stderr=stderr, start_new_session=True
    )


async def _write(child: Process, data: bytes) -> None:
    if child.stdin is None:
        raise LastwordError("the child has no stdin")
    try:
        child.stdin.write(data)
        await child.stdin.drain()
    except (BrokenPipeError, ConnectionResetError):
        # It ended without reading all of it: its exit code and its words say why.
        pass


def _close_stdin(child: Process) -> None:
    if child.stdin is not None:
        child.stdin.close()


async def _feed(
    child: Process,
    requests: Union[Iterable[AnyRequest], AsyncIterable[AnyRequest]],
    rows: Rows,
    room: asyncio.Semaphore,
) -> None:
    """Writes rows as long as there is room, then closes the child's stdin."""
    if child.stdin is None:
        raise LastwordError("the child has no stdin")
    source = requests.__aiter__() if isinstance(requests, AsyncIterable) else _each(requests)
    try:
        while True:
            await room.acquire()
            try:
                request = await source.__anext__()
            except StopAsyncIteration:
                return
            child.stdin.write(rows.line(request))
            await child.stdin.drain()
    finally:
        child.stdin.close()


async def _each(requests: Iterable[AnyRequest]) -> AsyncIterator[AnyRequest]:
    for request in requests:
        yield request


async def _lines(child: Process) -> AsyncIterator[bytes]:
    """Lines of any length: a StreamReader's own readline has a limit."""
    if child.stdout is None:
        raise LastwordError("the child has no stdout")
    parts: list[bytes] = []
    while True:
        chunk = await child.stdout.read(_CHUNK_BYTES)
        if not chunk:
            break
        *whole, rest = chunk.split(b"\n")
        for line in whole:
            parts.append(line)
            yield b"".join(parts)
            parts.clear()
        if rest:
            parts.append(rest)
    if parts:
        yield b"".join(parts)


async def _end(child: Process, seconds: float, feeder: Optional[asyncio.Future[None]] = None) -> None:
    """Asks the child to end, and waits. Reads on meanwhile: it must not be held up by a full pipe."""
    if feeder is not None:
        await asyncio.wait([feeder])
    _close_stdin(child)
    drained = asyncio.ensure_future(_drained(child))
    for patience in (seconds, END_AT_ONCE_SECONDS):
        if child.returncode is None:
            _signal(child.terminate)
        if (await asyncio.wait([drained], timeout=patience))[0]:
            break
    else:
        _signal(child.kill)
    await drained


async def _drained(child: Process) -> None:
    while child.stdout is not None and await child.stdout.read(_CHUNK_BYTES):
        pass
    await child.wait()


def _signal(send: Any) -> None:
    try:
        send()
    except ProcessLookupError:
        pass


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Waits for it even if this task is cancelled meanwhile, and only then passes the cancel on."""
    task = asyncio.ensure_future(work)
    cancelled: Optional[asyncio.CancelledError] = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancelled = error
    if cancelled is not None:
        raise cancelled
    task.result()


class Client:
    """`lastword.Client` for asyncio. Cancelling the task cancels the run and waits for that.

    Waits in threads of its own, so that no event loop is bound to it. What an `Execution` reads from the
    server later blocks, as everywhere.
    """

    def __init__(self, server: Optional[str] = None, api_key: Optional[str] = None) -> None:
        self._client = SyncClient(server, api_key)
        self._server = self._client._server
        self._pool = ThreadPoolExecutor(_THREADS, "lastword-client")

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections that are kept, and starts no more threads."""
        self._pool.shutdown(wait=False)
        self._client.close()

    def _in_thread(self, work: Callable[[], T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def run(
        self,
        code: Optional[str] = None,
        *,
        check: bool = False,
        key: Optional[str] = None,
        **options: Unpack[RunOptions],
    ) -> Execution:
        """`lastword.Client.run` as a coroutine."""
        body, key = body_of(code, options), key or new_key()
        running = self._in_thread(lambda: self._server.run(body, key))
        try:
            raw = await asyncio.shield(running)
        except asyncio.CancelledError:
            ended = self._in_thread(lambda: cancel_run(self._server, body, key))
            await _to_the_end(_both(ended, running))
            raise
        execution = from_json(raw, self._server)
        return execution.raise_for_status() if check else execution

    async def get(self, id: str) -> Execution:
        """An execution by its whole id. Raises NotFound."""
        return await self._in_thread(lambda: self._client.get(id))

    async def records(self, id: str, *, follow: bool = False) -> AsyncGenerator[Record, None]:
        """Each piece that it said, in order. With `follow` until it ends, each as soon as it is there."""
        source = self._server.records(id, follow)
        try:
            while True:
                raw = await self._in_thread(lambda: next(source, None))
                if raw is None:
                    return
                yield record(raw)
        finally:
            # Not while its thread is still in it: then it ends by itself.
            with suppress(ValueError, RuntimeError):
                source.close()  # type: ignore[attr-defined]

    async def batch(
        self,
        requests: Union[Iterable[AnyRequest], AsyncIterable[AnyRequest]],
        *,
        jobs: Optional[int] = None,
        ordered: bool = True,
    ) -> AsyncGenerator[BatchResult, None]:
        """`lastword.Client.batch` as an asynchronous generator; `requests` may be one too."""
        rows = Batch(self._server, jobs)
        pool = await self._in_thread(rows.pool)
        loop = asyncio.get_running_loop()
        source = requests.__aiter__() if isinstance(requests, AsyncIterable) else _each(requests)
        out: asyncio.Queue[Optional[asyncio.Future[Optional[BatchResult]]]] = asyncio.Queue()
        room = asyncio.Semaphore(rows.window)
        under_way: set[asyncio.Future[Optional[BatchResult]]] = set()

        async def feed() -> int:
            fed = 0
            try:
                async for request in source:
                    await room.acquire()
                    future = loop.run_in_executor(pool, rows.row, fed, request)
                    fed += 1
                    under_way.add(future)
                    future.add_done_callback(under_way.discard)
                    if ordered:
                        out.put_nowait(future)
                    else:
                        future.add_done_callback(out.put_nowait)
            finally:
                out.put_nowait(None)
            return fed

        feeder = asyncio.ensure_future(feed())
        answered = 0
        try:
            while True:
                future = await out.get()
                if future is not None:
                    answered += 1
                    result = await future
                    room.release()
                    if result is not None:
                        yield result
                # The last row of those that end in any order may come behind the end of the requests.
                if feeder.done() and out.empty() and not under_way:
                    break
        finally:
            rows.stopped.set()
            feeder.cancel()
            pool.shutdown(wait=False, cancel_futures=True)
            if under_way:
                await asyncio.wait(set(under_way), timeout=END_SECONDS)
        await feeder


async def _both(ended: asyncio.Future[None], running: asyncio.Future[Any]) -> None:
    await asyncio.wait([ended, running])
    # Whoever cancels hears of nothing else.
    for done in (ended, running):
        if not done.cancelled():
            done.exception()
