"""`python -m function checkpoint`: the newest signed checkpoint, for a ticket, a cron job, another machine."""

from __future__ import annotations

import contextlib
import sys

from ..journal.evidence import Evidence, read_evidence
from ..journal.files import Files
from ..journal.segments import LOST_AND_FOUND
from ..transparency import checkpoint as checkpoints
from ..transparency import proof as proofs
from ..transparency.note import Malformed
from .command_line import PROGRAM, Parser, default_journal, say

__all__ = ["main", "parser"]

EXAMPLES = f"""
{PROGRAM} checkpoint /journal
{PROGRAM} checkpoint --all > checkpoints
"""


def main(arguments: list[str]) -> int:
    """Print; return 0, 1 where there is none, 2 where the journal cannot be read or for usage."""
    options = parser().parse_args(arguments)
    try:
        newest = _newest(options.journal)
    except OSError as error:
        say(f"{error.filename or options.journal}: {error.strerror}")
        return 2
    if not newest:
        say(f"nothing in {options.journal} is sealed (hint: AUDIT_SEAL_KEY_FILE)")
        return 1
    for _, data in newest if options.all else newest[-1:]:
        sys.stdout.buffer.write(data)
    return 0


def parser() -> Parser:
    """Return the parser of the options."""
    made = Parser(
        f"{PROGRAM} checkpoint",
        description="Print the newest signed checkpoint. Keep it where the journal's host cannot reach it: "
        "`verify --anchors FILE` compares the journal with it.",
        examples=EXAMPLES,
    )
    made.add_argument(
        "journal", nargs="?", default=default_journal(), metavar="JOURNAL", help="default: AUDIT_JOURNAL_DIR"
    )
    made.add_argument("--all", action="store_true", help="the newest of every process directory, one after another")
    return made


def _newest(journal: str) -> list[tuple[float, bytes]]:
    """Return the largest checkpoint of each directory with the time it was written, the last one last."""
    files = Files()
    found = []
    below = [one.path for one in files.entries(journal) if one.is_directory and one.name != LOST_AND_FOUND]
    for path in [journal, *below]:
        with contextlib.suppress(FileNotFoundError):  # removed just now
            evidence = read_evidence(files, path)
            if data := _largest(evidence):
                times = [one.modified for one in files.entries(path) if one.name.endswith(".checkpoints")]
                found.append((max(times, default=0.0), data))
    return sorted(found)


def _largest(evidence: Evidence) -> bytes:
    known = [data for some in evidence.checkpoints.values() for one in some for data in checkpoints.split(one)[0]]
    sized = []
    for data in known:
        try:
            sized.append((checkpoints.parse_signed(data)[0].size, data))
        except Malformed:
            continue
    for content in evidence.proofs.values():  # of segments that retention removed nothing else is left
        try:
            data = proofs.parse(content).checkpoint
            sized.append((checkpoints.parse_signed(data)[0].size, data))
        except Malformed:
            continue
    return max(sized, key=lambda one: one[0])[1] if sized else b""
