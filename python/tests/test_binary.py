from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import lastword
from lastword import BinaryNotFound, find_binary

from .support import TempCase

SOURCE = Path(lastword.__file__).resolve().parent.parent


class Finding(TempCase):
    def setUp(self) -> None:
        super().setUp()
        patches: list[Any] = [
            mock.patch.dict(os.environ, {"PATH": ""}),
            mock.patch("lastword._binary.bundled_binary", return_value=self.dir / "bundled"),
        ]
        for patch in patches:
            patch.start()
            self.addCleanup(patch.stop)
        os.environ.pop("LASTWORD_BINARY", None)

    def program(self, path: str, text: str = "#!/bin/sh\n") -> str:
        file = self.dir / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)
        return str(file)

    def test_the_order(self) -> None:
        on_path = self.program("path/lastword")
        os.environ["PATH"] = str(self.dir / "path")
        self.assertEqual(find_binary(), on_path)
        bundled = self.program("bundled")
        self.assertEqual(find_binary(), bundled)
        os.environ["LASTWORD_BINARY"] = self.program("named")
        self.assertEqual(find_binary(), str(self.dir / "named"))
        self.assertEqual(find_binary(self.program("explicit")), str(self.dir / "explicit"))

    def test_what_was_named_is_never_replaced_by_something_else(self) -> None:
        self.program("bundled")
        os.environ["LASTWORD_BINARY"] = str(self.dir / "none")
        with self.assertRaisesRegex(BinaryNotFound, "LASTWORD_BINARY"):
            find_binary()
        with self.assertRaisesRegex(BinaryNotFound, "binary="):
            find_binary(self.dir / "none")
        Path(self.program("not-executable")).chmod(0o644)
        with self.assertRaisesRegex(BinaryNotFound, "chmod"):
            find_binary(self.dir / "not-executable")

    def test_the_error_says_what_to_do(self) -> None:
        with self.assertRaises(BinaryNotFound) as caught:
            find_binary()
        for word in ("LASTWORD_BINARY", "PATH", "binary=", "wheel"):
            self.assertIn(word, str(caught.exception))

    def test_the_packages_own_script_on_path_is_passed_over(self) -> None:
        self.program("venv/lastword", "#!/usr/bin/python3\nfrom lastword._main import main\n")
        os.environ["PATH"] = str(self.dir / "venv")
        with self.assertRaises(BinaryNotFound):
            find_binary()
        real = self.program("usr/lastword")
        os.environ["PATH"] = f"{self.dir / 'venv'}:{self.dir / 'usr'}"
        self.assertEqual(find_binary(), real)


class Script(TempCase):
    def main(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
        variables = {"PYTHONPATH": str(SOURCE), "PATH": str(self.dir), **variables}
        return subprocess.run(
            [sys.executable, "-m", "lastword", *arguments], env=variables, capture_output=True
        )

    def test_it_becomes_the_binary(self) -> None:
        binary = self.dir / "lastword"
        binary.write_text('#!/bin/sh\nprintf "%s|" "$@"\nexit 7\n')
        binary.chmod(0o755)
        done = self.main("run", "a b", LASTWORD_BINARY=str(binary))
        self.assertEqual((done.stdout, done.returncode), (b"run|a b|", 7))

    def test_without_a_binary_it_says_so(self) -> None:
        done = self.main("run", LASTWORD_BINARY=str(self.dir / "none"))
        self.assertEqual(done.returncode, 127)
        self.assertIn(b"lastword: ", done.stderr)
        self.assertNotIn(b"Traceback", done.stderr)
