from __future__ import annotations

import json
import os
import traceback
from pathlib import Path
from typing import Any

from lastword import BadRequest, File, Request
from lastword._request import encoded

from .support import TempCase


class Bodies(TempCase):
    def test_the_smallest_request(self) -> None:
        limits = {"wall_ms": 30_000, "memory_bytes": 1 << 30}
        self.assertEqual(Request("x").body(), {"runtime": "python", "code": "x", "limits": limits})
        self.assertEqual(Request(command=["ls"]).body(), {"command": ["ls"], "limits": limits})
        self.assertEqual(Request(image="i").body(), {"image": "i", "limits": limits})

    def test_every_field_arrives(self) -> None:
        request = Request(
            "x",
            runtime="sh",
            args=["-v"],
            cwd="/work/d",
            stdin="in",
            env={"A": "1"},
            secrets={"S": "2"},
            timeout="1s",
            memory="64MiB",
            cpu_time=2,
            cpus=0.5,
            pids=3,
            disk="1MB",
            output_limit="1k",
            on_output_limit="drop",
            stack=1 << 20,
            open_files=20,
            outputs=["*.txt"],
            labels={"k": "v"},
            image="i",
            tty=True,
            ordering="arrival",
            flush="off",
            compile_flags=["-O2"],
            strict=True,
            key="mine",
        )
        expected = {
            "runtime": "sh",
            "code": "x",
            "args": ["-v"],
            "cwd": "/work/d",
            "stdin": "in",
            "env": {"A": "1"},
            "secrets": {"S": "2"},
            "outputs": ["*.txt"],
            "labels": {"k": "v"},
            "image": "i",
            "tty": True,
            "ordering": "arrival",
            "on_output_limit": "drop",
            "flush": "off",
            "strict": True,
            "compile_flags": ["-O2"],
            "key": "mine",
            "limits": {
                "wall_ms": 1000,
                "memory_bytes": 64 << 20,
                "cpu_ms": 2000,
                "cpus": 0.5,
                "pids": 3,
                "disk_bytes": 1_000_000,
                "output_bytes": 1024,
                "stack_bytes": 1 << 20,
                "open_files": 20,
            },
        }
        self.assertEqual(request.body(), expected)

    def test_files_are_texts_bytes_and_paths(self) -> None:
        script = self.dir / "tool.sh"
        script.write_text("echo hi\n")
        script.chmod(0o700)
        body = Request(files={"a.py": "print(1)", "b": b"\xff", "c": script}, entry="a.py").body()
        self.assertEqual(
            body["files"],
            [
                {"path": "a.py", "text": "print(1)"},
                {"path": "b", "base64": "/w=="},
                {"path": "c", "base64": "ZWNobyBoaQo=", "mode": 0o755},
            ],
        )
        body = Request(files=[script, File("x", "y", 0o600)], entry="x").body()
        self.assertEqual([file["path"] for file in body["files"]], ["tool.sh", "x"])
        self.assertEqual(body["files"][1]["mode"], 0o600)

    def test_an_empty_file_is_still_a_file(self) -> None:
        self.assertEqual(Request(files={"a.py": ""}).body()["files"], [{"path": "a.py", "text": ""}])
        self.assertEqual(Request("").body()["code"], "")

    def test_paths_of_this_machine_are_never_in_the_body(self) -> None:
        request = Request("x", venv="/v", ro=["/data", "/a:/b"])
        self.assertNotIn("/v", json.dumps(request.body()))
        self.assertEqual(request.host_options(), ["--venv=/v", "--ro=/data", "--ro=/a:/b"])
        self.assertEqual(Request("x", ro={"/a": "/b"}).host_options(), ["--ro=/a:/b"])
        self.assertEqual(Request("x", ro=Path("/a")).host_options(), ["--ro=/a"])

    def test_wrong_requests_name_their_field(self) -> None:
        wrong: list[tuple[str, dict[str, Any]]] = [
            ("code", {}),
            ("command", {"code": "x", "command": ["ls"]}),
            ("command", {"command": "ls -l"}),
            ("args", {"code": "x", "args": [1]}),
            ("files", {"files": {"a": 1}}),
            ("files", {"files": ["a.py"]}),
            ("files", {"files": [self.dir / "none"]}),
            ("files", {"files": [self.dir]}),
            ("timeout", {"code": "x", "timeout": "soon"}),
            ("memory", {"code": "x", "memory": "much"}),
            ("code", {"code": "\udcff"}),
            ("env", {"code": "x", "env": {"A": b"1"}}),
            ("limits", {"code": "x", "cpus": float("nan")}),
        ]
        for field, arguments in wrong:
            with self.subTest(arguments=arguments), self.assertRaises(BadRequest) as caught:
                encoded(Request(**arguments).body())
            self.assertEqual(caught.exception.field, field)

    def test_a_fifo_is_refused_and_not_waited_for(self) -> None:
        fifo = self.dir / "fifo"
        os.mkfifo(fifo)
        with self.assertRaises(BadRequest):
            Request(files=[fifo]).body()

    def test_secrets_are_not_shown(self) -> None:
        # Put together here, so that a traceback's lines of source don't hold it.
        value = "hid" + "den"
        self.assertNotIn(value, repr(Request("x", env={"A": value}, secrets={"S": value})))
        try:
            encoded(Request("x", secrets={"S": value + "\udcff"}).body())
        except BadRequest:
            self.assertNotIn(value, traceback.format_exc())
        else:
            self.fail("was accepted")

    def test_a_body_is_one_line(self) -> None:
        line = encoded(Request("a\nb\r\u2028c").body())
        self.assertEqual(line.count(b"\n"), 1)
        self.assertTrue(line.endswith(b"\n"))
        self.assertEqual(json.loads(line)["code"], "a\nb\r\u2028c")
