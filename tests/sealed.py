"""Sealed journals for tests: written by the real writer, sealer and retention, without a server around them."""

from __future__ import annotations

import os
import pathlib
import time

from faults import Counted

from function.evidence import hashing
from function.evidence.anchors import Anchors
from function.evidence.log import Keys, Level
from function.evidence.verification import verify
from function.journal import Limits, Retention, Writer
from function.journal.files import Files
from function.journal.sealing import Sealer
from function.journal.segments import LOCK
from function.journal.statements import Statements
from function.transparency.keys import SignerKey

NAME = "example.com/audit"
KEY = SignerKey(NAME, bytes(range(32)))
NEW_KEY = SignerKey(NAME, bytes(range(1, 33)))
OTHER_KEY = SignerKey(NAME, bytes(range(2, 34)))


class Observed(Counted):
    """Counts what the journal and its sealing tell."""

    def __init__(self):
        super().__init__()
        self.checkpoints = []
        self.seal_failures = []

    def sealed(self, entries):
        self.checkpoints.append(entries)

    def seal_failed(self, reason):
        self.seal_failures.append(reason)


class SealedJournal:
    """One process that writes; ``heads`` are those of answers: (entries, root, directory) as annotations have them."""

    def __init__(
        self,
        path,
        *,
        signers=(KEY,),
        files=None,
        seconds=0.0,
        every_second=False,
        segment_bytes=300,
        bytes_max=0,
        now=time.time,
    ):
        self.path = pathlib.Path(path)
        self.signers = tuple(signers)
        self.observer = Observed()
        self.sealer = Sealer(lambda: self.signers, cluster="prod", seconds=seconds, observer=self.observer, files=files)
        self.limits = Limits(segment_bytes, 0, bytes_max, 0)
        self.writer = Writer(
            str(path), host="host", limits=self.limits, every_second=every_second, observer=self.observer,
            files=files, sealer=self.sealer, now=now,
        )  # fmt: skip
        self.heads = []
        self.confirmed = []
        self.writer.tick()

    def store(self, *lines):
        """Store a group as the journal's thread does; return how many were confirmed."""
        stored = self.writer.store(list(lines))
        if stored:
            edge = self.writer.edge
            self.heads.append((edge.size, edge.root(), os.path.basename(self.writer.directory)))
        self.confirmed += lines[:stored]
        self.writer.tick()
        return stored

    def close(self):
        self.writer.close()

    def kill(self):
        """End as SIGKILL does: nothing more is written; the lock is free."""
        for fd in (self.writer._lock_fd, self.writer._segment and self.writer._segment.fd):
            if fd is not None:
                os.close(fd)
        self.sealer.abandon()
        if self.writer.directory and os.path.exists(f"{self.writer.directory}/{LOCK}"):
            age(self.writer.directory)


def age(directory):
    """Make the writer's heartbeat old: it is dead."""
    old = time.time() - 1000
    os.utime(f"{directory}/{LOCK}", (old, old))


def sweep(path, *, signers=(KEY,), bytes_max=0, age_max=0, own=None, instance="", files=None):
    """Adopt and remove as retention does."""
    limits = Limits(300, 0, bytes_max, age_max)
    statements = Statements(lambda: signers, host="other", instance=instance, files=files)
    retention = Retention(
        str(path), limits, Counted(), own_directory=lambda: own, statements=statements, files=files or Files()
    )
    retention.sweep()


def directories(path):
    if not os.path.exists(path):
        return []
    return sorted(str(one) for one in pathlib.Path(path).iterdir() if "-20" in one.name and one.is_dir())


def verified(path, *, keys=(KEY,), old=(), anchors=None, paths=None):
    """Return the verification of all directories of a journal."""
    known = Keys([key.verifier for key in keys], [key.verifier for key in old])
    return verify(
        paths or directories(path), known, anchors or Anchors([], {}), lambda tasks: map(hashing.check, tasks)
    )


def wrong(found):
    return [finding for finding in found.findings if finding.level is Level.WRONG]


def line(number, size=40):
    return b'{"record":%d,"filling":"%s"}\n' % (number, b"x" * size)
