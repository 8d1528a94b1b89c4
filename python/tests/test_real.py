"""The package against the real binary, which LASTWORD_BINARY names."""

from __future__ import annotations

import asyncio
import os
import threading
import unittest
from collections.abc import Iterator
from unittest import mock

import lastword
from lastword import BadRequest, NotFound, Request
from lastword._batch import AnyRequest
from lastword._request import Content

from .support import DEADLINE_SECONDS, TempCase, wait_until


@unittest.skipUnless(os.environ.get("LASTWORD_BINARY"), "LASTWORD_BINARY names no real binary")
class RealCase(TempCase):
    def setUp(self) -> None:
        super().setUp()
        patch = mock.patch.dict(os.environ, {"LASTWORD_DATA_DIR": str(self.dir / "data")})
        patch.start()
        self.addCleanup(patch.stop)

    def wait_for_start(self, count: int = 1) -> None:
        """Until so many runs are under way."""
        wait_until(lambda: len(lastword.executions(status="running")) >= count)

    def wait_for_the_end(self) -> None:
        """Until nothing runs any more."""
        wait_until(lambda: lastword.executions(status="running") == [])


class Runs(RealCase):
    def test_a_program_that_fails_at_once(self) -> None:
        execution = lastword.run("print('Before error')\n1 / 0")
        self.assertEqual((execution.status, execution.reason, execution.exit_code), ("failed", "exit", 1))
        self.assertEqual(execution.stdout, "Before error\n")
        self.assertTrue(execution.stderr.endswith("ZeroDivisionError: division by zero\n"))
        self.assertEqual(execution.output, execution.stdout + execution.stderr)
        self.assertTrue(execution.complete)
        self.assertFalse(execution.ok)
        with self.assertRaisesRegex(lastword.RunFailed, "exit code 1, ZeroDivisionError"):
            execution.raise_for_status()
        self.assertGreater(execution.duration or 0, 0)

    def test_bytes_that_are_no_text(self) -> None:
        execution = lastword.run("import sys; sys.stdout.buffer.write(bytes(range(256)))")
        self.assertEqual(execution.stdout_bytes, bytes(range(256)))
        self.assertEqual(execution.stdout.encode("utf-8", "surrogateescape"), bytes(range(256)))
        self.assertEqual(b"".join(record.data for record in execution.records()), bytes(range(256)))

    def test_long_output_is_whole(self) -> None:
        execution = lastword.run("print('x' * 5_000_000); import sys; print('last words', file=sys.stderr)")
        self.assertTrue(execution.inline_truncated)
        self.assertEqual(len(execution.stdout), 5_000_001)
        self.assertTrue(execution.output.endswith("last words\n"))

    def test_stdin_of_any_bytes_and_size(self) -> None:
        data = bytes(range(256)) * 4096
        code = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read()[::-1])"
        self.assertEqual(lastword.run(code, stdin=data).stdout_bytes, data[::-1])
        self.assertEqual(lastword.run("print(input())", stdin="Grüße\n").stdout, "Grüße\n")

    def test_env_secrets_args_and_cwd(self) -> None:
        code = "import os, sys; print(os.environ['A'], os.environ['S'], sys.argv[1:], os.getcwd())"
        execution = lastword.run(
            code, env={"A": "é"}, secrets={"S": "hidden"}, args=["-x", "y z"], cwd="/tmp"
        )
        self.assertEqual(execution.stdout, "é hidden ['-x', 'y z'] /tmp\n")
        self.assertNotIn("hidden", str({**execution.raw, "stdout": "", "output": ""}))

    def test_files_and_an_entry(self) -> None:
        (self.dir / "tool").write_text("#!/bin/sh\necho from a tool\n")
        (self.dir / "tool").chmod(0o755)
        files: dict[str, Content] = {
            "main.py": "import lib.part, subprocess; lib.part.f(); subprocess.run(['./tool'])",
            "lib/part.py": "def f(): print(open('data', 'rb').read())",
            "data": b"\xff\0",
            "tool": self.dir / "tool",
        }
        execution = lastword.run(files=files, entry="main.py")
        self.assertEqual(execution.stdout, "b'\\xff\\x00'\nfrom a tool\n")

    def test_limits(self) -> None:
        execution = lastword.run("while True: pass", timeout="300ms")
        self.assertEqual((execution.status, execution.reason), ("timed_out", "wall_time"))
        execution = lastword.run(
            "x = bytearray(1 << 30)", memory="64MiB", pids=9, disk="1MiB", stack="8MiB", open_files=20
        )
        self.assertFalse(execution.ok)
        self.assertEqual(execution.limits["memory_bytes"], 64 << 20)
        execution = lastword.run("print('x' * 9999)", output_limit=100, on_output_limit="drop")
        self.assertEqual(execution.transcript.stdout.dropped, 9900)
        self.assertEqual(len(execution.stdout), 100)
        self.assertEqual(sum(record.dropped for record in execution.records()), 9900)
        with self.assertRaises(lastword.Incomplete):
            execution.raise_for_status()

    def test_a_command_a_terminal_and_arrival_order(self) -> None:
        self.assertEqual(lastword.run(command=["echo", "a b"]).stdout, "a b\n")
        self.assertEqual(lastword.run("import os; print(os.isatty(1))", tty=True).stdout, "True\r\n")
        self.assertEqual(lastword.run("1", ordering="arrival", flush="off").transcript.ordering, "arrival")
        problem = lastword.run(command=["no-such-command"]).problem
        self.assertEqual(problem and problem.code, "command_not_found")

    def test_what_this_machine_shares(self) -> None:
        (self.dir / "shared").mkdir()
        (self.dir / "shared/x").write_text("read me")
        execution = lastword.run("print(open('/shared/x').read())", ro={str(self.dir / "shared"): "/shared"})
        self.assertEqual(execution.stdout, "read me\n")

    def test_wrong_requests(self) -> None:
        with self.assertRaises(BadRequest) as caught:
            lastword.run("x", memory=5)
        self.assertEqual(caught.exception.field, "limits.memory_bytes")
        with self.assertRaises(BadRequest) as caught:
            lastword.run("x", runtime="cobol")
        self.assertIn("cobol", str(caught.exception))
        with self.assertRaises(BadRequest) as caught:
            lastword.run(files={"../x": ""}, entry="../x")
        self.assertEqual(caught.exception.field, "files[0].path")
        self.assertEqual(lastword.executions(), [])


