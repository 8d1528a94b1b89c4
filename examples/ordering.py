# Writes to both streams in turn, and they stay in turn: lastword run --json examples/ordering.py | jq -r .output
import os

for n in range(10):
    os.write(1 + n % 2, f"{n} to {'stderr' if n % 2 else 'stdout'}\n".encode())
