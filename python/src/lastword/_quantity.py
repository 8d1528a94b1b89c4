"""Durations and sizes, as the command line reads them."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from fractions import Fraction
from typing import Union

from ._errors import BadRequest

Duration = Union[float, str, timedelta]
Size = Union[int, str]

_NS_PER_UNIT = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,
}
_NS_PER_MS = 1_000_000
_BYTES_PER_UNIT = {
    "": 1,
    "B": 1,
    **{unit: 1000**power for power, unit in enumerate(["kB", "MB", "GB", "TB"], 1)},
    **{unit: 1024**power for power, unit in enumerate(["KiB", "MiB", "GiB", "TiB"], 1)},
    **{unit: 1024**power for power, unit in enumerate(["Ki", "Mi", "Gi", "Ti"], 1)},
    **{unit: 1024**power for power, unit in enumerate("KMGT", 1)},
    "k": 1024,
}
# More digits than any value in range needs.
_NUMBER = r"(\d{1,20}(?:\.\d{1,20})?)"
_PART = re.compile(_NUMBER + r"\s*([^\d.\s]+)\s*")
_SIZE = re.compile(_NUMBER + r"\s*([A-Za-z]*)")
_PLAIN = re.compile(_NUMBER)


def milliseconds(field: str, value: Duration) -> int:
    """Whole milliseconds, rounded up: a limit of 0.4 ms is not a limit of 0.

    Raises BadRequest for what is no duration, or none longer than 0.
    """
    ns = _nanoseconds(field, value)
    if ns <= 0:
        raise BadRequest("has to be longer than 0", field)
    return math.ceil(ns / _NS_PER_MS)


def _nanoseconds(field: str, value: Duration) -> Fraction:
    if isinstance(value, timedelta):
        return Fraction(value // timedelta(microseconds=1) * 1000)
    if isinstance(value, str):
        return _parsed(field, value.strip())
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise BadRequest('is no duration: write seconds, or a text like "30s" or "500ms"', field)
    # By way of its shortest decimal: 0.1 means a tenth, not the nearest binary fraction.
    return Fraction(repr(float(value))) * 1_000_000_000


def _parsed(field: str, text: str) -> Fraction:
    if _PLAIN.fullmatch(text):
        return Fraction(text) * 1_000_000_000
    total = Fraction(0)
    at = 0
    while at < len(text) or not text:
        part = _PART.match(text, at)
        per_unit = _NS_PER_UNIT.get(part.group(2)) if part else None
        if part is None or per_unit is None:
            raise BadRequest(
                f'is {text[:64]!r}, which is no duration: write it like "30s", "500ms" or "2m"', field
            )
        total += Fraction(part.group(1)) * per_unit
        at = part.end()
    return total


def size_bytes(field: str, value: Size) -> int:
    """A number of bytes. Raises BadRequest for what is no size."""
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 0:
            raise BadRequest("can't be below 0", field)
        return value
    found = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    per_unit = _BYTES_PER_UNIT.get(found.group(2)) if found else None
    if found is None or per_unit is None:
        shown = repr(value)[:64]
        raise BadRequest(
            f'is {shown}, which is no size: write it like "64MiB", "1GB", or a number of bytes', field
        )
    count = Fraction(found.group(1)) * per_unit
    if count.denominator != 1:
        raise BadRequest(f"is {value!r}, which is finer than a byte", field)
    return int(count)
