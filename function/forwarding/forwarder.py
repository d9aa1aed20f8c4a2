"""Which directories are forwarded, by which workers; what is left; the end. One per process.

A forwarder takes the directories of its own host and those of dead writers at once, and another living writer's only
when nobody else has taken it for a while. A lease on each keeps every other forwarder off.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Collection, Sequence
from typing import Protocol

from ..journal import checkpoints
from ..journal.checkpoints import ARCHIVE, FORWARDING, START
from ..journal.content import content_status, is_compressed
from ..journal.evidence import is_sealed
from ..journal.files import Files
from ..journal.reader import Reader
from ..journal.segments import STALE_SECONDS, ProcessDirectory, directory_name, is_alive, scan
from ..record import reading
from .backlog import Backlog
from .backoff import Pace
from .lease import Lease
from .rejected import RejectedFile
from .sealed import CheckpointReader, is_through
from .sink import Sink
from .worker import Channel, Worker

__all__ = ["WITNESS", "Closed", "Forwarder", "SinkStatus", "Witness"]

log = logging.getLogger("audit.forward")


# Of a sink: counts since the start, what is behind now, and Unix times.
SinkStatus = dict[str, float]


# Before a witness's name, where sinks are listed too.
WITNESS = "witness "


class Witness(Protocol):
    """Who cosigns the newest checkpoint of ``directories`` (`witnesses.WitnessWorker`)."""

    name: str
    directories: tuple[str, ...]

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def join(self, seconds: float) -> bool: ...
    def status(self) -> SinkStatus: ...
    def is_through(self, directory: str) -> bool: ...


class Closed(Protocol):
    """Who archives and compresses the closed segments of ``directories`` (`closed_segments.ClosedSegments`)."""

    directories: tuple[str, ...]

    @property
    def failed(self) -> Exception | None: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    def start(self) -> None: ...
    def drain(self) -> None: ...
    def stop(self) -> None: ...
    def join(self, seconds: float) -> bool: ...
    def status(self) -> SinkStatus: ...
    def establish(self, state_directory: str) -> None: ...
    def left(self, directories: Sequence[str]) -> int: ...
    def is_through(self, directory: str) -> bool: ...


class _Directory:
    """A process directory that is ours to forward."""

    def __init__(self, path: str, state_directory: str, lease: Lease, files: Files) -> None:
        self.path = path
        self.name = os.path.basename(path)
        self.state_directory = state_directory
        self.lease = lease
        self.backlog = Backlog(path, files)
        self.channels: dict[str, Channel] = {}
        self.sealed: dict[str, Channel] = {}  # the same sinks' ways through the tree's checkpoints
        self.oldest: dict[str, tuple[checkpoints.Position, float]] = {}

    def of(self, sink: str) -> list[Channel]:
        """Return the channels of a sink."""
        return [channels[sink] for channels in (self.channels, self.sealed) if sink in channels]


class Forwarder:
    """Forwards ``journal_dir`` to ``sinks``. Call `tick` about once a second; `stop` at the end.

    ``everything`` takes every directory that is free, at once. ``host`` is our host's name. ``witnesses`` are asked to
    cosign the newest checkpoint of each directory; ``closed`` archives and compresses segments.
    """

    def __init__(
        self,
        journal_dir: str,
        sinks: Sequence[Sink],
        *,
        batch_seconds: float,
        everything: bool = False,
        host: str | None = None,
        files: Files | None = None,
        pace: Pace | None = None,
        witnesses: Sequence[Witness] = (),
        closed: Closed | None = None,
    ) -> None:
        self._witnesses = witnesses
        self._closed = closed
        self._journal_dir = journal_dir
        self._everything = everything
        self._host = _host_part(directory_name(host or socket.gethostname(), 0, "0" * 8))
        self._files = files or Files()
        self._workers = [
            Worker(
                sink, RejectedFile(journal_dir, sink.name, files=self._files), batch_seconds=batch_seconds, pace=pace
            )
            for sink in sinks
        ]
        self._directories: dict[str, _Directory] = {}
        self._finished: dict[str, tuple[int, int]] = {}  # dead writers' directories that need nothing any more
        self._seen: dict[str, float] = {}
        self.elsewhere = 0  # directories that another forwarder works on, or may yet

    def start(self) -> None:
        """Start a thread for each sink."""
        for worker in self._workers:
            worker.start()
        for witness in self._witnesses:
            witness.start()
        if self._closed:
            self._closed.start()

    def tick(self) -> None:
        """Look for directories, keep leases, count what is behind. Never raises `OSError`."""
        try:
            self._scan()
        except FileNotFoundError:
            pass  # no record yet
        except OSError as error:
            log.error("forward: cannot read %s: %s", self._journal_dir, error.strerror)
        for directory in list(self._directories.values()):
            try:
                kept = directory.lease.renew()
                if kept:
                    directory.backlog.measure()
            except FileNotFoundError:
                continue  # the next scan sees that it is gone
            except OSError as error:
                log.error("forward: cannot check %s: %s", directory.path, error.strerror)
                continue
            if not kept:
                log.error(
                    "forward: another forwarder took %s over",
                    directory.path,
                    extra={"hint": "this process was stopped for a minute, or the volume was"},
                )
                self._drop(directory)

        paths = tuple(one.path for one in self._directories.values())
        for witness in self._witnesses:
            witness.directories = paths
        if self._closed:
            self._closed.directories = paths

    def status(self) -> dict[str, SinkStatus]:
        """Return how each sink is doing."""
        sinks = {worker.sink.name: self._status_of(worker) for worker in self._workers}
        witnesses = {f"{WITNESS}{one.name}": one.status() for one in self._witnesses}
        return sinks | witnesses | ({ARCHIVE: self._closed.status()} if self._closed else {})

    def left(self) -> dict[str, int]:
        """Return how many records each sink has not settled yet."""
        return {worker.sink.name: self._behind(worker)[0] for worker in self._workers}

    def segments_left(self) -> int:
        """Return how many closed segments are not in the archive yet: one, where that cannot be seen now."""
        try:
            return self._closed.left([one.path for one in self._directories.values()]) if self._closed else 0
        except FileNotFoundError:
            return 0  # no record yet
        except OSError as error:
            log.error("forward: cannot read %s: %s", self._journal_dir, error.strerror or error)
            return 1

    def has_checkpoints_left(self, of: Sequence[Worker] | None = None) -> bool:
        """Return whether a sink has not settled all of the tree's checkpoints yet, or that cannot be seen now."""
        sinks = {worker.sink.name for worker in (self._workers if of is None else of)}
        try:
            return any(not self._has_checkpoints(directory, sinks) for directory in list(self._directories.values()))
        except OSError as error:
            log.error("forward: cannot read %s: %s", self._journal_dir, error.strerror or error)
            return True

    def is_counted(self) -> bool:
        """Return whether `left` is all there is."""
        return all(directory.backlog.complete for directory in self._directories.values())

    def failure(self) -> Exception | None:
        """Return why a sink, or the archive, cannot work at all."""
        failed: list[Exception | None] = [worker.failed for worker in self._workers]
        return next(filter(None, [*failed, self._closed.failed if self._closed else None]), None)

    def can_go_on(self) -> bool:
        """Return whether something is left for those that have not failed."""
        well = [worker for worker in self._workers if not worker.failed]
        if not self.is_counted() or any(self._behind(worker)[0] for worker in well):
            return True
        if self._closed and not self._closed.failed and self.segments_left():
            return True
        return bool(well) and self.has_checkpoints_left(well)

    def drain(self) -> None:
        """Send what is there, without waiting for batches to fill."""
        for worker in self._workers:
            worker.drain()
        if self._closed:
            self._closed.drain()

    def stop(self, seconds: float) -> None:
        """End the workers, waiting ``seconds`` at most, and give the leases back."""
        for worker in self._workers:
            worker.stop()
        for witness in self._witnesses:
            witness.stop()
        if self._closed:
            self._closed.stop()
        until = time.monotonic() + seconds
        for worker in self._workers:
            worker.join(max(0.0, until - time.monotonic()))
        for witness in self._witnesses:
            witness.join(max(0.0, until - time.monotonic()))
        if self._closed:
            self._closed.join(max(0.0, until - time.monotonic()))
        for directory in self._directories.values():
            directory.lease.release()

    # -- directories ------------------------------------------------------------------------------------------

    def _scan(self) -> None:
        self._remove_old_states()
        now = time.time()
        found = {os.path.basename(one.path): one for one in scan(self._files, self._journal_dir)}
        for name in self._directories.keys() - found.keys():
            self._drop(self._directories[name])
        self._finished = {name: last for name, last in self._finished.items() if name in found}
        self._seen = {name: since for name, since in self._seen.items() if name in found}
        self.elsewhere = 0
        for name, directory in found.items():
            try:
                if name in self._directories:
                    self._finish(self._directories[name], directory, now)
                elif self._finished.get(name) != _signature(self._files, directory):
                    self.elsewhere += not self._take(name, directory, now)
            except FileNotFoundError:
                continue  # retention was faster
            except OSError as error:  # of this one: the others go on
                self.elsewhere += name not in self._directories
                hint = "the others go on; does this process's user own it, and its directory in forwarding?"
                log.error(
                    "forward: cannot work on %s: %s", directory.path, error.strerror or error, extra={"hint": hint}
                )

    def _take(self, name: str, directory: ProcessDirectory, now: float) -> bool:
        """Take the directory, if it is free and for us; return whether it is ours now."""
        since = self._seen.setdefault(name, time.monotonic())
        if not (self._everything or _host_part(name) == self._host):  # noqa: SIM102 - reads in order
            if time.monotonic() - since < STALE_SECONDS and is_alive(self._files, directory, now):
                return False  # its own forwarder comes first
        state = checkpoints.state_directory(self._journal_dir, name)
        self._files.make_directories(state)
        lease = Lease(state, self._files)
        if not lease.take():
            return False
        try:
            mine = self._opened(directory.path, state, lease)
        except OSError:
            lease.release()  # or nobody could take it, and we neither, until it is stale
            raise
        try:
            self._forget_other_sinks(state)
            for channel in (*mine.channels.values(), *mine.sealed.values()):
                channel.establish()
            if self._closed:
                self._closed.establish(state)
        except OSError as error:  # a full volume: forwarding is not what should stop
            log.warning("forward: cannot write to %s: %s", state, error.strerror)
        for worker in self._workers:
            worker.channels = (*worker.channels, *mine.of(worker.sink.name))
        self._directories[name] = mine
        log.info("forward: working on %s", directory.path)
        return True

    def _opened(self, path: str, state: str, lease: Lease) -> _Directory:
        """Return what to read of a directory, by sink. Raises `OSError`."""
        mine = _Directory(path, state, lease, self._files)
        for worker in self._workers:
            mine.channels[worker.sink.name] = Channel(path, state, worker.sink.name, self._files)
        if self._is_sealed(path):
            for worker in self._workers:
                name = worker.sink.name
                mine.sealed[name] = Channel(path, state, name, self._files, CheckpointReader)
        return mine

    def _forget_other_sinks(self, state: str) -> None:
        """Remove the checkpoints of sinks that are not configured any more: retention would wait for them."""
        sinks = (*(worker.sink.name for worker in self._workers), *(self._closed.names if self._closed else ()))
        names = {f"{name}.json" for name in sinks}
        for name in self._files.names(state):
            if name.endswith(".json") and name not in names:
                log.warning("forward: forgetting the checkpoint %s/%s: no such sink is configured", state, name)
                self._files.remove(os.path.join(state, name))

    def _finish(self, mine: _Directory, directory: ProcessDirectory, now: float) -> None:
        """Give a dead writer's directory back when nothing in it is left to do."""
        if is_alive(self._files, directory, now):
            return
        mine.backlog.measure()
        if not mine.backlog.complete or any(mine.backlog.behind(one.position)[0] for one in mine.channels.values()):
            return
        if not self._is_sealed_through(mine) or (self._closed and not self._closed.is_through(mine.path)):
            return
        self._finished[mine.name] = mine.backlog.signature()
        log.info("forward: finished %s", mine.path)
        self._drop(mine)

    def _is_sealed(self, path: str) -> bool:
        try:
            return is_sealed(self._files.names(path))
        except FileNotFoundError:
            return False

    def _is_sealed_through(self, mine: _Directory) -> bool:
        """Return whether every sink has all checkpoints of the directory, and every witness has cosigned the newest."""
        sinks = {worker.sink.name for worker in self._workers}
        return self._has_checkpoints(mine, sinks) and all(witness.is_through(mine.path) for witness in self._witnesses)

    def _has_checkpoints(self, mine: _Directory, sinks: Collection[str]) -> bool:
        positions = [channel.position for sink, channel in mine.sealed.items() if sink in sinks]
        try:
            return all(is_through(self._files, mine.path, one.segment, one.offset) for one in positions)
        except FileNotFoundError:
            return True  # retention was faster

    def _drop(self, mine: _Directory) -> None:
        for worker in self._workers:
            for channel in mine.of(worker.sink.name):
                channel.given_up = True
                worker.channels = tuple(one for one in worker.channels if one is not channel)
                worker.retired.append(channel)
        mine.lease.release()
        del self._directories[mine.name]

    def _remove_old_states(self) -> None:
        """Remove what was kept about directories that retention has removed."""
        root = os.path.join(self._journal_dir, FORWARDING)
        try:
            names = self._files.names(root)
        except FileNotFoundError:
            return
        for name in names:
            state = os.path.join(root, name)
            if name in self._directories or os.path.exists(os.path.join(self._journal_dir, name)):
                continue
            with contextlib.suppress(OSError):  # another forwarder does the same
                lease = Lease(state, self._files)
                if lease.take():
                    try:
                        for file in self._files.names(state):
                            self._files.remove(os.path.join(state, file))
                    finally:
                        lease.release()
                    self._files.remove_directory(state)

    # -- status -----------------------------------------------------------------------------------------

    def _behind(self, worker: Worker) -> tuple[int, int]:
        records = size = 0
        for directory in self._directories.values():
            behind = directory.backlog.behind(directory.channels[worker.sink.name].position)
            records += behind[0]
            size += behind[1]
        return records, size

    def _status_of(self, worker: Worker) -> SinkStatus:
        records, size = self._behind(worker)
        tally = worker.tally
        return {
            "forwarded": tally.forwarded,
            "retried": tally.retried,
            "rejected": tally.rejected.total(),
            **{f"rejected_{reason}": count for reason, count in tally.rejected.items()},
            "truncated": tally.truncated,
            "lost": tally.lost,
            "last_success": tally.last_success,
            "lag_records": records,
            "lag_bytes": size,
            "lag_seconds": self._oldest(worker.sink.name) if records else 0.0,
        }

    def _oldest(self, sink: str) -> float:
        """Return how old the oldest record is that ``sink`` has not settled, in seconds."""
        received = [self._next_received(one, sink) for one in self._directories.values()]
        known = [seconds for seconds in received if seconds]
        return max(0.0, time.time() - min(known)) if known else 0.0

    def _next_received(self, directory: _Directory, sink: str) -> float:
        position = directory.channels[sink].position
        if not directory.backlog.behind(position)[0]:
            return 0.0
        known = directory.oldest.get(sink, (START, 0.0))
        if known[0] != position or not known[1]:
            known = directory.oldest[sink] = (position, self._received(directory.path, position))
        return known[1]

    def _received(self, path: str, position: checkpoints.Position) -> float:
        """Return when the first record behind ``position`` was received, 0 where that is unknown."""
        reader = Reader(path, position, self._files)
        with contextlib.suppress(OSError, reading.NotARecord, IndexError):
            try:
                return reading.read(reader.read(1)[0].data).received_ns / 1e9
            finally:
                reader.close()
        return 0.0


def _host_part(name: str) -> str:
    return name.rsplit("-", 2)[0]


def _signature(files: Files, directory: ProcessDirectory) -> tuple[int, int]:
    last = directory.segments[-1] if directory.segments else None
    if last and is_compressed(last.path):
        with contextlib.suppress(FileNotFoundError):  # retention was faster
            return last.number, content_status(files, last.path).bytes
    return (last.number, last.bytes) if last else (0, 0)
