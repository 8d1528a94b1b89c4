"""Runs the README's examples, with the real binary."""

from __future__ import annotations

import io
import os
import re
import unittest
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

from .support import TempCase
from .test_server import Process

README = Path(__file__).resolve().parent.parent / "README.md"
EXPECTED = re.compile(r"^ *print\(.*\)  # (.*)$", re.MULTILINE)


@unittest.skipUnless(os.environ.get("LASTWORD_BINARY"), "LASTWORD_BINARY names no real binary")
class Examples(TempCase):
    def test_each_prints_what_stands_behind_it(self) -> None:
        blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
        self.assertGreater(len(blocks), 5)
        self.assertIn("http://127.0.0.1:7070", "".join(blocks))
        names: dict[str, Any] = {"__name__": "readme"}
        server = Process(self.dir / "server")
        self.addCleanup(server.kill)
        with mock.patch.dict(os.environ, {"LASTWORD_DATA_DIR": str(self.dir)}):
            for block in blocks:
                block = block.replace("http://127.0.0.1:7070", server.url)
                with self.subTest(block=block), redirect_stdout(io.StringIO()) as printed:
                    exec(compile(block, "README.md", "exec"), names)
                expected = EXPECTED.findall(block)
                got = printed.getvalue().splitlines()
                # Examples with a loop print lines that nothing stands behind.
                if expected and "for record" not in block:
                    self.assertEqual(got, expected, block)
                elif expected:
                    self.assertEqual(got[: len(expected)], expected, block)