class Outputs(RealCase):
    def test_reading_and_saving(self) -> None:
        code = "import os; os.mkdir('d'); open('d/a', 'wb').write(b'\\xff' * 3_000_000); open('b', 'w')"
        execution = lastword.run(code, outputs=["d/*", "b"])
        self.assertEqual(
            [(output.path, output.size) for output in execution.outputs], [("b", 0), ("d/a", 3_000_000)]
        )
        self.assertEqual(execution.read_output("d/a"), b"\xff" * 3_000_000)
        saved = execution.save_outputs(self.dir / "out")
        self.assertEqual([path.stat().st_size for path in saved], [0, 3_000_000])
        # From the store, later.
        self.assertEqual(lastword.get(execution.id).read_output("b"), b"")
        with self.assertRaises(NotFound):
            execution.read_output("c")

    def test_names_that_are_hard_to_pass_on(self) -> None:
        code = (
            "import os; os.mkdir('d')\n"
            "for name in (b'd/-rf', b'd/\\xff', b'd/new\\nline', b'/tmp/-x'):\n"
            "    open(name, 'w').write(repr(name))"
        )
        execution = lastword.run(code, outputs=["d/*", "/tmp/-*"])
        for output in execution.outputs:
            with self.subTest(path=output.path):
                data = execution.read_output(output.path)
                self.assertEqual(data.decode(), repr(output.path.encode("utf-8", "surrogateescape")))
        self.assertEqual(len(execution.outputs) + len(execution.outputs_refused), 4)
        saved = execution.save_outputs(self.dir / "out")
        self.assertEqual(len(saved), len(execution.outputs))
        self.assertIn(self.dir / "out/tmp/-x", saved)

    def test_a_link_is_refused_and_says_so(self) -> None:
        execution = lastword.run("import os; os.symlink('/etc/passwd', 'x')", outputs=["x"])
        self.assertEqual(execution.outputs, ())
        self.assertEqual([refused.path for refused in execution.outputs_refused], ["x"])
        self.assertNotEqual(execution.outputs_refused[0].reason, "")


