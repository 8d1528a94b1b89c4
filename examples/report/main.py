import pathlib
import sys

from words import count

out = pathlib.Path("out")
out.mkdir()
for word, n in count(sys.stdin.read()).most_common(3):
    (out / f"{word}.txt").write_text(f"{n}\n")
    print(word, n)
