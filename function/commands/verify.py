"""`python -m function verify`: is this journal what was signed? And one entry, by its proof."""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from ..configuration.units import format_bytes
from ..evidence import hashing, proving
from ..evidence.anchors import Anchors, read_anchors
from ..evidence.hashing import Passed, Task
from ..evidence.log import Finding, Keys, Level
from ..evidence.verification import Proved, Verification, verify
from ..journal.content import content_status
from ..journal.evidence import is_sealed
from ..journal.files import Files
from ..journal.segments import LOST_AND_FOUND, readable_number
from ..transparency.keys import BadKey, VerifierKey, parse_verifier_key
from .archives import fetched
from .command_line import PROGRAM, Parser, say, stop_writing
from .progress import Progress

__all__ = ["main", "parser"]

EXAMPLES = f"""
{PROGRAM} verify /journal --key vkeys
{PROGRAM} verify /journal --key vkeys --anchors native-audit.log witness.checkpoints
{PROGRAM} verify --proof 87008bc2.tlog-proof --key vkeys
"""

BLOCK_BYTES = 1 << 20
PROGRESS_AFTER_SECONDS = 2.0
# Below this, starting processes takes longer than hashing.
PARALLEL_BYTES_MIN = 200 << 20
CODES = {"proved": 0, "not proved": 1, "cannot tell": 2}


def main(arguments: list[str]) -> int:
    """Verify; return 0 where all is proved, 1 where it is not, 2 where that cannot be told."""
    options = parser().parse_args(arguments)
    options.json = options.json or options.output == "json"
    try:
        keys = Keys(_keys(options.key), _keys(options.old_key))
        return _verify_proofs(options, keys) if options.proof else _verify_journals(options, keys)
    except BadKey as error:
        return _say(str(error))
    except BrokenPipeError:  # the reader has seen enough
        stop_writing()
        return 2
    except OSError as error:
        return _say(f"{error.filename or 'the journal'}: {error.strerror or error}")


def parser() -> Parser:
    """Return the parser of the options."""
    made = Parser(
        f"{PROGRAM} verify",
        description="Recompute a sealed journal, and compare it with all that was signed for it.",
        examples=EXAMPLES,
        notes="Exit code: 0 proved, 1 not proved, 2 cannot tell. docs/evidence.md says against whom it proves what.",
    )
    made.add_argument(
        "journals", nargs="*", metavar="JOURNAL", help="a journal's directory, one process's in it, or an archive's URL"
    )
    made.add_argument(
        "--key",
        action="append",
        default=[],
        metavar="VKEY",
        help="a verifier key, of the function or of a witness, or a file of them; may be repeated",
    )
    made.add_argument(
        "--old-key",
        action="append",
        default=[],
        metavar="VKEY",
        help="a retired key: it counts only where no newer key had replaced it",
    )
    made.add_argument(
        "--anchors",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="native audit logs, exports of sinks, files of checkpoints: what was kept elsewhere",
    )
    made.add_argument(
        "--proof",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="verify .tlog-proof files, each with its entry beside it (.json)",
    )
    made.add_argument("--jobs", type=int, default=0, metavar="N", help="processes to use; default: one a core")
    made.add_argument("-o", "--output", choices=["text", "json"], default="text")
    made.add_argument("--json", action="store_true", help="the same as -o json")
    return made


def _keys(texts: Sequence[str]) -> list[VerifierKey]:
    found = []
    for text in texts:
        if os.path.isfile(text):
            found += _keys_of_file(text)
        elif "+" not in text:
            raise BadKey(f"{text!r} is neither a file nor a key (hint: a key is <name>+<8 hex digits>+<base64>)")
        else:
            found.append(parse_verifier_key(text))
    return found


def _keys_of_file(path: str) -> list[VerifierKey]:
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line for line in map(str.strip, file) if line and not line.startswith("#")]
        return [parse_verifier_key(line) for line in lines]
    except UnicodeDecodeError:
        raise BadKey(f"{path}: not text (hint: it holds verifier keys, a line each)") from None
    except BadKey as error:
        raise BadKey(f"{path}: {error}") from None


# -- journals -------------------------------------------------------------------------------------------------------


def _verify_journals(options: argparse.Namespace, keys: Keys) -> int:
    if not options.journals:
        return _say("name a journal, or --proof FILE")
    if not keys.logs:
        return _say("give the verifier key of the journal with --key (`keys new` printed it)")
    anchors = Anchors([], {})
    useless = [path for path in options.anchors if not read_anchors(path, functools.partial(_blocks, path), anchors)]
    paths = _directories(fetched(options.journals, evidence=True))
    progress = Progress("", after=PROGRESS_AFTER_SECONDS, shown=lambda size: format_bytes(int(size)))
    jobs = options.jobs or _cores()
    found = verify(paths, keys, anchors, lambda tasks: _run(tasks, jobs, progress))
    text = "holds no anchor: no checkpoint, and no head of a tree"
    found.findings += [Finding(Level.REMARK, "", f"{path} {text}") for path in useless]
    progress.end()
    if not paths:
        found.findings.append(Finding(Level.UNKNOWN, "", f"there are no segments in {', '.join(options.journals)}"))
    print(_as_json(found) if options.json else "\n".join(map(_plain, _as_text(found))))
    return CODES[found.result]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _directories(journals: Sequence[str]) -> list[str]:
    """Return the process directories that ``journals`` are, or have in them. Raises `OSError`."""
    found: dict[str, None] = {}
    for path in map(os.path.realpath, journals):
        names = os.listdir(path)
        if _is_one(names):
            found[path] = None
        for name in sorted(names):
            below = os.path.join(path, name)
            if os.path.isdir(below) and _is_one(_names(below)):
                found[below] = None
    return list(found)


