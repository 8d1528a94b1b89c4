#!/usr/bin/env python3
"""A stand-in for the binary: answers from what it is asked, so that the package's own part can be tested
alone.

The code of a request steers it: `sleep` waits for SIGTERM and says in $FAKE_LOG that it came; `linger` waits
for two of them; `big N` answers N bytes of stdout; `exit N` and `die` end it in other ways; anything else is
echoed as the program's stdout.
"""

import json
import os
import signal
import sys
import time
from typing import Any

LOG = os.environ.get("FAKE_LOG")


def note(line: str) -> None:
    if LOG:
        with open(LOG, "a") as file:
            file.write(line + "\n")


def execution(id: str, stdout: str = "", status: str = "succeeded", complete: bool = True) -> dict[str, Any]:
    stream = {"bytes": len(stdout.encode()), "dropped": 0, "blake3": "00"}
    empty = {"bytes": 0, "dropped": 0, "blake3": "00"}
    ok = status == "succeeded" and complete
    return {
        "id": id,
        "status": status,
        "reason": "exit",
        "ok": ok,
        "exit_code": 0 if status == "succeeded" else 1,
        "signal": None,
        "oom_killed": False,
        "stdout": stdout,
        "stderr": "",
        "output": stdout,
        "stdout_encoding": "utf-8",
        "stderr_encoding": "utf-8",
        "output_encoding": "utf-8",
        "inline_truncated": False,
        "transcript": {
            "complete": complete,
            "why_incomplete": None if complete else "5 bytes were dropped",
            "ordering": "exact",
            "ordering_until_seq": None,
            "records": 1,
            "tty": False,
            "stdout": stream,
            "stderr": empty,
        },
        "compile": None,
        "outputs": [],
        "outputs_refused": [],
        "usage": {"wall_ms": 1.5},
        "limits": {},
        "enforced": {},
        "backend": "native",
        "runtime": "python",
        "image": None,
        "labels": {},
        "environment": {"lastword": "0.1.0"},
        "problem": None,
        "retry": {"safe": False, "program_started": True},
        "created_at": "2026-11-23T20:37:36.859835652Z",
        "started_at": None,
        "ended_at": None,
        "queue_ms": 0.4,
    }


def wait_for_the_end(signals: int = 1) -> None:
    def ended(number: int, frame: object) -> None:
        nonlocal signals
        note(f"signal {number}")
        signals -= 1
        if signals > 0:
            return
        # More than a pipe holds, and nobody has to read it.
        sys.stdout.write("x" * 1_000_000)
        sys.exit(143)

    signal.signal(signal.SIGTERM, ended)
    note(f"pid {os.getpid()} session {os.getsid(0)}")
    while True:
        time.sleep(60)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    words = request.get("code", "").split()
    if words[:1] == ["sleep"]:
        wait_for_the_end()
    if words[:1] == ["linger"]:
        wait_for_the_end(2)
    if words[:1] == ["die"]:
        os.kill(os.getpid(), signal.SIGKILL)
    if words[:1] == ["exit"]:
        print(" ".join(words[2:]), file=sys.stderr)
        sys.exit(int(words[1]))
    if words[:1] == ["big"]:
        return execution("01", "\0" * int(words[1]))
    if words[:1] == ["status"]:
        return execution("01", status=words[1], complete=words[2] == "complete")
    return execution("01", json.dumps(request, ensure_ascii=False))


def batch() -> None:
    for row, line in enumerate(sys.stdin.buffer):
        note(f"row {row}")
        request = json.loads(line)
        if not isinstance(request, dict):
            problem = {"code": "bad_request", "message": "is no object"}
            result: dict[str, Any] = {"id": None, "status": "error", "problem": problem}
            result["retry"] = {"safe": False, "program_started": False}
        else:
            result = answer(request)
            if "key" in request:
                result["key"] = request["key"]
        print(json.dumps({"row": row, **result}), flush=True)


def main() -> None:
    arguments = [word for word in sys.argv[1:] if not word.startswith("--data-dir=")]
    note(json.dumps(sys.argv[1:]))
    if arguments[0] == "run":
        print(json.dumps(answer(json.loads(sys.stdin.buffer.read()))))
    elif arguments[0] == "batch":
        batch()
    elif arguments[0] == "files":
        sys.stdout.buffer.write(arguments[-1].encode(errors="surrogateescape") * 3)
    elif arguments[0] == "logs":
        time_stamp = "2026-11-23T20:37:36.859835652Z"
        for seq in range(3):
            print(
                json.dumps({"seq": seq, "timestamp": time_stamp, "stream": "stdout", "log": f"line {seq}\n"})
            )
        if arguments[-1] == "dead":
            print("lastword: the transcript is damaged", file=sys.stderr)
            sys.exit(1)
        if arguments[-1] == "beef":
            sys.stdout.flush()
            wait_for_the_end()
    else:
        sys.exit(f"the fake knows no {arguments}")


main()
