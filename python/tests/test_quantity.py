from __future__ import annotations

import unittest
from datetime import timedelta
from typing import Any

from lastword import BadRequest
from lastword._quantity import milliseconds, size_bytes


class Durations(unittest.TestCase):
    def test_the_units(self) -> None:
        durations: list[tuple[Any, int]] = [
            (30, 30_000),
            (0.1, 100),
            (1.001, 1001),
            ("30s", 30_000),
            ("500ms", 500),
            ("2m", 120_000),
            ("7", 7_000),
            ("1.5h", 5_400_000),
            ("1m30s", 90_000),
            ("1h0.5s", 3_600_500),
            (" 3 s ", 3_000),
            (timedelta(minutes=1), 60_000),
        ]
        for value, expected in durations:
            with self.subTest(value=value):
                self.assertEqual(milliseconds("timeout", value), expected)

    def test_a_short_limit_is_not_rounded_to_none(self) -> None:
        self.assertEqual(milliseconds("timeout", 0.0001), 1)
        self.assertEqual(milliseconds("timeout", "1us"), 1)

    def test_what_is_none_is_refused_with_the_fields_name(self) -> None:
        values: list[Any] = [
            "",
            "soon",
            "1m30",
            "-1s",
            0,
            -1,
            float("nan"),
            float("inf"),
            True,
            None,
            [],
            "1" * 99 + "s",
        ]
        for value in values:
            with self.subTest(value=value), self.assertRaises(BadRequest) as caught:
                milliseconds("timeout", value)
            self.assertEqual(caught.exception.field, "timeout")


class Sizes(unittest.TestCase):
    def test_the_units(self) -> None:
        sizes: list[tuple[Any, int]] = [
            (123, 123),
            ("123", 123),
            ("64MiB", 64 << 20),
            ("1GB", 1_000_000_000),
            ("512k", 512 << 10),
            ("1.5GiB", 3 << 29),
            ("1 KiB", 1024),
            ("2Gi", 2 << 30),
        ]
        for value, expected in sizes:
            with self.subTest(value=value):
                self.assertEqual(size_bytes("memory", value), expected)

    def test_what_is_none_is_refused_with_the_fields_name(self) -> None:
        values: list[Any] = ["", "big", "-1", -1, "1XB", "0.0001kB", 1.5, True, None, "1MiB2"]
        for value in values:
            with self.subTest(value=value), self.assertRaises(BadRequest) as caught:
                size_bytes("memory", value)
            self.assertEqual(caught.exception.field, "memory")
