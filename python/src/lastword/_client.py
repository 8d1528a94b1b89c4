"""The functions that callers use."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Optional, Union

from ._batch import AnyRequest, BatchResult, rows_under_way, run_batch
from ._binary import StrPath
from ._errors import BadRequest
from ._execution import Execution, from_json
from ._local import Local
from ._quantity import Duration, Size
from ._request import Files, Flush, OnOutputLimit, Ordering, ReadOnly, Request, encoded, host_options
from ._types import Status


def run(
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
    """Runs code, files or a command in a sandbox, and waits for the end. `Request` describes the arguments.

    A program that fails is a result, not an error. With `check` it raises RunFailed, or Incomplete.
    Interrupted by Ctrl-C it cancels the run and waits for that; the transcript is kept.

    Raises BadRequest, BinaryNotFound, or LastwordError when lastword itself failed.
    """
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
    execution = from_json(local.run(encoded(request.body()), request.host_options()), local)
    return execution.raise_for_status() if check else execution


def batch(
    requests: Iterable[AnyRequest],
    *,
    jobs: Optional[int] = None,
    ordered: bool = True,
    venv: Optional[StrPath] = None,
    ro: Optional[ReadOnly] = None,
    data_dir: Optional[StrPath] = None,
    binary: Optional[StrPath] = None,
) -> Generator[BatchResult, None, None]:
    """Runs many requests, `jobs` at a time, and yields their results as they come.

    Requests are `Request`s, or mappings like the JSON of one. They are taken one by one in a thread, a
    bounded number ahead of the results: the iterable may be endless. A wrong request is a result with a
    problem, and ends nothing. If the iterable itself raises, the results of what it gave come first, then its
    exception.

    `ordered` yields in the order of the requests, else as they end. `venv` and `ro` hold for all requests.
    Closing the generator, or Ctrl-C, starts no more rows and waits some seconds for those that run. What
    takes longer is left to end by itself, within its limits; the store has all of them.
    """
    command, local = batch_command(jobs, ordered, venv, ro, data_dir, binary)
    return run_batch(requests, local, command, rows_under_way(jobs))


def batch_command(
    jobs: Optional[int],
    ordered: bool,
    venv: Optional[StrPath],
    ro: Optional[ReadOnly],
    data_dir: Optional[StrPath],
    binary: Optional[StrPath],
) -> tuple[list[str], Local]:
    if jobs is not None and jobs < 1:
        raise BadRequest("has to be at least 1", "jobs")
    local = Local.find(binary, data_dir)
    return local.batch_command(jobs, ordered, host_options(venv, ro)), local


def get(id: str, *, data_dir: Optional[StrPath] = None, binary: Optional[StrPath] = None) -> Execution:
    """An execution by its id, or by the beginning of it. Raises NotFound."""
    local = Local.find(binary, data_dir)
    return from_json(local.get(id), local)


def executions(
    *,
    status: Union[Status, Iterable[Status]] = (),
    labels: Optional[Mapping[str, str]] = None,
    since: Union[datetime, timedelta, str, None] = None,
    limit: int = 50,
    data_dir: Optional[StrPath] = None,
    binary: Optional[StrPath] = None,
) -> list[Execution]:
    """Executions, newest first, at most `limit` (1 to 1000).

    `since` is a time, an age as a timedelta, or a text as the command line reads it. Of several labels all
    must be there.
    """
    options = [f"--status={name}" for name in ([status] if isinstance(status, str) else status)]
    options += [f"--label={key}={value}" for key, value in (labels or {}).items()]
    options.append(f"--limit={limit}")
    if since is not None:
        options.append(f"--since={point_in_time(since)}")
    local = Local.find(binary, data_dir)
    return [from_json(raw, local) for raw in local.listed(options)]


def point_in_time(since: Union[datetime, timedelta, str]) -> str:
    if isinstance(since, datetime):
        if since.tzinfo is None:
            raise BadRequest("has no time zone: nobody knows which moment it is", "since")
        return since.isoformat()
    if isinstance(since, timedelta):
        return f"{since // timedelta(milliseconds=1)}ms"
    return since
