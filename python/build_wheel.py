#!/usr/bin/env python3
"""Writes the wheel of one platform: the package, and the static `lastword` binary inside it.

    python3 build_wheel.py BINARY DIRECTORY

It needs the standard library alone (Python 3.11 or later) and no network. The same input gives the same
bytes.

The tag is manylinux_2_17: it says which C library is needed at least. The binary is static, so it needs none,
and that is the oldest tag which every pip of today knows. What it does need is a kernel: `lastword doctor`
tells.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import importlib
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PACKAGE = HERE / "src" / "lastword"
BINARY = "lastword/_bin/lastword"
TAGS = ["manylinux_2_17", "manylinux2014"]
# e_machine of an ELF header, and how wheels call it.
MACHINES = {62: "x86_64", 183: "aarch64"}
MODE_FILE = 0o100644
MODE_PROGRAM = 0o100755
# The oldest time that a zip can hold.
TIME = (1980, 1, 1, 0, 0, 0)


def main() -> int:
    parser = argparse.ArgumentParser(description="Writes the wheel with the binary inside.")
    parser.add_argument("binary", type=Path)
    parser.add_argument("directory", type=Path)
    arguments = parser.parse_args()
    try:
        print(build(arguments.binary, arguments.directory))
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        print(f"build_wheel: {error}", file=sys.stderr)
        return 1
    return 0


def build(binary: Path, directory: Path) -> Path:
    project = read_project()
    check_version(binary, project["version"])
    program = binary.read_bytes()
    tags = [f"{tag}_{machine(program)}" for tag in TAGS]
    name = f"{project['name']}-{project['version']}"
    info = f"{name}.dist-info"
    files = package_files()
    files[BINARY] = program
    files[f"{info}/METADATA"] = metadata(project)
    files[f"{info}/WHEEL"] = wheel(tags)
    files[f"{info}/entry_points.txt"] = entry_points(project)
    for licence in project["license-files"]:
        files[f"{info}/licenses/{licence}"] = (HERE / licence).read_bytes()
    files[f"{info}/RECORD"] = record(files, f"{info}/RECORD")

    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}-py3-none-{'.'.join(tags)}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for file, data in files.items():
            entry = zipfile.ZipInfo(file, TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            # Unix, wherever this runs: installers take the permission to execute from here.
            entry.create_system = 3
            entry.external_attr = (MODE_PROGRAM if file == BINARY else MODE_FILE) << 16
            archive.writestr(entry, data)
    return path


def read_project() -> dict[str, Any]:
    if sys.version_info < (3, 11):
        raise ValueError("needs Python 3.11 or later to read pyproject.toml")
    tomllib = importlib.import_module("tomllib")
    project: dict[str, Any] = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]
    return project


def check_version(binary: Path, version: str) -> None:
    said = subprocess.run(
        [binary.resolve(), "--version"], check=True, capture_output=True, text=True
    ).stdout.split()
    if said != ["lastword", version]:
        raise ValueError(
            f"{binary} is {' '.join(said)!r}, and pyproject.toml says {version}: make them the same"
        )


def machine(program: bytes) -> str:
    number = int.from_bytes(program[18:20], "little")
    if program[:4] != b"\x7fELF" or number not in MACHINES:
        raise ValueError("the binary is no ELF file of a machine that wheels are made for")
    return MACHINES[number]


def package_files() -> dict[str, bytes]:
    paths = sorted([*PACKAGE.glob("*.py"), PACKAGE / "py.typed"])
    return {f"lastword/{path.name}": path.read_bytes() for path in paths}


def metadata(project: dict[str, Any]) -> bytes:
    lines = [
        "Metadata-Version: 2.4",
        f"Name: {project['name']}",
        f"Version: {project['version']}",
        f"Summary: {project['description']}",
        *(f"Project-URL: {name}, {url}" for name, url in project["urls"].items()),
        f"Keywords: {','.join(project['keywords'])}",
        *(f"Classifier: {classifier}" for classifier in project["classifiers"]),
        f"License-Expression: {project['license']}",
        *(f"License-File: {licence}" for licence in project["license-files"]),
        f"Requires-Python: {project['requires-python']}",
        "Description-Content-Type: text/markdown",
        "",
        (HERE / project["readme"]).read_text(encoding="utf-8"),
    ]
    return "\n".join(lines).encode()


def wheel(tags: list[str]) -> bytes:
    # Not pure: it goes where files of one platform go.
    lines = ["Wheel-Version: 1.0", "Generator: lastword", "Root-Is-Purelib: false"]
    return "\n".join([*lines, *(f"Tag: py3-none-{tag}" for tag in tags), ""]).encode()


def entry_points(project: dict[str, Any]) -> bytes:
    scripts = [f"{name} = {target}" for name, target in project["scripts"].items()]
    return "\n".join(["[console_scripts]", *scripts, ""]).encode()


def record(files: dict[str, bytes], own_name: str) -> bytes:
    lines = []
    for file, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        lines.append(f"{file},sha256={digest},{len(data)}")
    return "\n".join([*lines, f"{own_name},,", ""]).encode()


if __name__ == "__main__":
    sys.exit(main())
