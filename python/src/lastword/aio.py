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
from typing import IO, Any, Optional, Union

from ._batch import AnyRequest, BatchResult, Rows, rows_under_way
from ._binary import StrPath
from ._client import batch_command
from ._errors import LastwordError
from ._execution import Execution, from_json
from ._local import END_AT_ONCE_SECONDS, END_BATCH_SECONDS, END_RUN_SECONDS, Local, failure, parsed, tail
from ._quantity import Duration, Size
from ._request import Files, Flush, OnOutputLimit, Ordering, ReadOnly, Request, encoded

__all__ = ["batch", "run"]

_CHUNK_BYTES = 1 << 18


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
