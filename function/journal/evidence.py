"""What lies beside the segments when a journal is sealed: names, and reading it back. docs/evidence.md is the format.

Bytes only: nothing is parsed or verified here.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, field

from .files import Files, write_all

__all__ = [
    "ADOPTION",
    "Evidence",
    "checkpoints_name",
    "checkpoints_number",
    "cosigned_name",
    "is_sealed",
    "of_segment",
    "proof_name",
    "read_evidence",
    "retention_name",
    "statement_name",
    "write_whole",
]

ADOPTION = "adoption.statement"

_OF_SEGMENT = re.compile(r"audit-([0-9]{20})(?:-[0-9]{1,6})?\.(checkpoints|tlog-proof|statement)")
_RETENTION = re.compile(r"retention-[0-9a-f]{8}\.statement")
_COSIGNED = re.compile(r"witness-[0-9a-f]{8}\.checkpoint")
_FILE_BYTES_MAX = 256 << 20


@dataclass
class Evidence:
    """Of one process directory. By number of segment: the notes in its files, as they are."""

    checkpoints: dict[int, list[bytes]] = field(default_factory=dict)  # contents of files, in the order of their parts
    proofs: dict[int, bytes] = field(default_factory=dict)
    statements: dict[int, bytes] = field(default_factory=dict)
    retention: list[bytes] = field(default_factory=list)
    adoption: bytes = b""
    cosigned: list[bytes] = field(default_factory=list)

    def is_empty(self) -> bool:
        """Whether nothing says that this directory was ever sealed."""
        return not (self.checkpoints or self.proofs or self.statements or self.retention or self.adoption)


def checkpoints_name(number: int, part: int = 0) -> str:
    """Return the name of the file with the checkpoints that were signed while segment ``number`` was the newest.

    Where a file failed, the next ``part`` goes on.
    """
    return f"audit-{number:020d}{f'-{part}' if part else ''}.checkpoints"


def checkpoints_number(name: str) -> int | None:
    """Return the segment's number in the name of a file of checkpoints, None where it is another file's."""
    match = _OF_SEGMENT.fullmatch(name)
    return int(match[1]) if match and match[2] == "checkpoints" else None


def proof_name(number: int) -> str:
    """Return the name of the proof of the last entry of segment ``number``: the tree's edge there."""
    return f"audit-{number:020d}.tlog-proof"


def statement_name(number: int) -> str:
    """Return the name of the statement that segment ``number`` has ended."""
    return f"audit-{number:020d}.statement"


def retention_name(instance: str) -> str:
    """Return the name of what one process's retention says it removed; ``instance`` is eight hexadecimal digits."""
    return f"retention-{instance}.statement"


def cosigned_name(key_id: bytes) -> str:
    """Return the name of the newest checkpoint that a witness cosigned."""
    return f"witness-{key_id.hex()}.checkpoint"


def is_sealed(names: list[str]) -> bool:
    """Return whether a process directory with these names in it was ever sealed."""
    return any(_OF_SEGMENT.fullmatch(name) or name == ADOPTION or _RETENTION.fullmatch(name) for name in names)


def read_evidence(files: Files, directory: str) -> Evidence:
    """Return what is there. What vanishes meanwhile is left out. Raises `OSError`."""
    found = Evidence()
    for name in sorted(files.names(directory), key=lambda name: (len(name), name)):
        match = _OF_SEGMENT.fullmatch(name)
        if not (match or name == ADOPTION or _RETENTION.fullmatch(name) or _COSIGNED.fullmatch(name)):
            continue
        with contextlib.suppress(FileNotFoundError):
            content = files.tail(f"{directory}/{name}", _FILE_BYTES_MAX)
            if match:
                _take(found, int(match[1]), match[2], content)
            elif name == ADOPTION:
                found.adoption = content
            elif _RETENTION.fullmatch(name):
                found.retention.append(content)
            else:
                found.cosigned.append(content)
    return found


def _take(found: Evidence, number: int, kind: str, content: bytes) -> None:
    if kind == "checkpoints":
        found.checkpoints.setdefault(number, []).append(content)
    elif kind == "tlog-proof":
        found.proofs[number] = content
    else:
        found.statements[number] = content


def of_segment(files: Files, directory: str, number: int) -> list[str]:
    """Return the names of the files that prove segment ``number``, and that of the adoption, where they are there.

    None of them changes any more when the segment is closed. Raises `OSError`.
    """
    names = sorted(files.names(directory))
    matches = [(name, _OF_SEGMENT.fullmatch(name)) for name in names]
    return [name for name, match in matches if name == ADOPTION or (match and int(match[1]) == number)]


def write_whole(files: Files, path: str, data: bytes) -> None:
    """Write the file ``path`` with ``data``, durably and as a whole or not at all. Raises `OSError`."""
    temporary = f"{path}.tmp"
    fd = files.open_to_replace(temporary)
    try:
        try:
            write_all(files, fd, data)
            files.datasync(fd)
        finally:
            files.close(fd)
    except OSError:
        with contextlib.suppress(OSError):  # a file that could not be synced is not to be tried again
            files.remove(temporary)
        raise
    files.rename(temporary, path)
    files.sync_directory(path.rpartition("/")[0])