class Stored(RealCase):
    def test_what_ran_is_found_again(self) -> None:
        first = lastword.run("print(1)", labels={"job": "a"})
        second = lastword.run("print(2); 1 / 0", labels={"job": "b"})
        self.assertEqual([found.id for found in lastword.executions()], [second.id, first.id])
        self.assertEqual([found.id for found in lastword.executions(labels={"job": "a"})], [first.id])
        self.assertEqual([found.id for found in lastword.executions(status=["failed"], limit=1)], [second.id])
        # Listed ones carry no streams: they are read when they are asked for.
        self.assertEqual(lastword.executions(status="succeeded")[0].stdout, "1\n")
        self.assertEqual(lastword.get(first.id).raw, {**first.raw})
        self.assertTrue(first.verify().ok)
        self.assertEqual(first.verify().stdout_bytes, 2)
        first.remove()
        with self.assertRaises(NotFound):
            lastword.get(first.id)
        second.remove()
        self.assertEqual(lastword.executions(), [])

    def test_a_transcript_that_was_damaged(self) -> None:
        execution = lastword.run("print('x' * 10000)")
        for path in (self.dir / "data").rglob("*"):
            if path.is_file() and "segments" in path.parts:
                data = bytearray(path.read_bytes())
                data[len(data) // 2] ^= 1
                path.write_bytes(data)
        self.assertFalse(execution.verify().ok)


class Batches(RealCase):
    def test_rows_in_order_and_as_they_end(self) -> None:
        codes = ["import time; time.sleep(1); print(0)", "print(1)", "1 / 0"]
        requests = [Request(code, key=f"k{n}") for n, code in enumerate(codes)]
        results = list(lastword.batch(requests, jobs=3))
        self.assertEqual(
            [(result.row, result.key, result.ok) for result in results],
            [(0, "k0", True), (1, "k1", True), (2, "k2", False)],
        )
        results = list(lastword.batch(requests, jobs=3, ordered=False))
        self.assertEqual(results[-1].row, 0)
        self.assertEqual({result.row for result in results}, {0, 1, 2})

    def test_wrong_rows_end_nothing(self) -> None:
        rows: list[AnyRequest] = [
            Request("print(0)"),
            Request("x", memory=5),
            Request("x", memory="?", key="k"),
            {"code": 1},
            Request("print(4)"),
        ]
        results = list(lastword.batch(rows))
        self.assertEqual([result.ok for result in results], [True, False, False, False, True])
        codes = [result.problem.code for result in results if result.problem]
        self.assertEqual(codes, ["bad_request"] * 3)
        self.assertEqual(results[2].key, "k")
        self.assertFalse(results[1].retry.program_started)

    def test_results_come_while_the_iterable_waits_for_them(self) -> None:
        answered = threading.Event()

        def requests() -> Iterator[Request]:
            yield Request("print(1)")
            if not answered.wait(DEADLINE_SECONDS):
                raise AssertionError("the first result didn't come")
            yield Request("print(2)")

        rows = []
        for result in lastword.batch(requests()):
            answered.set()
            rows.append(result.row)
        self.assertEqual(rows, [0, 1])

    def test_many_with_long_output(self) -> None:
        results = lastword.batch((Request(f"print('x' * 600_000, {n})") for n in range(30)), jobs=2)
        tails = [result.raise_for_status().stdout[-3:].split()[-1] for result in results]
        self.assertEqual(tails, [str(n) for n in range(30)])

    def test_closing_starts_no_more_rows_and_what_runs_is_waited_for(self) -> None:
        slow = Request("import time; time.sleep(1.5); print('whole')")
        results = lastword.batch([Request("print(1)"), *[slow] * 9], jobs=2)
        self.assertTrue(next(results).ok)
        self.wait_for_start(2)
        results.close()
        found = lastword.executions()
        self.assertEqual({execution.status for execution in found}, {"succeeded"})
        self.assertLess(len(found), 9)

    def test_what_is_not_waited_for_ends_by_itself(self) -> None:
        slow = Request("import time; print('begun'); time.sleep(60)", timeout=4)
        results = lastword.batch([Request("print(1)"), *[slow] * 9], jobs=2)
        self.assertTrue(next(results).ok)
        self.wait_for_start(2)
        with mock.patch("lastword._batch.END_BATCH_SECONDS", 0.1):
            results.close()
        self.assertEqual(len(lastword.executions(status="running")), 2)
        self.wait_for_the_end()
        found = lastword.executions(status="timed_out")
        self.assertEqual([execution.stdout for execution in found], ["begun\n"] * 2)


class Asyncio(RealCase):
    def test_many_at_once(self) -> None:
        async def main() -> list[str]:
            executions = await asyncio.gather(*(lastword.aio.run(f"print({n})") for n in range(5)))
            results = [
                result async for result in lastword.aio.batch(Request(f"print({n})") for n in range(5))
            ]
            return [execution.stdout for execution in executions] + [
                result.raise_for_status().stdout for result in results
            ]

        self.assertEqual(asyncio.run(main()), [f"{n}\n" for n in range(5)] * 2)

    def test_a_cancel_ends_the_run(self) -> None:
        async def main() -> None:
            task = asyncio.ensure_future(lastword.aio.run("import time; time.sleep(60)", timeout=20))
            await asyncio.to_thread(self.wait_for_start)
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task

        asyncio.run(main())
        [found] = lastword.executions()
        self.assertEqual(found.status, "cancelled")
        self.assertTrue(found.complete)

    def test_a_cancel_of_a_batch_starts_no_more_rows(self) -> None:
        slow = Request("import time; time.sleep(1.5)")

        async def consume() -> None:
            async for _ in lastword.aio.batch([slow] * 9, jobs=2):
                pass

        async def main() -> None:
            task = asyncio.ensure_future(consume())
            await asyncio.to_thread(self.wait_for_start, 2)
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task

        asyncio.run(main())
        found = lastword.executions()
        self.assertEqual({execution.status for execution in found}, {"succeeded"})
        self.assertLess(len(found), 9)


class Versions(unittest.TestCase):
    def test_the_package_and_the_project_agree(self) -> None:
        from pathlib import Path

        project = (Path(__file__).resolve().parent.parent / "pyproject.toml").read_text()
        self.assertIn(f'\nversion = "{lastword.__version__}"\n', project)
