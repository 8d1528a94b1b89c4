"""The asyncio functions, with the fake binary."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections.abc import AsyncIterator, Iterator
from unittest import mock

from lastword import BadRequest, BatchResult, LastwordError, Request, RunFailed, aio
from lastword._batch import rows_under_way

from .support import FakeCase


class Running(FakeCase):
    def test_runs_at_the_same_time(self) -> None:
        async def main() -> list[str]:
            executions = await asyncio.gather(*(aio.run(f"code {n}") for n in range(4)))
            return [json.loads(execution.stdout)["code"] for execution in executions]

        self.assertEqual(asyncio.run(main()), [f"code {n}" for n in range(4)])

    def test_megabytes_in_both_directions(self) -> None:
        execution = asyncio.run(aio.run("echo", stdin="x" * (8 << 20)))
        self.assertEqual(len(json.loads(execution.stdout)["stdin"]), 8 << 20)

    def test_errors(self) -> None:
        with self.assertRaises(BadRequest) as caught:
            asyncio.run(aio.run("exit 2 lastword: code is wrong", stdin="x" * (1 << 20)))
        self.assertEqual(caught.exception.field, "code")
        with self.assertRaisesRegex(LastwordError, "signal 9"):
            asyncio.run(aio.run("die"))
        with self.assertRaises(RunFailed):
            asyncio.run(aio.run("status failed complete", check=True))

    def test_a_cancel_ends_the_child_politely(self) -> None:
        async def main() -> None:
            task = asyncio.ensure_future(aio.run("sleep"))
            await asyncio.to_thread(self.wait_for_line, "pid")
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task
            # Gone when the task is, not some time later.
            self.assert_ended_politely()

        asyncio.run(main())

    def test_a_second_cancel_changes_nothing(self) -> None:
        async def main() -> None:
            task = asyncio.ensure_future(aio.run("sleep"))
            await asyncio.to_thread(self.wait_for_line, "pid")
            task.cancel()
            await asyncio.sleep(0)
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task
            self.assert_ended_politely()

        asyncio.run(main())

    def test_wait_for_ends_the_child(self) -> None:
        async def main() -> None:
            with self.assertRaises(asyncio.TimeoutError):
                await asyncio.wait_for(aio.run("sleep"), 1)
            with self.assertRaises(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)

        asyncio.run(main())


class Batches(FakeCase):
    def collect(self, results: AsyncIterator[BatchResult]) -> list[BatchResult]:
        async def main() -> list[BatchResult]:
            return [result async for result in results]

        return asyncio.run(main())

    def test_rows_of_an_iterable(self) -> None:
        results = self.collect(aio.batch([Request("a", key="k"), Request("b", memory="much")], jobs=1))
        self.assertEqual(
            [(result.row, result.key, result.ok) for result in results], [(0, "k", True), (1, None, False)]
        )

    def test_rows_of_an_asynchronous_iterable(self) -> None:
        async def requests() -> AsyncIterator[Request]:
            for n in range(50):
                await asyncio.sleep(0)
                yield Request(f"{n}")

        self.assertEqual([result.row for result in self.collect(aio.batch(requests()))], list(range(50)))

    def test_more_than_pipes_and_buffers_hold(self) -> None:
        results = self.collect(aio.batch(Request("echo", stdin="x" * (1 << 20)) for _ in range(20)))
        sizes = [len(result.execution.stdout) for result in results if result.execution]
        self.assertEqual(len(sizes), 20)
        self.assertGreater(min(sizes), 1 << 20)

    def test_an_endless_iterable_is_taken_a_bounded_number_ahead(self) -> None:
        taken = 0

        def requests() -> Iterator[Request]:
            nonlocal taken
            for taken in itertools.count(1):
                yield Request("x")

        async def main() -> None:
            results = aio.batch(requests(), jobs=1)
            got = 0
            async for _ in results:
                got += 1
                self.assertLessEqual(taken, got + rows_under_way(1))
                if got == 60:
                    break
            await results.aclose()

        asyncio.run(main())

    def test_an_iterable_that_raises_does_so_after_the_results(self) -> None:
        def requests() -> Iterator[Request]:
            yield Request("a")
            raise ZeroDivisionError

        seen = []

        async def main() -> None:
            async for result in aio.batch(requests()):
                seen.append(result.ok)

        with self.assertRaises(ZeroDivisionError):
            asyncio.run(main())
        self.assertEqual(seen, [True])

    def test_a_binary_that_ends_early_is_an_error(self) -> None:
        with self.assertRaisesRegex(LastwordError, "1 of [23] rows.*the disk is full"):
            self.collect(
                aio.batch([Request("a"), Request("exit 125 lastword: the disk is full"), Request("b")])
            )
        with self.assertRaisesRegex(LastwordError, "rows.*signal 9"):
            big = [Request("x" * (1 << 20))] * 9
            self.collect(aio.batch([Request("die"), *big]))

    def test_a_child_that_waits_too_long_is_asked_again(self) -> None:
        async def main() -> None:
            results = aio.batch([Request("a"), Request("linger")])
            await results.__anext__()
            await asyncio.to_thread(self.wait_for_line, "pid")
            with mock.patch("lastword.aio.END_BATCH_SECONDS", 0.1):
                await results.aclose()
            self.assert_ended_politely(signals=2)

        asyncio.run(main())

    def test_a_cancel_ends_the_child_politely(self) -> None:
        async def main() -> None:
            rows = [Request("sleep"), *(Request("x" * (1 << 20)) for _ in range(9))]

            async def consume() -> None:
                async for _ in aio.batch(rows):
                    pass

            task = asyncio.ensure_future(consume())
            await asyncio.to_thread(self.wait_for_line, "pid")
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task
            self.assert_ended_politely()
            # The feeder is gone too.
            self.assertEqual(len(asyncio.all_tasks()), 1)

        asyncio.run(main())
