"""One sink's thread: batches from every directory it is given, until each record is confirmed or set aside."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from ..journal import checkpoints
from ..journal.checkpoints import START, Position
from ..journal.files import Files
from ..journal.reader import Line, Reader
from ..record import reading
from ..record.reading import Record
from ..record.truncation import STEPS, truncated
from .rejected import RejectedFile
from .sink import Delivered, Outcome, Payload, Refused, Rejected, Retry, Sink, SinkError, TooLarge

__all__ = ["Pace", "Tally", "Worker"]

log = logging.getLogger("audit.forward")  # of each sink, a child: one must not hide another as a repetition

# A backend that asks for more is asked again all the same.
RETRY_AFTER_SECONDS_MAX = 300.0
# With more directories than this none keeps what it has read ahead: memory stays bounded.
READ_AHEAD_CHANNELS_MAX = 4


class Pace(NamedTuple):
    """How often a worker looks, and tries again: seconds."""

    poll: float = 0.2
    backoff_min: float = 0.25
    backoff_max: float = 30.0
    drain_backoff_max: float = 1.0


class Tally:
    """What became of records, since the worker started; read by other threads."""

    def __init__(self) -> None:
        self.forwarded = 0
        self.retried = 0
        self.rejected = 0
        self.truncated = 0
        self.lost = 0  # rejected records that had to make room
        self.last_success = 0.0  # Unix time


class _Item:
    """A record on its way: ``payload`` is None where it was ``refused`` before it could be sent."""

    __slots__ = ("done", "line", "payload", "record", "refused", "step")

    def __init__(self, line: Line, record: Record | None, payload: Payload | None, step: int, refused: str) -> None:
        self.line = line
        self.record = record
        self.payload = payload
        self.step = step
        self.refused = refused
        self.done = False


class Channel:
    """One sink's way through one process directory: where it is, and what it has read ahead."""

    def __init__(self, directory: str, state_directory: str, sink: str, files: Files) -> None:
        self.directory = directory
        self._files = files
        self._checkpoint = os.path.join(state_directory, f"{sink}.json")
        self.position = checkpoints.read(files, self._checkpoint) or START
        self.reader = Reader(directory, self.position, files)
        self.lines: deque[Line] = deque()
        self.size = 0
        self.since = 0.0  # when the first of ``lines`` was read
        self.given_up = False  # the directory is another's now

    def fill(self, size_max: int) -> None:
        """Read ahead until about ``size_max`` bytes wait. Raises `OSError`."""
        while self.size < size_max:
            lines = self.reader.read(size_max - self.size)
            if not lines:
                return
            if not self.lines:
                self.since = time.monotonic()
            self.lines += lines
            self.size += sum(len(line.data) for line in lines)

    def take(self) -> Line:
        """Return the next line; it is the caller's to confirm."""
        line = self.lines.popleft()
        self.size -= len(line.data)
        return line

    def confirm(self, position: Position) -> None:
        """Remember that everything before ``position`` is settled."""
        if position == self.position or self.given_up:
            return
        self.position = position
        try:
            checkpoints.write(self._files, self._checkpoint, position)
        except OSError as error:
            hint = "duplicates with the same ids follow if the forwarder restarts now; free space on the volume"
            log.error("forward: cannot write %s: %s", self._checkpoint, error.strerror, extra={"hint": hint})

    def rewind(self) -> None:
        """Forget what was read ahead."""
        self.reader.close()
        self.reader = Reader(self.directory, self.position, self._files)
        self.lines.clear()
        self.size = 0

    def establish(self) -> None:
        """Write the first checkpoint: retention sees by it that this sink exists. Raises `OSError`."""
        if checkpoints.read(self._files, self._checkpoint) is None:
            checkpoints.write(self._files, self._checkpoint, self.position)


