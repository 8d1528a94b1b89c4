"""The package against a server that the tests start."""

from __future__ import annotations

import asyncio
import os
import pickle
import re
import subprocess
import threading
import time
import unittest
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO, Any, Optional
from unittest import mock

import lastword
from lastword import Client, Request

from .support import TempCase, wait_until

BINARY = os.environ.get("LASTWORD_BINARY", "")
# What differs from run to run.
VOLATILE = ("id", "usage", "created_at", "started_at", "ended_at", "queue_ms")


class Process:
    """A server of its own, in a directory."""

    def __init__(self, data: Path, listen: str = "127.0.0.1:0") -> None:
        command = [BINARY, "--data-dir", str(data), "serve", "--listen", listen, "--allow-unenforced"]
        self._child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        stderr = self._child.stderr
        assert stderr is not None
        said = ""
        while (found := re.search(r"listening on (\S+)", said)) is None:
            line = stderr.readline()
            assert line, f"the server ended: {said}"
            said += line
        self.url = found.group(1)
        # What it says later must not fill the pipe.
        self._reader = threading.Thread(target=_drain, args=[stderr], daemon=True)
        self._reader.start()

    def kill(self) -> None:
        self._child.kill()
        self._child.wait()
        self._reader.join()
        if self._child.stderr is not None:
            self._child.stderr.close()


def _drain(stream: IO[str]) -> None:
    for _ in stream:
        pass


def settled(raw: Any) -> dict[str, Any]:
    whole = {name: value for name, value in raw.items() if name not in VOLATILE}
    return {**whole, "transcript": {**raw["transcript"], "records": None}}