def _names(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except FileNotFoundError:  # removed just now
        return []
    except PermissionError:
        if os.path.basename(path) == LOST_AND_FOUND:  # root's alone, on a volume of its own
            return []
        raise


def _is_one(names: list[str]) -> bool:
    return any(readable_number(name) is not None for name in names) or is_sealed(names)


def _run(tasks: Sequence[Task], jobs: int, progress: Progress) -> Iterator[Passed]:
    """Run tasks on as many cores as there are, the results in their order."""
    sizes = [sum(content_status(Files(), segment.path).bytes for segment in task.segments) for task in tasks]
    total, done = sum(sizes), 0
    with concurrent.futures.ProcessPoolExecutor(max_workers=max(1, min(jobs, len(tasks)))) as pool:
        is_worth_it = jobs > 1 and len(tasks) > 1 and total > PARALLEL_BYTES_MIN
        outcomes: Iterable[Passed] = pool.map(hashing.check, tasks) if is_worth_it else map(hashing.check, tasks)
        for passed, size in zip(outcomes, sizes, strict=True):
            done += size
            progress.show(done, total)
            yield passed


def _blocks(path: str) -> Iterator[bytes]:
    with open(path, "rb", buffering=0) as file:
        while block := file.read(BLOCK_BYTES):
            yield block


def _as_json(found: Verification) -> str:
    document = {
        "result": found.result,
        "directories": [asdict(one) for one in found.directories],
        "findings": [_finding(one) for one in found.findings],
    }
    return json.dumps(document, indent=2)


def _finding(one: Finding) -> dict[str, Any]:
    found = asdict(one) | {"level": one.level.value}
    return {name: value for name, value in found.items() if value not in ("", 0, None)}


def _as_text(found: Verification) -> Iterator[str]:
    by_directory: dict[str, list[Finding]] = {}
    for finding in found.findings:
        by_directory.setdefault(finding.directory, []).append(finding)
    for one in found.directories:
        yield from _directory(one, by_directory.pop(one.directory, []))
    for name, findings in by_directory.items():
        yield name or "beyond these directories"
        yield from (f"  {_marked(finding)}" for finding in findings)
    wrong = sum(finding.level is Level.WRONG for finding in found.findings)
    unknown = sum(finding.level is Level.UNKNOWN for finding in found.findings)
    entries = sum(one.sealed for one in found.directories)
    said = {
        "proved": f"{entries:,} entries under checkpoints",
        "not proved": f"{wrong} findings",
        "cannot tell": f"{unknown} findings",
    }
    yield f"{found.result}: {said[found.result]}, {len(found.directories)} directories"


def _plain(text: str) -> str:
    """Return text that no terminal obeys: names of directories and files are whatever somebody wanted."""
    return "".join(one if one.isprintable() else f"\\x{ord(one):02x}" for one in text)


def _directory(one: Proved, findings: Sequence[Finding]) -> Iterator[str]:
    yield f"{one.directory}{f'  ({one.origin})' if one.origin else ''}"
    is_wrong = any(finding.level is Level.WRONG for finding in findings)
    if one.sealed > one.first and not is_wrong:
        witnessed = f", those to {one.witnessed:,} cosigned by a witness" if one.witnessed else ""
        yield f"  entries {one.first + 1:,}-{one.sealed:,} are as signed{witnessed}"
    yield from (f"  {_marked(finding)}" for finding in findings)


def _marked(finding: Finding) -> str:
    mark = {Level.WRONG: "WRONG: ", Level.UNKNOWN: "cannot tell: ", Level.REMARK: ""}
    return f"{mark[finding.level]}{finding.text}"


# -- proofs ---------------------------------------------------------------------------------------------------------


def _verify_proofs(options: argparse.Namespace, keys: Keys) -> int:
    if not keys.logs:
        return _say("give the verifier key of the journal with --key (`keys new` printed it)")
    verdicts = [proving.verify_file(path, keys) for path in options.proof]
    if options.json:
        print(json.dumps([asdict(one) for one in verdicts], indent=2))
    else:
        for one in verdicts:
            print(_plain(one.text))
    codes = [CODES[one.result] for one in verdicts]
    return 1 if 1 in codes else max(codes)


def _say(problem: str) -> int:
    say(problem)
    return 2