class Worker:
    """Forwards to one sink. Give it `channels`; it takes what comes in them, one batch after the other."""

    def __init__(self, sink: Sink, rejected: RejectedFile, *, batch_seconds: float, pace: Pace | None = None) -> None:
        self._pace = pace or Pace()
        self.sink = sink
        self.tally = Tally()
        self.channels: tuple[Channel, ...] = ()
        self.retired: deque[Channel] = deque()  # to be closed by the thread that reads them
        self.failed: SinkError | None = None
        self._log = log.getChild(sink.name)
        self._rejected = rejected
        self._batch_seconds = batch_seconds
        self._wake = threading.Event()
        self._stopping = self._draining = False
        self._thread = threading.Thread(target=self._run, name=f"audit-forward-{sink.name}", daemon=True)

    def start(self) -> None:
        """Start forwarding."""
        self._thread.start()

    def drain(self) -> None:
        """Wait for no batch to fill, and for nothing long."""
        self._draining = True
        self._wake.set()

    def stop(self) -> None:
        """End after what is being sent now."""
        self._stopping = True
        self._wake.set()

    def join(self, seconds: float) -> bool:
        """Return whether the thread has ended within ``seconds``."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    # -- the loop ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        backoff = _Backoff(self._pace)
        while not self._stopping:
            try:
                self.sink.open()
                self.failed = None
                self._forward()
            except SinkError as error:
                self.failed = error
                self._log.error("forward: %s cannot work: %s", self.sink.name, error, extra={"hint": error.hint})
            except ConnectionError as error:
                self._log.warning("forward: %s is not there yet: %s", self.sink.name, error)
            except Exception:  # noqa: BLE001 - logged; one sink's mistake must not end the others: it starts again
                self._log.exception("forward: internal error while forwarding to %s", self.sink.name)
            finally:
                with contextlib.suppress(Exception):  # nothing of it matters any more
                    self.sink.close()
            if not self._stopping:
                self._pause(backoff.next(self._backoff_max()))

    def _forward(self) -> None:
        for channel in self.channels:
            channel.rewind()
        while not self._stopping:
            if not self._round():
                self._pause(self._pace.poll)

    def _round(self) -> bool:
        """Send one batch of each channel that has one; return whether there was any."""
        busy = False
        while self.retired:
            self.retired.popleft().reader.close()
        for channel in self.channels:
            if self._stopping:
                break
            try:
                channel.fill(self.sink.bounds.bytes_max)
            except OSError as error:
                hint = "it will be retried; check the volume"
                self._log.error("forward: cannot read %s: %s", channel.directory, error.strerror, extra={"hint": hint})
            if self._is_due(channel):
                busy = True
                self._deliver(channel, self._batch(channel))
                if len(self.channels) > READ_AHEAD_CHANNELS_MAX:
                    channel.rewind()
        return busy

    def _is_due(self, channel: Channel) -> bool:
        if not channel.lines:
            return False
        bounds = self.sink.bounds
        full = len(channel.lines) >= bounds.records_max or channel.size >= bounds.bytes_max
        return full or self._draining or time.monotonic() - channel.since >= self._batch_seconds

    def _batch(self, channel: Channel) -> list[_Item]:
        """Take from ``channel`` what goes together."""
        bounds = self.sink.bounds
        items: list[_Item] = []
        size = 0
        while channel.lines and len(items) < bounds.records_max:
            item = self._encoded(channel.lines[0])
            item_size = item.payload.size if item.payload else 0
            if items and size + item_size > bounds.bytes_max:
                break
            channel.take()
            items.append(item)
            size += item_size
        channel.since = time.monotonic() - self._batch_seconds  # what is left has waited
        return items

    def _encoded(self, line: Line) -> _Item:
        try:
            record = reading.read(line.data)
        except reading.NotARecord as error:
            return _Item(line, None, None, 0, str(error))
        return self._cut_down(_Item(line, record, None, 0, ""), record)

    def _cut_down(self, item: _Item, record: Record) -> _Item:
        """Encode ``record`` into ``item``, with as much of it as the backend takes from ``item.step`` on."""
        while True:
            try:
                cut = truncated(record, item.step) if item.step else record
                item.payload = self.sink.encode(cut)
            except TooLarge:
                item.payload = None
                if item.step == STEPS:
                    item.refused = "too large for the backend, even without its objects"
                    return item
                item.step += 1
            except (ValueError, RecursionError) as error:
                item.refused = f"cannot be converted: {type(error).__name__}"
                return item
            else:
                return item

    def _deliver(self, channel: Channel, items: list[_Item]) -> None:
        """Send ``items`` until each is delivered or set aside; confirm them as they are settled, in order."""
        backoff = _Backoff(self._pace)
        unsettled = items
        while True:
            retries = self._send_once(unsettled)
            settled = [item for item in unsettled if item.done]
            unsettled = [item for item in unsettled if not item.done]
            self._confirm(channel, items)
            if not unsettled:
                return
            self.tally.retried += len(unsettled)
            if settled:
                backoff = _Backoff(self._pace)
            after = min(RETRY_AFTER_SECONDS_MAX, max((retry.after for retry in retries), default=0.0))
            seconds = max(backoff.next(self._backoff_max()), after)
            self._log.warning(
                "forward: %s is not taking records (%s): %d will be retried",
                self.sink.name,
                retries[0].reason if retries else "unknown",
                len(unsettled),
                extra={"hint": "they stay in the journal and are retried until the sink takes them"},
            )
            self._pause(seconds)
            if self._stopping or channel.given_up:
                return

    def _send_once(self, items: list[_Item]) -> list[Retry]:
        """Send ``items`` once; mark those that are settled, and return why the others are not."""
        retries = [retry for item in items if item.refused and (retry := self._set_aside(item, item.refused))]
        sendable = [item for item in items if item.payload is not None and not item.refused]
        outcomes = self._send(sendable) if sendable else []
        for item, outcome in zip(sendable, outcomes, strict=True):
            if isinstance(outcome, Delivered):
                item.done = True
                self.tally.forwarded += 1
                self.tally.truncated += item.step > 0
            elif isinstance(outcome, Rejected):
                if retry := self._set_aside(item, outcome.reason):
                    retries.append(retry)
            else:
                retries.append(outcome)
        if any(isinstance(outcome, Delivered) for outcome in outcomes):
            self.tally.last_success = time.time()
        return retries

    def _send(self, items: Sequence[_Item]) -> list[Outcome]:
        """Send one batch; where it is refused as a whole, find out which record it is."""
        try:
            return self.sink.send([item.payload for item in items if item.payload is not None])
        except Refused as refused:
            if len(items) > 1:
                return self._send_halves(items)
            return [self._send_less(items[0], refused)]

    def _send_halves(self, items: Sequence[_Item]) -> list[Outcome]:
        """Send both halves, the second not before the first is settled: a refused batch keeps its order."""
        middle = len(items) // 2
        first = self._send(items[:middle])
        waiting = next((outcome for outcome in first if isinstance(outcome, Retry)), None)
        if waiting is not None:
            return [*first, *[waiting] * (len(items) - middle)]
        return [*first, *self._send(items[middle:])]

    def _send_less(self, item: _Item, refused: Refused) -> Outcome:
        """Cut down a record that the backend finds too large; what it refuses otherwise is rejected."""
        if not refused.too_large or item.record is None or item.step == STEPS:
            return Rejected(refused.reason)
        item.step += 1
        self._cut_down(item, item.record)
        if item.payload is None:
            return Rejected(item.refused)
        return self._send([item])[0]

    def _set_aside(self, item: _Item, reason: str) -> Retry | None:
        """Put a record that is refused for good into the file of rejected ones; return why that cannot be done."""
        record_id = item.record.id if item.record else ""
        try:
            self.tally.lost += self._rejected.add(item.line.data, record_id, reason)
        except OSError as error:
            return Retry(f"cannot write {self._rejected.path}: {error.strerror}")
        item.done = True
        self.tally.rejected += 1
        self._log.error(
            "forward: %s rejected a record for good; it was set aside",
            self.sink.name,
            extra={"hint": f"see {self._rejected.path}", "details": record_id},
        )
        return None

    def _confirm(self, channel: Channel, items: list[_Item]) -> None:
        last = None
        for item in items:
            if not item.done:
                break
            last = item
        if last is not None:
            channel.confirm(last.line.end())

    def _pause(self, seconds: float) -> None:
        if self._wake.wait(seconds):
            self._wake.clear()

    def _backoff_max(self) -> float:
        return self._pace.drain_backoff_max if self._draining else self._pace.backoff_max


class _Backoff:
    """Exponential backoff with full jitter: many forwarders must not come back at the same moment."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._bound = pace.backoff_min

    def next(self, maximum: float) -> float:
        """Return how long to wait this time, in seconds."""
        bound = min(self._bound, maximum)
        self._bound = min(self._bound * 2, self._pace.backoff_max)
        return random.uniform(0, bound)  # noqa: S311 - not for secrets