@unittest.skipUnless(BINARY, "LASTWORD_BINARY names no real binary")
class ServerCase(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.process: Optional[Process] = Process(self.dir / "far")
        self.addCleanup(self.stop)
        self.client = Client(self.process.url)
        self.addCleanup(self.client.close)
        patch = mock.patch.dict(os.environ, {"LASTWORD_DATA_DIR": str(self.dir / "near")})
        patch.start()
        self.addCleanup(patch.stop)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process = None

    def restart(self) -> None:
        """SIGKILL, and anew with what it had, at the same address."""
        assert self.process is not None
        address = self.process.url[len("http://") :]
        self.process.kill()
        self.process = Process(self.dir / "far", address)


class Runs(ServerCase):
    def test_a_run_is_the_same_as_on_this_machine(self) -> None:
        programs: list[dict[str, Any]] = [
            {"code": "print('Before error')\n1 / 0"},
            {"code": "import sys; sys.stdout.buffer.write(bytes(range(256)))", "labels": {"a": "b"}},
            {"code": "while True: pass", "timeout": 0.3, "memory": "128MiB"},
            {"command": ["sh", "-c", "cat; echo $A >&2"], "stdin": b"\xff\n", "env": {"A": "é"}},
            {"code": "import os; os.kill(os.getpid(), 9)"},
            {"command": ["no-such-command"]},
        ]
        for program in programs:
            with self.subTest(program=program):
                near, far = lastword.run(**program), self.client.run(**program)
                self.assertEqual(settled(near.raw), settled(far.raw))
                self.assertEqual(near.stdout_bytes, far.stdout_bytes)
                self.assertEqual(far, self.client.get(far.id))

    def test_long_output_records_and_verdict(self) -> None:
        execution = self.client.run(
            "print('x' * 5_000_000); import sys; print('last words', file=sys.stderr)"
        )
        self.assertTrue(execution.inline_truncated)
        self.assertEqual(execution.output, "x" * 5_000_000 + "\nlast words\n")
        self.assertEqual([r.seq for r in execution.records()], list(range(execution.transcript.records)))
        self.assertTrue(execution.verify().ok)

    def test_outputs(self) -> None:
        code = "import os; os.mkdir('o'); open('o/ü b', 'w').write('1' * 300_000)"
        code += "; open('/tmp/x', 'w').write('2')"
        execution = self.client.run(code, outputs=["o/*", "/tmp/*"])
        self.assertEqual(execution.read_output("o/ü b"), b"1" * 300_000)
        saved = execution.save_outputs(self.dir / "to")
        self.assertEqual({path.read_bytes() for path in saved}, {b"1" * 300_000, b"2"})
        with self.assertRaises(lastword.NotFound):
            execution.read_output("../../x")

    def test_live_records(self) -> None:
        started = self.client.start("import sys\nprint('one', flush=True)\nimport time; time.sleep(60)")
        records = self.client.records(started.id, follow=True)
        self.assertEqual(next(records).data, b"one\n")
        self.assertEqual(self.client.cancel(started.id).status, "cancelled")
        self.assertEqual(list(records), [])

    def test_lists_and_removal(self) -> None:
        ids = [self.client.run(f"raise SystemExit({n})", labels={"n": str(n)}).id for n in range(3)]
        found = self.client.executions()
        self.assertEqual([e.id for e in found], ids[::-1])
        self.assertEqual([e.id for e in self.client.executions(status="failed", limit=1)], ids[2:])
        self.assertEqual([e.id for e in self.client.executions(labels={"n": "0"}, since="1h")], ids[:1])
        self.assertEqual(found[0].stderr, "")
        found[0].remove()
        with self.assertRaises(lastword.NotFound):
            self.client.get(ids[2])

    def test_errors(self) -> None:
        with self.assertRaises(lastword.BadRequest) as caught:
            self.client.run("1", pids=0)
        self.assertEqual(caught.exception.field, "limits.pids")
        with self.assertRaises(lastword.BadRequest) as caught:
            self.client.run("1", runtime="cobol")
        self.assertEqual(caught.exception.field, "runtime")
        with self.assertRaises(lastword.RunFailed):
            self.client.run("1 / 0", check=True)
        for address in ("localhost:1", "ftp://x", "http://user:secret@x", ""):
            with self.assertRaises(lastword.BadRequest) as caught:
                Client(address)
            self.assertNotIn("secret", str(caught.exception))
        with self.assertRaises(lastword.Unreachable):
            Client("http://127.0.0.1:9").run("1")

    def test_the_same_key_gives_the_same_execution(self) -> None:
        first, second = (self.client.run("print(1)", key="k") for _ in range(2))
        self.assertEqual(first, second)
        with self.assertRaises(lastword.ServerError) as caught:
            self.client.run("print(2)", key="k")
        self.assertEqual(caught.exception.code, "idempotency_conflict")

    def test_an_interrupt_cancels_the_run(self) -> None:
        code = "import time; print('begun', flush=True); time.sleep(60)"
        begun = threading.Event()

        def interrupt() -> None:
            wait_until(lambda: bool(self.client.executions(status="running")))
            begun.set()
            os.kill(os.getpid(), 2)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with self.assertRaises(KeyboardInterrupt):
            self.client.run(code)
        thread.join()
        self.assertTrue(begun.is_set())
        self.assertEqual([e.status for e in self.client.executions()], ["cancelled"])

    def test_a_server_that_starts_anew_costs_nothing(self) -> None:
        code = "import time\nfor n in range(150): print(n, flush=True); time.sleep(0.02)"
        started = self.client.start(code)
        seen: list[bytes] = []
        for record in self.client.records(started.id, follow=True):
            seen.append(record.data)
            if record.seq in (30, 80):
                self.restart()
        self.assertEqual(b"".join(seen).split(), [str(n).encode() for n in range(150)])
        self.assertTrue(self.client.wait(started.id).ok)

    def test_a_key_is_needed_where_there_are_keys(self) -> None:
        data = str(self.dir / "far")
        key = subprocess.run([BINARY, "--data-dir", data, "keys", "create"], check=True, capture_output=True)
        token = key.stdout.decode().strip()
        self.restart()
        assert self.process is not None
        with self.assertRaises(lastword.ServerError) as caught:
            self.client.run("1")
        self.assertEqual(caught.exception.code, "unauthorized")
        with mock.patch.dict(os.environ, {"LASTWORD_SERVER": self.process.url, "LASTWORD_API_KEY": token}):
            with Client() as client:
                execution = client.run("print(1)")
            self.assertNotIn(token.encode(), pickle.dumps(execution))
            self.assertEqual(pickle.loads(pickle.dumps(execution)).verify().ok, True)
            # The binary asks the same server.
            self.assertEqual(lastword.run("print(2)").stdout, "2\n")
            self.assertEqual(len(lastword.executions()), 2)

    def test_many_threads_share_a_client(self) -> None:
        errors: list[BaseException] = []

        def work(n: int) -> None:
            try:
                for _ in range(3):
                    assert self.client.run(command=["echo", str(n)]).stdout == f"{n}\n"
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=[n]) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(errors, [])
        self.assertEqual(len(self.client.executions(limit=1000)), 48)


