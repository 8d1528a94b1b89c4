"""What several tests need."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
import unittest
from contextlib import suppress
from pathlib import Path
from typing import Callable
from unittest import mock

FAKE = Path(__file__).resolve().parent / "fake_lastword.py"
# How long a condition may take to come true on a busy machine.
DEADLINE_SECONDS = 30.0


class TempCase(unittest.TestCase):
    """Has a directory of its own in `self.dir`."""

    def setUp(self) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="lastword-test-"))
        self.addCleanup(shutil.rmtree, self.dir)


class FakeCase(TempCase):
    """Drives the fake binary, which notes what it does in `self.log`."""

    def setUp(self) -> None:
        super().setUp()
        self.log = self.dir / "log"
        patch = mock.patch.dict(os.environ, {"LASTWORD_BINARY": str(FAKE), "FAKE_LOG": str(self.log)})
        patch.start()
        self.addCleanup(patch.stop)
        self.addCleanup(self.kill_what_is_left)

    def kill_what_is_left(self) -> None:
        """A test that fails leaves no child behind either."""
        for line in self.logged():
            if line.startswith("pid "):
                with suppress(ProcessLookupError):
                    os.kill(int(line.split()[1]), signal.SIGKILL)

    def logged(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def wait_for_line(self, prefix: str) -> str:
        """The first line of the log that begins so."""
        lines = [""]

        def there() -> bool:
            lines[:] = [line for line in self.logged() if line.startswith(prefix)]
            return bool(lines)

        wait_until(there)
        return lines[0]

    def assert_ended_politely(self, signals: int = 1) -> None:
        """The child that said its pid got so many SIGTERMs, and is gone."""
        pid = int(self.wait_for_line("pid ").split()[1])
        self.assertEqual(
            [line for line in self.logged() if line.startswith("signal")], ["signal 15"] * signals
        )
        with self.assertRaises(ProcessLookupError):
            os.kill(pid, 0)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("the condition didn't come true in time")
        time.sleep(0.01)
