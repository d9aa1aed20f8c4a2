"""`python -m function keys`: the keys that seal a journal (docs/evidence.md)."""

from __future__ import annotations

import os

from ..transparency.keys import SEED_BYTES, BadKey, SignerKey, parse_signer_key
from .command_line import PROGRAM, Parser, say

__all__ = ["main", "parser"]

EXAMPLES = f"""
{PROGRAM} keys new example.com/audit --out seal.key > vkeys
{PROGRAM} keys show seal.key
"""

_MODE = 0o600


def main(arguments: list[str]) -> int:
    """Make or show a key; return 0, 1 where that cannot be, 2 for usage."""
    options = parser().parse_args(arguments)
    try:
        return _new(options.name, options.out) if options.verb == "new" else _show(options.file)
    except BadKey as error:
        return _say(str(error))
    except UnicodeDecodeError:
        return _say(f"{options.file} is no file of keys: not text")
    except FileExistsError:
        return _say(f"{options.out} is there already (hint: a key that is overwritten can never sign again)")
    except OSError as error:
        return _say(f"{error.filename}: {error.strerror}")


def parser() -> Parser:
    """Return the parser of the options."""
    made = Parser(f"{PROGRAM} keys", description="The keys that seal a journal.", examples=EXAMPLES)
    verbs = made.add_subparsers(dest="verb", required=True, metavar="VERB")
    make, print_them = EXAMPLES.strip().splitlines()
    new = verbs.add_parser(
        "new", examples=make, help="make a key: the secret into a file, the public one on standard output"
    )
    new.add_argument("name", metavar="NAME", help="like a URL without its scheme: example.com/audit")
    new.add_argument("--out", metavar="FILE", required=True, help="a new file, readable by you alone")
    show = verbs.add_parser("show", examples=print_them, help="print the verifier keys that belong to a file of keys")
    show.add_argument("file", metavar="FILE")
    return made


def _new(name: str, path: str) -> int:
    key = SignerKey(name, os.urandom(SEED_BYTES))
    verifier = str(key.verifier)
    if not name.isascii():
        raise BadKey(f"{name!r} cannot name a key that seals (hint: ASCII only, as in example.com/audit)")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
    try:
        with os.fdopen(fd, "w", encoding="ascii") as file:
            file.write(f"{key.text()}\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:  # a full disk: half a key is none, and is in the way
        os.unlink(path)
        raise OSError(error.errno, error.strerror, path) from None
    print(verifier)
    say(f"the secret key is in {path}; give the line above to whoever will verify")
    return 0


def _show(path: str) -> int:
    with open(path, encoding="ascii") as file:
        for line in filter(None, map(str.strip, file)):
            print(parse_signer_key(line).verifier)
    return 0


def _say(problem: str) -> int:
    say(problem)
    return 1
