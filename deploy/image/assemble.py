#!/usr/bin/env python3
"""Assemble what the container image holds. The Dockerfile and rootfs.py both call this, so that it has one place.

assemble.py app ROOT [--packages DIR]    our files, the locked packages and the journal's directory, into ROOT
assemble.py trim PREFIX                  remove from a Python installation what a server does not need

``--packages DIR`` copies the locked packages out of an installation instead of fetching them.
"""

import argparse
import compileall
import glob
import importlib.metadata
import os
import py_compile
import re
import shutil
import subprocess
import sys

PROJECT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
REQUIREMENTS = os.path.join(PROJECT, "requirements.txt")
OURS = ("function", "LICENSE")
APP = "app"
PACKAGES = "app/packages"
JOURNAL = "var/lib/kube-audit-function"
UID = 65532

# Relative to the standard library and to the prefix. Bytes saved, and no installer for an intruder.
NOT_IN_LIBRARY = (
    "site-packages/*", "dist-packages/*", "ensurepip", "idlelib", "tkinter", "turtledemo", "turtle.py", "lib2to3",
    "pydoc_data", "test", "config-*", "lib-dynload/_tkinter*", "lib-dynload/_test*", "lib-dynload/xx*",
)  # fmt: skip
NOT_IN_PREFIX = ("include", "share/man", "bin/pip*", "bin/idle*", "bin/2to3*", "bin/pydoc*", "bin/python*-config")


def main() -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    app = commands.add_parser("app")
    app.add_argument("root")
    app.add_argument("--packages")
    trim = commands.add_parser("trim")
    trim.add_argument("prefix")
    arguments = parser.parse_args()
    if arguments.command == "app":
        assemble_app(arguments.root, arguments.packages)
    else:
        trim_prefix(arguments.prefix)


def assemble_app(root: str, packages: str | None = None) -> None:
    """Put /app and the journal's directory into ``root``; raise when a locked package is missing."""
    _copy_ours(os.path.join(root, APP))
    target = os.path.join(root, PACKAGES)
    if packages is None:
        _install_locked(target)
    else:
        _copy_installed(packages, target)
    compile_tree(os.path.join(root, APP), root)
    _make_journal(os.path.join(root, JOURNAL))


def trim_prefix(prefix: str) -> None:
    """Remove what a server does not need from the Python installation in ``prefix``, and byte-compile the rest."""
    for pattern in NOT_IN_PREFIX:
        _remove(os.path.join(prefix, pattern))
    for library in glob.glob(os.path.join(prefix, "lib", "python3.*")):
        trim_library(library, "/")


def trim_library(library: str, root: str) -> None:
    """Remove what a server does not need from a standard library, and byte-compile the rest."""
    for pattern in NOT_IN_LIBRARY:
        _remove(os.path.join(library, pattern))
    compile_tree(library, root)


def compile_tree(tree: str, root: str) -> None:
    """Byte-compile every module; raise SystemExit when one does not compile.

    The root is read-only at run time, and the official image comes without byte code: without this, every start
    would compile everything. The byte code names no time and no folder of the build, so that two builds agree.
    """
    done = compileall.compile_dir(
        tree,
        quiet=1,
        force=True,
        stripdir=root,
        prependdir="/",
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    if not done:
        raise SystemExit(f"{tree}: not everything compiles")


def _copy_ours(app: str) -> None:
    os.makedirs(app, exist_ok=True)
    for name in OURS:
        source = os.path.join(PROJECT, name)
        if os.path.isdir(source):
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, os.path.join(app, name), ignore=ignore, dirs_exist_ok=True)
        else:
            shutil.copy2(source, app)


def _install_locked(target: str) -> None:
    """Fetch the locked packages: each must match a hash of requirements.txt, and nothing is built from source."""
    options = ["--require-hashes", "--no-deps", "--only-binary=:all:", "--no-compile", "--no-cache-dir"]
    quiet = ["--quiet", "--disable-pip-version-check", "--root-user-action=ignore"]
    command = [sys.executable, "-m", "pip", "install", *quiet, *options, "--target", target, "-r", REQUIREMENTS]
    subprocess.run(command, check=True)  # noqa: S603 - a fixed command
    _remove(os.path.join(target, "bin"))  # scripts that name the builder's interpreter


def _copy_installed(packages: str, target: str) -> None:
    installed = {_normal(found.name): found for found in importlib.metadata.distributions(path=[packages])}
    for name, version, conditional in locked():
        found = installed.get(name)
        if found is None and conditional:
            continue
        if found is None or found.version != version:
            raise SystemExit(f"{packages}: {name} {version} is not there")
        for file in found.files or ():
            if file.parts[0] != ".." and "__pycache__" not in file.parts:
                destination = os.path.join(target, file)
                os.makedirs(os.path.dirname(destination), exist_ok=True)
                shutil.copy2(os.path.join(packages, file), destination)


def locked() -> list[tuple[str, str, bool]]:
    """Return name, version and "only on some platforms" of each package of requirements.txt."""
    with open(REQUIREMENTS, encoding="utf-8") as file:
        found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)( ;)?", file.read(), re.MULTILINE)
    return [(_normal(name), version, bool(condition)) for name, version, condition in found]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _make_journal(path: str) -> None:
    os.makedirs(path, exist_ok=True)
    os.chmod(path, 0o700)
    if os.geteuid() == 0:
        os.chown(path, UID, UID)


def _remove(pattern: str) -> None:
    for path in glob.glob(pattern):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


if __name__ == "__main__":
    main()
