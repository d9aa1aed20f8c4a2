#!/usr/bin/env python3
"""Assemble the image's root file system in a folder, without a container engine.

rootfs.py TARGET                     fetch the locked packages
rootfs.py TARGET --packages DIR      or copy them out of an installation (a virtual environment's site-packages)
rootfs.py TARGET --list              say what an assembled folder holds, and its size

/app is what the Dockerfile makes, by the same script. The Python below it is this machine's, with its shared
libraries, instead of the base image's: such a folder is for tests and for reading, not for shipping.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig

import assemble

PYTHON = "usr/local/bin/python"
LISTED_BYTES_MIN = 1 << 20
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


def main() -> None:
    """Assemble or list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target")
    parser.add_argument("--packages")
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    root = os.path.abspath(arguments.target)
    if not arguments.list:
        if os.path.isdir(root) and os.listdir(root):
            raise SystemExit(f"{root}: not empty")
        assemble.assemble_app(root, arguments.packages)
        _copy_python(root)
    sys.stdout.write(contents(root))


def _copy_python(root: str) -> None:
    executable = os.path.realpath(sys.executable)
    library = sysconfig.get_path("stdlib")
    shutil.copytree(library, root + library, symlinks=True, ignore=_ignored, dirs_exist_ok=True)
    assemble.trim_library(root + library, root)
    _copy_file(executable, root)
    os.makedirs(os.path.dirname(os.path.join(root, PYTHON)), exist_ok=True)
    if os.path.join("/", PYTHON) != executable:
        os.symlink(executable, os.path.join(root, PYTHON))
    for needed in _shared_libraries([executable, *_extensions(root)], root):
        _copy_file(needed, root)
    if os.path.exists(CERTIFICATES):
        _copy_file(CERTIFICATES, root)
    for empty in ("dev", "proc", "sys", "tmp", "etc"):
        os.makedirs(os.path.join(root, empty), exist_ok=True)


def _ignored(folder: str, names: list[str]) -> list[str]:
    del folder
    return [name for name in names if name in ("__pycache__", "site-packages", "dist-packages", "test")]


def _copy_file(path: str, root: str) -> None:
    os.makedirs(os.path.dirname(root + path), exist_ok=True)
    shutil.copy2(path, root + path)


def _extensions(root: str) -> list[str]:
    return sorted(
        os.path.join(folder, name)
        for folder, _, names in os.walk(root)
        for name in names
        if re.search(r"\.so(\.|$)", name)
    )


def _shared_libraries(files: list[str], root: str) -> set[str]:
    """Return the paths of what these files need from the system, as the loader finds it."""
    found = subprocess.run(["ldd", *files], capture_output=True, text=True, check=False).stdout  # noqa: S603, S607 - fixed
    paths = re.findall(r"^\t(?:\S+ => )?(/\S+) \(0x", found, re.MULTILINE)
    return {path for path in paths if not path.startswith(root)}


def contents(root: str) -> str:
    """Return a table of what the folder holds, in MiB, largest first; what is below 1 MiB is summed up."""
    app, packages = os.path.join(root, assemble.APP), os.path.join(root, assemble.PACKAGES)
    rows = {f"/{assemble.PACKAGES}/{name}": _size(os.path.join(packages, name)) for name in os.listdir(packages)}
    small = [name for name, size in rows.items() if size < LISTED_BYTES_MIN]
    rows[f"/{assemble.PACKAGES}: {len(small)} smaller files and folders"] = sum(rows.pop(name) for name in small)
    rows |= {f"/{assemble.APP}/{name}": _size(os.path.join(app, name)) for name in assemble.OURS}
    total = _size(root)
    rows["Python and the system's libraries"] = total - sum(rows.values())
    lines = [f"{size / 2**20:8.2f}  {name}" for name, size in sorted(rows.items(), key=lambda row: (-row[1], row[0]))]
    return "\n".join([*lines, f"{total / 2**20:8.2f}  total, MiB", ""])


def _size(path: str) -> int:
    if not os.path.isdir(path) or os.path.islink(path):
        return os.lstat(path).st_size
    return sum(os.lstat(os.path.join(folder, name)).st_size for folder, _, names in os.walk(path) for name in names)


if __name__ == "__main__":
    main()