class Batches(ServerCase):
    def test_results_in_order_and_as_they_end(self) -> None:
        def requests() -> Iterator[lastword.Request]:
            for n in range(12):
                yield Request(command=["sh", "-c", f"sleep 0.{n % 3}; echo {n}"], key=f"k{n}")

        results = list(self.client.batch(requests(), jobs=4))
        self.assertEqual([r.row for r in results], list(range(12)))
        self.assertEqual([r.key for r in results], [f"k{n}" for n in range(12)])
        self.assertEqual([r.raise_for_status().stdout for r in results], [f"{n}\n" for n in range(12)])
        unordered = list(self.client.batch(requests(), jobs=4, ordered=False))
        self.assertEqual(sorted(r.row for r in unordered), list(range(12)))

    def test_a_wrong_request_is_a_result(self) -> None:
        rows: list[Any] = [
            Request("print(1)"),
            {"command": 7, "key": "wrong"},
            3,
            Request("1", venv="/x"),
            Request("1", runtime="cobol"),
            Request("1 / 0"),
        ]
        results = list(self.client.batch(rows))
        self.assertEqual([r.ok for r in results], [True, False, False, False, False, False])
        self.assertEqual([r.execution is None for r in results], [False, True, True, True, True, False])
        self.assertEqual(results[1].key, "wrong")
        with self.assertRaises(lastword.BadRequest):
            results[1].raise_for_status()

    def test_an_iterable_that_raises(self) -> None:
        def requests() -> Iterator[Request]:
            yield Request("print(1)")
            raise ZeroDivisionError

        seen = []
        with self.assertRaises(ZeroDivisionError):
            for result in self.client.batch(requests()):
                seen.append(result.row)
        self.assertEqual(seen, [0])

    def test_leaving_early_starts_no_more(self) -> None:
        asked = []

        def requests() -> Iterator[Request]:
            for n in range(10_000):
                asked.append(n)
                yield Request(command=["true"])

        results = self.client.batch(requests(), jobs=2)
        next(results)
        results.close()
        self.assertLess(len(asked), 100)
        self.assertLess(len(self.client.executions(limit=1000)), 100)

    def test_a_server_that_starts_anew_runs_no_row_twice(self) -> None:
        rows = [Request(command=["sh", "-c", f"sleep 0.1; echo {n}"]) for n in range(30)]
        seen = []
        for result in self.client.batch(rows, jobs=4):
            seen.append(result.raise_for_status().stdout)
            if result.row in (5, 15):
                self.restart()
        self.assertEqual(seen, [f"{n}\n" for n in range(30)])
        started = [e for e in self.client.executions(limit=1000) if e.retry.program_started]
        self.assertEqual(len(started), 30)


class Asyncio(ServerCase):
    def client_for_asyncio(self) -> lastword.aio.Client:
        assert self.process is not None
        return lastword.aio.Client(self.process.url)

    def test_runs_at_a_time(self) -> None:
        async def main() -> list[str]:
            async with self.client_for_asyncio() as client:
                runs = [client.run(command=["sh", "-c", f"sleep 0.2; echo {n}"]) for n in range(16)]
                return [execution.stdout for execution in await asyncio.gather(*runs)]

        self.assertEqual(asyncio.run(main()), [f"{n}\n" for n in range(16)])

    def test_cancelling_the_task_cancels_the_run(self) -> None:
        async def main() -> None:
            async with self.client_for_asyncio() as client:
                task = asyncio.ensure_future(client.run("import time; time.sleep(60)"))
                while not self.client.executions(status="running"):
                    await asyncio.sleep(0.01)
                task.cancel()
                began = time.monotonic()
                with self.assertRaises(asyncio.CancelledError):
                    await task
                self.assertLess(time.monotonic() - began, 30)

        asyncio.run(main())
        self.assertEqual([e.status for e in self.client.executions()], ["cancelled"])

    def test_records_and_batch(self) -> None:
        async def requests() -> AsyncIterator[Request]:
            for n in range(10):
                await asyncio.sleep(0)
                yield Request(f"print({n})", key=str(n))

        async def main() -> None:
            async with self.client_for_asyncio() as client:
                for ordered in (True, False):
                    batch = client.batch(requests(), jobs=3, ordered=ordered)
                    results = [result async for result in batch]
                    self.assertEqual(sorted(r.row for r in results), list(range(10)))
                    self.assertTrue(
                        all(r.ok and f"{r.key}\n" == r.raise_for_status().stdout for r in results)
                    )
                execution = await client.get(results[0].raise_for_status().id)
                data = [record.data async for record in client.records(execution.id, follow=True)]
                self.assertEqual(b"".join(data), execution.stdout_bytes)

        asyncio.run(main())
