"""Batches, with the fake binary."""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any
from unittest import mock

import lastword
from lastword import BadRequest, LastwordError, Request
from lastword._batch import AnyRequest, rows_under_way

from .support import FakeCase, wait_until


class Batches(FakeCase):
    def test_rows_keys_and_raw_requests(self) -> None:
        requests: list[AnyRequest] = [
            Request("a", key="k"),
            {"runtime": "sh", "code": "b", "key": "raw"},
            Request("c"),
        ]
        results = list(lastword.batch(requests, jobs=2, ordered=False, ro="/d", data_dir=self.dir))
        self.assertEqual([(result.row, result.key) for result in results], [(0, "k"), (1, "raw"), (2, None)])
        self.assertTrue(all(result.ok and result.raise_for_status().ok for result in results))
        codes = [json.loads(result.execution.stdout)["code"] for result in results if result.execution]
        self.assertEqual(codes, ["a", "b", "c"])
        words = json.loads(self.logged()[0])
        self.assertEqual(words, [f"--data-dir={self.dir}", "batch", "--ro=/d", "-j2", "--as-they-end", "-"])

    def test_no_row_at_all(self) -> None:
        self.assertEqual(list(lastword.batch([])), [])

    def test_a_wrong_row_ends_nothing(self) -> None:
        wrong: Any = 5
        requests = [
            Request("a"),
            Request("b", memory="much", key="k"),
            wrong,
            Request("c", venv="/v"),
            Request("d"),
        ]
        results = list(lastword.batch(requests))
        self.assertEqual([result.ok for result in results], [True, False, False, False, True])
        self.assertEqual([result.row for result in results], [0, 1, 2, 3, 4])
        self.assertEqual(results[1].key, "k")
        said = [result.problem.message for result in results if result.problem]
        self.assertIn("memory is 'much'", said[0])
        self.assertIn("request is a int", said[1])
        self.assertIn("venv is given to the whole batch", said[2])
        self.assertFalse(results[1].retry.program_started)
        with self.assertRaisesRegex(BadRequest, "row 1: memory"):
            results[1].raise_for_status()

    def test_more_than_pipes_hold(self) -> None:
        requests = (Request("echo", stdin="x" * (1 << 20)) for _ in range(40))
        sizes = [len(result.execution.stdout) for result in lastword.batch(requests) if result.execution]
        self.assertEqual(len(sizes), 40)
        self.assertGreater(min(sizes), 1 << 20)

    def test_an_endless_iterable_is_taken_a_bounded_number_ahead(self) -> None:
        taken = 0

        def requests() -> Iterator[Request]:
            nonlocal taken
            for taken in itertools.count(1):
                yield Request("x")

        results = lastword.batch(requests(), jobs=1)
        ahead = rows_under_way(1)
        for got in range(1, 100):
            next(results)
            self.assertLessEqual(taken, got + ahead)
        # And it does go as far as it may: nothing else waits for us.
        wait_until(lambda: taken == 99 + ahead)
        results.close()

    def test_results_come_while_the_iterable_waits_for_them(self) -> None:
        answered = threading.Event()

        def requests() -> Iterator[Request]:
            yield Request("a")
            if not answered.wait(30):
                raise AssertionError("the first result didn't come")
            yield Request("b")

        for result in lastword.batch(requests()):
            answered.set()
        self.assertEqual(result.row, 1)

    def test_an_iterable_that_raises_does_so_after_the_results(self) -> None:
        def requests() -> Iterator[Request]:
            yield Request("a")
            raise ZeroDivisionError

        results = lastword.batch(requests())
        self.assertTrue(next(results).ok)
        with self.assertRaises(ZeroDivisionError):
            next(results)

    def test_a_binary_that_ends_early_is_an_error(self) -> None:
        for code, said in [
            ("exit 125 lastword: the disk is full", "the disk is full"),
            ("die", "signal 9"),
            ("exit 0", ""),
        ]:
            with self.subTest(code=code), self.assertRaisesRegex(LastwordError, f"1 of [23] rows.*{said}"):
                list(lastword.batch([Request("a"), Request(code), Request("b")]))

    def test_a_binary_that_ends_while_the_iterable_waits(self) -> None:
        over = threading.Event()
        self.addCleanup(over.set)

        def requests() -> Iterator[Request]:
            yield Request("die")
            over.wait(60)

        with self.assertRaisesRegex(LastwordError, "0 of 1 rows"):
            list(lastword.batch(requests()))

    def test_the_command_line_is_checked_at_once(self) -> None:
        with self.assertRaisesRegex(BadRequest, "jobs"):
            lastword.batch([], jobs=0)
        with self.assertRaises(lastword.BinaryNotFound):
            lastword.batch([], binary=self.dir / "none")

    def test_nothing_is_started_before_the_first_result_is_asked_for(self) -> None:
        lastword.batch([Request("x")])
        self.assertEqual(self.logged(), [])


class Ending(FakeCase):
    def test_closing_ends_the_child_politely(self) -> None:
        results = lastword.batch([Request("a"), Request("sleep"), Request("b")])
        next(results)
        self.wait_for_line("pid")
        results.close()
        self.assert_ended_politely()

    def test_a_child_that_waits_too_long_is_asked_again(self) -> None:
        results = lastword.batch([Request("a"), Request("linger")])
        next(results)
        self.wait_for_line("pid")
        with mock.patch("lastword._batch.END_BATCH_SECONDS", 0.1):
            results.close()
        self.assert_ended_politely(signals=2)

    def test_ctrl_c_ends_the_child_politely(self) -> None:
        def interrupt() -> None:
            self.wait_for_line("pid")
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        # Rows behind it that fill the pipe: the feeder sits in a write.
        with self.assertRaises(KeyboardInterrupt):
            list(lastword.batch([Request("sleep"), *(Request("x" * (1 << 20)) for _ in range(9))]))
        thread.join()
        self.assert_ended_politely()
        self.assertNotIn("lastword-batch", [thread.name for thread in threading.enumerate()])

    def test_a_loop_that_is_left_ends_the_child(self) -> None:
        for _ in lastword.batch([Request("a"), Request("sleep")]):
            break
        with self.assertRaises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
