"""Requests to a server: over connections that are kept, and repeated while that may help.

Whatever is sent may be sent again: a submission has an idempotency key, the rest changes nothing by
repetition.
"""

from __future__ import annotations

import http.client
import json
import random
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Optional, cast
from urllib.parse import urlencode, urlsplit

from ._errors import BadRequest, LastwordError, NotFound, ServerError, Unreachable
from ._types import Json

_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 60.0
# A server that has not answered yet is tried so long; one that has answered may be starting anew.
_STRANGER_SECONDS = 2.0
_KNOWN_SECONDS = 60.0
# One that says "not now" is asked again for so long, unless the caller says otherwise.
_BUSY_SECONDS = 60.0
_PAUSE_SECONDS = 0.05
_PAUSE_SECONDS_MAX = 2.0
_RETRY_AFTER_MAX = 30.0
# Connections that are kept while nobody uses them. The server closes one after 30 s without a request.
_IDLE_MAX = 64
_IDLE_SECONDS = 20.0
_BODY_BYTES_MAX = 256 << 20

_BUSY = {"queue_full", "too_busy"}
_PASSING = {"not_ready", "draining"}
_NOT_FOUND = {"execution_not_found", "file_not_found", "batch_not_found"}

Query = Mapping[str, object]
_NOTHING: Query = MappingProxyType({})
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class Http:
    """One server. Threads may share it."""

    def __init__(self, server: str, api_key: Optional[str]) -> None:
        try:
            parts = urlsplit(server)
            port = parts.port
        except ValueError as error:
            raise BadRequest(f"is no address of a server: {error}", "server") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise BadRequest("has to be an address like http://127.0.0.1:7070, without a login", "server")
        if parts.query or parts.fragment:
            raise BadRequest("has a query, which has no place in it", "server")
        self.server = server.rstrip("/")
        self._host, self._port, self._base = parts.hostname, port, parts.path.rstrip("/")
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._headers = {"User-Agent": "lastword-python"}
        if api_key:
            if not api_key.isascii() or not api_key.isprintable() or " " in api_key:
                raise BadRequest("has characters that no key has", "api_key")
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._idle: list[tuple[float, http.client.HTTPConnection]] = []
        self._lock = threading.Lock()
        self._answered = False

    def __del__(self) -> None:
        # Not reached where the address was wrong.
        if hasattr(self, "_lock"):
            self.close()

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for _, connection in idle:
            connection.close()

    def json(
        self,
        method: str,
        path: str,
        query: Query = _NOTHING,
        body: Optional[bytes] = None,
        headers: Mapping[str, str] = _NO_HEADERS,
        seconds: float = _ANSWER_SECONDS,
        stop: Optional[threading.Event] = None,
        for_room: bool = False,
    ) -> Json:
        """The answer to a request that may be sent any number of times.

        `stop` ends the tries early; with `for_room` a full queue is waited for without an end.
        """
        tries = _Tries(self, stop, for_room)
        while True:
            try:
                return self._once(method, path, query, body, headers, seconds)
            except LastwordError as error:
                tries.again(error)

    def _once(
        self,
        method: str,
        path: str,
        query: Query,
        body: Optional[bytes],
        headers: Mapping[str, str],
        seconds: float,
    ) -> Json:
        with self.answer(method, path, query, body, headers, seconds) as response:
            text = response.read(_BODY_BYTES_MAX)
        if not text:
            return {}
        return self.parsed(text)

    def parsed(self, text: bytes) -> Json:
        try:
            value: Any = json.loads(text)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise LastwordError(f"{self.server} answered with what is no JSON object: {text[:100]!r}")
        return cast(Json, value)

    @contextmanager
    def answer(
        self,
        method: str,
        path: str,
        query: Query = _NOTHING,
        body: Optional[bytes] = None,
        headers: Mapping[str, str] = _NO_HEADERS,
        seconds: float = _ANSWER_SECONDS,
    ) -> Iterator[http.client.HTTPResponse]:
        """One try. The answer is a success; it is read within the `with`."""
        target = f"{self._base}/{path}" + (f"?{urlencode(query, doseq=True)}" if query else "")
        whole = False
        connection, response = self._sent(method, target, body, {**self._headers, **headers}, seconds)
        try:
            if not 200 <= response.status < 300:
                problem = response.read(64 << 10)
                whole = response.isclosed()
                raise self._refusal(response, problem)
            self._answered = True
            yield response
            whole = response.isclosed() and not response.will_close
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"the connection to {self.server} broke: {_why(error)}") from error
        finally:
            if whole:
                self._keep(connection)
            else:
                connection.close()

    def _sent(
        self, method: str, target: str, body: Optional[bytes], headers: Mapping[str, str], seconds: float
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        while True:
            connection, fresh = self._connection()
            try:
                if connection.sock is None:
                    connection.timeout = _CONNECT_SECONDS
                    connection.connect()
                connection.sock.settimeout(seconds)
                connection.request(method, target, body, dict(headers))
                return connection, connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                # One that was kept may have been closed by the other side meanwhile.
                if fresh or isinstance(error, TimeoutError):
                    raise Unreachable(f"cannot reach the server at {self.server}: {_why(error)}") from error
            except BaseException:
                connection.close()
                raise

    def _connection(self) -> tuple[http.client.HTTPConnection, bool]:
        with self._lock:
            while self._idle:
                since, connection = self._idle.pop()
                if time.monotonic() - since < _IDLE_SECONDS:
                    return connection, False
                connection.close()
        if self._tls is not None:
            return http.client.HTTPSConnection(self._host, self._port, context=self._tls), True
        return http.client.HTTPConnection(self._host, self._port), True

    def _keep(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if len(self._idle) < _IDLE_MAX:
                self._idle.append((time.monotonic(), connection))
                return
        connection.close()

    def _refusal(self, response: http.client.HTTPResponse, text: bytes) -> LastwordError:
        problem: Any = None
        if response.headers.get_content_type() == "application/problem+json":
            try:
                problem = json.loads(text)
            except ValueError:
                pass
        if not isinstance(problem, dict) or "code" not in problem:
            message = f"what answers at {self.server} with status {response.status} is no lastword server"
            return (Unreachable if response.status in (502, 503, 504) else LastwordError)(message)
        self._answered = True
        return refusal(problem)


def refusal(problem: Json) -> LastwordError:
    """The error that problem details stand for."""
    code, detail = str(problem["code"]), str(problem.get("detail", ""))
    if code in ("invalid_field", "invalid_parameter", "unenforceable", "malformed_request", "too_large"):
        field = problem.get("field")
        if isinstance(field, str) and field:
            # Sentences begin with the name of the field.
            rest = detail[len(field) :].lstrip(": ") if detail.startswith(field) else detail
            return BadRequest(rest, field)
        return BadRequest(detail)
    if code in _NOT_FOUND:
        return NotFound(detail)
    return ServerError(detail, code, float(problem.get("retry_after") or 0))


class _Tries:
    """How often something was tried, and since when."""

    def __init__(self, http: Http, stop: Optional[threading.Event] = None, for_room: bool = False) -> None:
        self._http = http
        self._stop = stop or threading.Event()
        self._for_room = for_room
        self.anew()

    def anew(self) -> None:
        """Something came: the next failure is a new one."""
        self._since = time.monotonic()
        self._pause = _PAUSE_SECONDS

    def again(self, error: LastwordError) -> None:
        """Returns when the time for another try has come, or raises the error."""
        after = 0.0
        if isinstance(error, ServerError) and error.code in _BUSY:
            most, after = float("inf") if self._for_room else _BUSY_SECONDS, error.retry_after
        elif isinstance(error, Unreachable) or (isinstance(error, ServerError) and error.code in _PASSING):
            most = _KNOWN_SECONDS if self._http._answered else _STRANGER_SECONDS
            after = error.retry_after if isinstance(error, ServerError) else 0.0
        else:
            raise error
        pause = self._pause * random.uniform(0.5, 1.5) + min(after, _RETRY_AFTER_MAX)
        if time.monotonic() - self._since + pause > most or self._stop.wait(pause):
            raise error
        self._pause = min(self._pause * 2, _PAUSE_SECONDS_MAX)


def tries(http: Http) -> _Tries:
    return _Tries(http)


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__
