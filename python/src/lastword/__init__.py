"""Runs untrusted code in a sandbox, and never loses what it said.

execution = lastword.run("print(1)")
execution.ok, execution.stdout
"""

from . import aio
from ._batch import BatchResult
from ._binary import find_binary
from ._client import batch, executions, get, run
from ._errors import (
    BadRequest,
    BinaryNotFound,
    Incomplete,
    LastwordError,
    NotFound,
    RunFailed,
    ServerError,
    Unreachable,
)
from ._execution import Execution
from ._remote import Client
from ._request import File, Request
from ._types import (
    Compile,
    Environment,
    OutputFile,
    OutputRefused,
    Problem,
    Record,
    Retry,
    Status,
    StreamSummary,
    Transcript,
    Usage,
    Verdict,
)

__version__ = "0.1.0"

__all__ = [
    "BadRequest",
    "BatchResult",
    "BinaryNotFound",
    "Client",
    "Compile",
    "Environment",
    "Execution",
    "File",
    "Incomplete",
    "LastwordError",
    "NotFound",
    "OutputFile",
    "OutputRefused",
    "Problem",
    "Record",
    "Request",
    "Retry",
    "RunFailed",
    "ServerError",
    "Status",
    "StreamSummary",
    "Transcript",
    "Unreachable",
    "Usage",
    "Verdict",
    "aio",
    "batch",
    "executions",
    "find_binary",
    "get",
    "run",
]
