"""`python -m function keys`: the keys that seal a journal (docs/evidence.md)."""

from __future__ import annotations

import argparse
import os
import sys

from ..transparency.keys import SEED_BYTES, BadKey, SignerKey, parse_signer_key

__all__ = ["main"]

_MODE = 0o600


def main(arguments: list[str]) -> int:
    """Make or show a key; return 0, 1 where that cannot be, 2 for usage."""
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        return _new(options.name, options.out) if options.verb == "new" else _show(options.file)
    except (BadKey, UnicodeDecodeError) as error:
        return _say(str(error))
    except FileExistsError:
        return _say(f"{options.out} is there already (hint: a key that is overwritten can never sign again)")
    except OSError as error:
        return _say(f"{error.filename}: {error.strerror}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m function keys", description="The keys that seal a journal.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    new = verbs.add_parser("new", help="make a key: the secret into a file, the public one on standard output")
    new.add_argument("name", metavar="NAME", help="like a URL without its scheme: example.com/audit")
    new.add_argument("--out", metavar="FILE", required=True, help="a new file, readable by you alone")
    show = verbs.add_parser("show", help="print the verifier keys that belong to a file of keys")
    show.add_argument("file", metavar="FILE")
    return parser


def _new(name: str, path: str) -> int:
    key = SignerKey(name, os.urandom(SEED_BYTES))
    verifier = str(key.verifier)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
    with os.fdopen(fd, "w", encoding="ascii") as file:
        file.write(f"{key.text()}\n")
        file.flush()
        os.fsync(file.fileno())
    print(verifier)
    print(f"the secret key is in {path}; give the line above to whoever is to verify", file=sys.stderr)
    return 0


def _show(path: str) -> int:
    with open(path, encoding="ascii") as file:
        for line in filter(None, map(str.strip, file)):
            print(parse_signer_key(line).verifier)
    return 0


def _say(problem: str) -> int:
    print(f"keys: {problem}", file=sys.stderr)
    return 1
