from __future__ import annotations

import os
from collections.abc import Iterator

from lastword import LastwordError
from lastword._save import Target

from .support import TempCase


class Saving(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.target = self.dir / "target"
        self.outside = self.dir / "outside"
        self.outside.mkdir()

    def save(self, path: str, data: bytes = b"data") -> str:
        with Target(str(self.target)) as target:
            return str(target.save(path, iter([data])))

    def everything(self) -> list[str]:
        return sorted(str(path.relative_to(self.dir)) for path in self.dir.rglob("*") if not path.is_dir())

    def test_files_in_directories(self) -> None:
        self.assertEqual(self.save("a"), str(self.target / "a"))
        self.save("b/c/d", b"deep")
        self.save("b/c/e")
        self.assertEqual((self.target / "b/c/d").read_bytes(), b"deep")
        self.assertEqual(self.everything(), ["target/a", "target/b/c/d", "target/b/c/e"])

    def test_no_path_leads_out(self) -> None:
        paths = [
            "../x",
            "//x",
            "/../x",
            "/",
            "a/../../x",
            "..",
            ".",
            "",
            "a//b",
            "a/./b",
            "a/",
            "a\0b",
            "/".join("d" * 100),
        ]
        for path in paths:
            with self.subTest(path=path), self.assertRaises(LastwordError):
                self.save(path)
        self.assertEqual(self.everything(), [])

    def test_no_directory_that_is_a_link_is_followed(self) -> None:
        self.target.mkdir()
        (self.target / "link").symlink_to(self.outside)
        with self.assertRaisesRegex(LastwordError, "links are not followed"):
            self.save("link/x")
        self.assertEqual(list(self.outside.iterdir()), [])

    def test_an_absolute_path_is_one_below_the_directory(self) -> None:
        self.assertEqual(self.save("/tmp/x"), str(self.target / "tmp/x"))
        self.assertEqual(self.everything(), ["target/tmp/x"])

    def test_no_output_takes_the_place_of_another(self) -> None:
        with Target(str(self.target)) as target:
            target.save("/tmp/x", iter([b"first"]))
            with self.assertRaisesRegex(LastwordError, "another output"):
                target.save("tmp/x", iter([b"second"]))
        self.assertEqual((self.target / "tmp/x").read_bytes(), b"first")

    def test_a_file_that_is_a_link_is_neither_followed_nor_replaced(self) -> None:
        victim = self.outside / "victim"
        victim.write_bytes(b"precious")
        self.target.mkdir()
        (self.target / "soft").symlink_to(victim)
        os.link(victim, self.target / "hard")
        with self.assertRaisesRegex(LastwordError, "in the way"):
            self.save("soft")
        self.save("hard")
        self.assertEqual(victim.read_bytes(), b"precious")
        self.assertTrue((self.target / "soft").is_symlink())
        self.assertEqual((self.target / "hard").read_bytes(), b"data")

    def test_what_is_in_the_way_is_an_error_and_nothing_is_left(self) -> None:
        self.save("file")
        (self.target / "directory/x").mkdir(parents=True)
        for path in ("file/x", "directory"):
            with self.subTest(path=path), self.assertRaises(LastwordError):
                self.save(path)
        self.assertEqual(self.everything(), ["target/file"])

    def test_half_a_file_is_not_left(self) -> None:
        def broken() -> Iterator[bytes]:
            yield b"half"
            raise LastwordError("the rest is missing")

        self.save("x", b"before")
        with Target(str(self.target)) as target, self.assertRaisesRegex(LastwordError, "the rest"):
            target.save("x", broken())
        self.assertEqual(self.everything(), ["target/x"])
        self.assertEqual((self.target / "x").read_bytes(), b"before")

    def test_no_descriptor_is_left_open(self) -> None:
        before = len(os.listdir("/proc/self/fd"))
        self.save("a/b/c")
        with self.assertRaises(LastwordError):
            self.save("a/b/c/d/e")
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)
