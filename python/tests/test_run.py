"""One run, with the fake binary."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading

import lastword
from lastword import BadRequest, Incomplete, LastwordError, NotFound, RunFailed

from .support import FakeCase
from .test_binary import SOURCE


class Running(FakeCase):
    def test_the_request_goes_in_by_stdin_and_nothing_of_it_on_the_command_line(self) -> None:
        execution = lastword.run("hello é", secrets={"S": "hidden"}, ro="/data:/d", data_dir=self.dir)
        self.assertEqual(json.loads(execution.stdout)["code"], "hello é")
        words = json.loads(self.logged()[0])
        self.assertEqual(words, [f"--data-dir={self.dir}", "run", "--json", "--request=-", "--ro=/data:/d"])

    def test_megabytes_in_both_directions(self) -> None:
        execution = lastword.run("echo", stdin="x" * (8 << 20))
        self.assertEqual(len(json.loads(execution.stdout)["stdin"]), 8 << 20)
        self.assertEqual(lastword.run(f"big {4 << 20}").stdout, "\0" * (4 << 20))

    def test_a_child_that_does_not_read_its_request(self) -> None:
        # More than a pipe holds: the write ends with the child.
        with self.assertRaisesRegex(BadRequest, "limits.memory_bytes is 5"):
            lastword.run("exit 2 lastword: limits.memory_bytes is 5: too small", stdin="x" * (1 << 20))

    def test_failures_of_the_binary(self) -> None:
        with self.assertRaises(BadRequest) as caught:
            lastword.run("exit 2 lastword: wrong request: files[3].path leads out")
        self.assertEqual((caught.exception.field, caught.exception.message), ("files[3].path", "leads out"))
        with self.assertRaisesRegex(LastwordError, "^the disk is full$"):
            lastword.run("exit 125 lastword: the disk is full")
        with self.assertRaisesRegex(LastwordError, "exit code 125"):
            lastword.run("exit 125")
        with self.assertRaisesRegex(LastwordError, "signal 9"):
            lastword.run("die")
        with self.assertRaisesRegex(LastwordError, "older than the package"):
            lastword.run("exit 2 error: unexpected argument '--request' found Usage: lastword run")

    def test_check(self) -> None:
        self.assertTrue(lastword.run("x", check=True).ok)
        self.assertEqual(lastword.run("status failed complete").status, "failed")
        with self.assertRaises(RunFailed) as caught:
            lastword.run("status failed complete", check=True)
        self.assertNotIsInstance(caught.exception, Incomplete)
        self.assertEqual(caught.exception.execution.exit_code, 1)
        for status in ("succeeded", "failed"):
            with self.assertRaisesRegex(Incomplete, "5 bytes were dropped"):
                lastword.run(f"status {status} incomplete", check=True)

    def test_errors_and_executions_can_be_pickled(self) -> None:
        failed = lastword.run("status failed complete")
        for error in (RunFailed(failed), BadRequest("is wrong", "code"), BadRequest("wrong")):
            again = pickle.loads(pickle.dumps(error))
            self.assertEqual((type(again), str(again)), (type(error), str(error)))
        self.assertEqual(pickle.loads(pickle.dumps(failed)), failed)

    def test_nobody_sees_an_id_as_an_option(self) -> None:
        for id in ("--all", "", "x", "a b", "../x"):
            with self.subTest(id=id), self.assertRaises(NotFound):
                lastword.get(id)
        self.assertEqual(self.logged(), [])


class Records(FakeCase):
    def execution(self, id: str) -> lastword.Execution:
        execution = lastword.run("x")
        object.__setattr__(execution, "id", id)
        return execution

    def test_they_come_with_all_digits_of_their_time(self) -> None:
        records = list(self.execution("01").records())
        self.assertEqual([record.text for record in records], ["line 0\n", "line 1\n", "line 2\n"])
        self.assertEqual(records[0].timestamp_ns % 10**9, 859835652)
        self.assertEqual(records[0].timestamp.isoformat(), "2026-11-23T20:37:36.859835+00:00")

    def test_a_failure_comes_after_the_records(self) -> None:
        records = self.execution("dead").records()
        self.assertEqual([next(records).seq for _ in range(3)], [0, 1, 2])
        with self.assertRaisesRegex(LastwordError, "damaged"):
            next(records)

    def test_leaving_early_ends_the_child(self) -> None:
        records = self.execution("beef").records()
        next(records)
        self.wait_for_line("pid")
        records.close()
        self.assert_ended_politely()


class Interrupted(FakeCase):
    def test_ctrl_c_ends_the_child_politely_and_once(self) -> None:
        def interrupt() -> None:
            self.wait_for_line("pid")
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with self.assertRaises(KeyboardInterrupt):
            lastword.run("sleep")
        thread.join()
        self.assert_ended_politely()

    def test_ctrl_c_of_a_terminal_reaches_the_caller_alone(self) -> None:
        code = (
            "import lastword\ntry:\n    lastword.run('sleep')\n"
            "except KeyboardInterrupt:\n    print('interrupted')\n"
        )
        variables = {**os.environ, "PYTHONPATH": str(SOURCE)}
        caller = subprocess.Popen(
            [sys.executable, "-c", code], env=variables, stdout=subprocess.PIPE, start_new_session=True
        )
        self.wait_for_line("pid")
        # What a terminal does: every process of the foreground group gets it.
        os.killpg(caller.pid, signal.SIGINT)
        stdout, _ = caller.communicate()
        self.assertEqual(stdout, b"interrupted\n")
        self.assert_ended_politely()


class Outputs(FakeCase):
    def execution(self, path: str, size: int) -> lastword.Execution:
        execution = lastword.run("x")
        object.__setattr__(execution, "outputs", (lastword.OutputFile(path, size, "00"),))
        return execution

    def test_reading_and_saving(self) -> None:
        execution = self.execution("a/-b", 12)
        self.assertEqual(execution.read_output("a/-b"), b"a/-ba/-ba/-b")
        saved = execution.save_outputs(self.dir / "out")
        self.assertEqual([path.read_bytes() for path in saved], [b"a/-ba/-ba/-b"])
        self.assertIn('"--"', self.logged()[-1])

    def test_a_path_that_is_no_utf8(self) -> None:
        self.assertEqual(self.execution("\udcff", 3).read_output("\udcff"), b"\xff\xff\xff")

    def test_too_few_bytes_are_an_error_and_no_file(self) -> None:
        execution = self.execution("a", 4)
        with self.assertRaisesRegex(LastwordError, "4 were sealed"):
            execution.read_output("a")
        with self.assertRaises(LastwordError):
            execution.save_outputs(self.dir / "out")
        self.assertEqual(os.listdir(self.dir / "out"), [])

    def test_hostile_paths(self) -> None:
        with self.assertRaises(LastwordError):
            self.execution("../x", 12).save_outputs(self.dir / "out")
        self.assertFalse((self.dir / "x").exists())
        with self.assertRaises(NotFound):
            self.execution("a", 3).read_output("b")


class LeftBehind(FakeCase):
    def test_no_descriptor_and_no_child(self) -> None:
        lastword.run("x")
        before = len(os.listdir("/proc/self/fd"))
        for code in ("x", "exit 2 lastword: no", "die"):
            try:
                lastword.run(code)
            except LastwordError:
                pass
        list(lastword.batch([{"code": "x"}]))
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)
        with self.assertRaises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
