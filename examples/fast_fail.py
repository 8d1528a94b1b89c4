# Prints, then fails at once: lastword run examples/fast_fail.py
print("Before error")
1 / 0
