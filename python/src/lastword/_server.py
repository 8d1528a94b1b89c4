"""What a server does in place of the `lastword` binary: the same methods as `_local.Local`, over HTTP."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from typing import Any, Optional, cast
from urllib.parse import quote

from ._errors import LastwordError, NotFound
from ._http import Http, Query, refusal, tries
from ._local import checked_id
from ._types import Json

# How long one request waits for an end: less than what proxies cut off.
_WAIT_SECONDS = 50.0
_WAIT = f"{int(_WAIT_SECONDS)}s"
_VERIFY_SECONDS = 3600.0
# A stream of events says every 15 s that it is alive.
_STALL_SECONDS = 60.0
_CHUNK_BYTES = 1 << 18
_JSON = {"Content-Type": "application/json"}
_ENDED = {"succeeded", "failed", "timed_out", "cancelled", "error"}


class Server:
    """One server. Threads may share it."""

    def __init__(self, server: str, api_key: Optional[str]) -> None:
        self.http = Http(server, api_key)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        # Without the key: whoever reads it again has its own in the environment.
        return (_again, (self.http.server,))

    def capacity(self) -> Json:
        return self.http.json("GET", "v1/capacity")

    def submit(
        self,
        body: bytes,
        key: str,
        wait: bool = False,
        stop: Optional[threading.Event] = None,
        for_room: bool = False,
    ) -> Json:
        """Has a request taken. The same key and body give the same execution, however often they are sent."""
        query: Query = {"wait": _WAIT} if wait else {}
        headers = {**_JSON, "Idempotency-Key": key}
        return self.http.json(
            "POST",
            "v1/executions",
            query,
            body,
            headers,
            seconds=_WAIT_SECONDS + 30,
            stop=stop,
            for_room=for_room,
        )

    def run(
        self,
        body: bytes,
        key: str,
        stop: Optional[threading.Event] = None,
        for_room: bool = False,
    ) -> Json:
        """To its end. `stop` ends only the wait for room in the queue, or for a server that is gone."""
        taken = self.submit(body, key, True, stop, for_room)
        return taken if taken["status"] in _ENDED else self.ended(taken["id"])

    def ended(self, id: str, stop: Optional[threading.Event] = None) -> Json:
        """The object once it has ended, or once `stop` is set."""
        while True:
            path = f"v1/executions/{quote(checked_id(id))}"
            raw = self.http.json("GET", path, {"wait": _WAIT}, seconds=_WAIT_SECONDS + 30)
            if raw["status"] in _ENDED or (stop is not None and stop.is_set()):
                return raw

    def cancel(self, id: str) -> Json:
        return self.http.json("POST", f"v1/executions/{quote(checked_id(id))}/cancel")

    def get(self, id: str) -> Json:
        return self.http.json("GET", f"v1/executions/{quote(checked_id(id))}")

    def listed(self, query: Query, limit: int) -> list[Json]:
        found: list[Json] = []
        cursor: Optional[str] = None
        while True:
            page = {**query, "limit": min(limit - len(found), 1000)}
            answer = self.http.json("GET", "v1/executions", {**page, "cursor": cursor} if cursor else page)
            found.extend(cast("list[Json]", answer["items"]))
            cursor = answer["next_cursor"]
            if cursor is None or len(found) >= limit:
                return found

    def verify(self, id: str) -> Json:
        path = f"v1/executions/{quote(checked_id(id))}/verify"
        return self.http.json("POST", path, seconds=_VERIFY_SECONDS)

    def remove(self, id: str) -> None:
        self.http.json("DELETE", f"v1/executions/{quote(checked_id(id))}")

    def records(self, id: str, follow: bool = False) -> Iterator[Json]:
        """Each record once, also when the connection breaks or the server starts anew in between."""
        path = f"v1/executions/{quote(checked_id(id))}/logs"
        next_seq = 0
        patience = tries(self.http)
        while True:
            try:
                query = {"follow": str(follow).lower(), "from_seq": next_seq}
                headers = {"Accept": "text/event-stream"}
                with self.http.answer("GET", path, query, headers=headers, seconds=_STALL_SECONDS) as lines:
                    event = b""
                    for line in lines:
                        if line.startswith(b"event: "):
                            event = line[7:].strip()
                        elif line.startswith(b"data: "):
                            patience.anew()
                            raw = self.http.parsed(line[6:])
                            if event == b"end":
                                return
                            if event == b"error":
                                raise refusal(raw)
                            if event == b"record" and raw["seq"] >= next_seq:
                                next_seq = raw["seq"] + 1
                                yield raw
                # It ended without its last event: as if the connection had broken.
                patience.again(_cut_off(self.http.server))
            except LastwordError as error:
                patience.again(error)

    def file(self, id: str, path: str) -> Iterator[bytes]:
        """The bytes of an output file, in pieces. Who takes them compares their number with the seal's."""
        if any(name in ("", ".", "..") for name in path.lstrip("/").split("/")):
            raise NotFound(f"execution {id} has no output file {path!r}")
        raw = path.encode("utf-8", "surrogateescape")
        # A slash at the beginning would be taken for an empty name.
        quoted = quote(raw, safe="/") if not path.startswith("/") else "%2F" + quote(raw[1:], safe="/")
        with self.http.answer("GET", f"v1/executions/{quote(checked_id(id))}/files/{quoted}") as response:
            while True:
                chunk = response.read(_CHUNK_BYTES)
                if not chunk:
                    return
                yield chunk


def new_key() -> str:
    return f"python-{uuid.uuid4()}"


def row_key(batch: str, row: int, before: Optional[str]) -> str:
    """Of one try of a row; `before` is the execution that failed before its program was started."""
    tail = "" if before is None else f"-after-{before}"
    return f"{batch}-{row}{tail}"


def _cut_off(server: str) -> LastwordError:
    from ._errors import Unreachable

    return Unreachable(f"the connection to {server} ended before the answer did")


def _again(server: str) -> Server:
    import os

    return Server(server, os.environ.get("LASTWORD_API_KEY"))
