import sys

print("hello from stdout")
print("hello from stderr", file=sys.stderr)
