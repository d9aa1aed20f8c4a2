"""`python -m function prove`: one review's entry, with all that is needed to verify it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from ..evidence.proving import CannotProve, Proven, prove
from ..transparency.note import Malformed
from ..transparency.proof import SUFFIX
from .archives import fetched
from .command_line import PROGRAM, Parser, say
from .journals import sources

__all__ = ["main", "parser"]

EXAMPLES = f"""
{PROGRAM} prove /journal 87008bc2-1634-408f-a0c1-14300d18c1d9 --out evidence
"""


def main(arguments: list[str]) -> int:
    """Write the proofs; return 0, 1 where there is no such entry or no checkpoint covers it, 2 for usage."""
    options = parser().parse_args(arguments)
    try:
        found, problems = _found(sources(fetched([options.journal], evidence=True)), options.uid)
        for number, one in enumerate(found, start=1):
            _write(options.out, f"{options.uid}{f'-{number}' if number > 1 else ''}", one)
    except OSError as error:
        say(f"{error.filename or options.journal}: {error.strerror or error}")
        return 2
    if not found and not problems:
        problems = [f"no record in {options.journal} has this uid"]
    for problem in problems:
        say(f"{options.uid}: {problem}")
    return 0 if found else 1


def parser() -> Parser:
    """Return the parser of the options."""
    made = Parser(
        f"{PROGRAM} prove",
        description="Prove one review's entry: writes UID.tlog-proof (c2sp.org/tlog-proof) and the line, UID.json. "
        "`verify --proof UID.tlog-proof --key VKEY` needs nothing else.",
        examples=EXAMPLES,
    )
    made.add_argument("journal", metavar="JOURNAL")
    made.add_argument("uid", metavar="UID", help="of the review: request.uid, or auditID of our Events")
    made.add_argument("--out", default=".", metavar="DIR", help="where to write; default: here")
    return made


def _found(directories: Iterable[str], uid: str) -> tuple[list[Proven], list[str]]:
    """Return what can be proved, and why something else cannot: one review may be recorded by two replicas."""
    found: list[Proven] = []
    problems: list[str] = []
    for directory in directories:
        try:
            found += prove(directory, uid)
        except (CannotProve, Malformed) as error:
            problems.append(f"{os.path.basename(directory)}: {error}")
    return found, problems


def _write(directory: str, name: str, one: Proven) -> None:
    base = os.path.join(directory, re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip("."))
    with open(f"{base}.json", "wb") as file:
        file.write(one.line)  # without a line break: to the byte what was hashed
    with open(f"{base}{SUFFIX}", "wb") as file:
        file.write(one.proof.encode())
    who = "a witness has cosigned that" if one.cosigned else "no witness has cosigned that"
    print(f"{base}{SUFFIX}: entry {one.proof.index + 1:,}, line {one.line_number:,} of {one.segment}; {who}")
