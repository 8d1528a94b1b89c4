"""The console script: becomes the binary, with the same arguments."""

from __future__ import annotations

import os
import sys

from ._binary import find_binary
from ._errors import BinaryNotFound

# What a shell says for a command that isn't there.
_NOT_FOUND = 127


def main() -> int:
    try:
        binary = find_binary()
    except BinaryNotFound as error:
        print(f"lastword: {error}", file=sys.stderr)
        return _NOT_FOUND
    os.execv(binary, ["lastword", *sys.argv[1:]])
