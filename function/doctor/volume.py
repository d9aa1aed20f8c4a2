"""The journal's volume: what kind it is, how fast, how full (pure)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .finding import Finding, fail, ok, skip, warn

__all__ = ["Mount", "Space", "kind", "mount_of", "space", "speed"]

INODES_FEW = 1000
FSYNC_SECONDS_SLOW = 0.05
# Half of the shipped webhook's timeout: with a review's other work, and a group's before it, too late.
FSYNC_SECONDS_TOO_SLOW = 0.5
_NETWORK = re.compile(r"(nfs\d?|cifs|smb\d?|9p|ceph|glusterfs|lustre|fuse\..*|fuse|virtiofs)")


class Mount(NamedTuple):
    """A line of /proc/self/mountinfo: the file system, and which of its folders is mounted."""

    point: str
    type: str
    root: str
    read_only: bool


class Space(NamedTuple):
    """Of a volume, in bytes; ``inodes_free`` is None where the file system has no such number.

    ``journal_bytes`` is what the journal has now, ``bound_bytes`` what it may have (0: no bound).
    """

    free_bytes: int
    inodes_free: int | None
    journal_bytes: int
    bound_bytes: int
    segment_bytes: int


def mount_of(mountinfo: str, path: str) -> Mount | None:
    """Return the mount that an absolute, real ``path`` is on, None where it is not said."""
    found = None
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, more = before.split(), after.split()
        if len(fields) < 6 or len(more) < 3:
            continue
        point = _unescaped(fields[4])
        is_on = path == point or path.startswith(point.rstrip("/") + "/")
        if is_on and (found is None or len(point) >= len(found.point)):  # of two at one place the last is in force
            options = {*fields[5].split(","), *more[2].split(",")}
            found = Mount(point, more[0], _unescaped(fields[3]), "ro" in options)
    return found


def kind(mount: Mount | None, *, is_forwarded: bool) -> Iterator[Finding]:
    """Yield what follows from the kind of volume."""
    if mount is None:
        yield skip("volume", "the system does not say which file system it is")
        return
    lasting = "mount a persistent volume, or forward (AUDIT_FORWARD_TO)"
    is_container = mount.type == "overlay"
    is_empty_dir = "/kubernetes.io~empty-dir/" in mount.root
    if mount.read_only:
        yield fail("volume", f"{mount.point} ({mount.type}) is mounted read-only", "mount it to be written")
    elif mount.type == "tmpfs":
        yield warn("volume", "is memory (tmpfs): its records are gone with the machine or the pod", lasting)
    elif is_container:
        yield warn("volume", "is the container's own layer: its records are gone with the container", lasting)
    elif is_empty_dir and not is_forwarded:
        yield warn("volume", f"is an emptyDir ({mount.type}): its records are gone with the pod", lasting)
    elif _NETWORK.fullmatch(mount.type):
        hint = "look at the fsync line; where locks are missing the heartbeat alone keeps directories (docs/journal.md)"
        yield warn("volume", f"is a network file system ({mount.type})", hint)
    else:
        yield ok("volume", f"{mount.type}, mounted at {mount.point}{', an emptyDir' if is_empty_dir else ''}")


def speed(seconds: Sequence[float], *, fsync: str) -> Finding:
    """Return what the durations of some writes with their fdatasync mean."""
    middle, worst = sorted(seconds)[len(seconds) // 2], max(seconds)
    text = f"{middle * 1e3:.2g} ms (the slowest of {len(seconds)}: {worst * 1e3:.2g} ms)"
    hint = "a faster volume, or AUDIT_FSYNC=everysec; docs/operations.md says what that can lose"
    if middle > FSYNC_SECONDS_TOO_SLOW and fsync == "always":
        return fail("fsync", f"{text}: reviews are not durable within the webhook's timeout of a second", hint)
    return warn("fsync", f"{text}: slow", hint) if middle > FSYNC_SECONDS_SLOW else ok("fsync", text)


def space(found: Space) -> Iterator[Finding]:
    """Yield whether the journal can grow to its bound."""
    free = _size(found.free_bytes)
    wanted = max(0, found.bound_bytes - found.journal_bytes) + 2 * found.segment_bytes
    if found.free_bytes < found.segment_bytes:
        hint = "make room: retention frees only the journal's own files (lower AUDIT_JOURNAL_BYTES_MAX)"
        yield fail("space", f"{free} free, less than one segment of {_size(found.segment_bytes)}", hint)
    elif not found.bound_bytes:
        yield warn("space", f"{free} free, and nothing bounds the journal", "set AUDIT_JOURNAL_BYTES_MAX")
    elif found.free_bytes < wanted:
        hint = "a larger volume, or a lower AUDIT_JOURNAL_BYTES_MAX"
        yield warn("space", f"{free} free, and the journal may still grow by {_size(wanted)}", hint)
    else:
        yield ok("space", f"{free} free; the journal has {_size(found.journal_bytes)} of {_size(found.bound_bytes)}")
    if found.inodes_free is not None and found.inodes_free < INODES_FEW:
        judged = warn if found.inodes_free > 10 else fail
        yield judged("inodes", f"{found.inodes_free} free", "remove small files: each segment needs an inode")


def _size(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB"


def _unescaped(text: str) -> str:
    """Return a field of mountinfo as it is: spaces and such are written as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
