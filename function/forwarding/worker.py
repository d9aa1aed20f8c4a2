"""One sink's thread: batches from every directory it is given, until each record is confirmed or set aside."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Sequence

from ..journal import checkpoints
from ..journal.checkpoints import START, Position
from ..journal.files import Files
from ..journal.reader import Line, Reader
from .background import Background
from .backoff import Backoff, Pace
from .delivery import Delivery, Item
from .rejected import RejectedFile
from .sink import Sink, SinkError

__all__ = ["Channel", "Worker"]

log = logging.getLogger("audit.forward")  # of each sink, a child: one must not hide another as a repetition

# With more directories than this none keeps what it has read ahead: memory stays bounded.
READ_AHEAD_CHANNELS_MAX = 4


class Channel:
    """One sink's way through one process directory: where it is, and what it has read ahead."""

    def __init__(
        self, directory: str, state_directory: str, sink: str, files: Files, reader: type[Reader] = Reader
    ) -> None:
        self.directory = directory
        self._files = files
        self._reader = reader
        # What is not a record of the journal has no say in what retention keeps: it looks for .json.
        self._checkpoint = os.path.join(state_directory, f"{sink}.{'json' if reader is Reader else 'sealed'}")
        self.position = checkpoints.read(files, self._checkpoint) or START
        self.reader = reader(directory, self.position, files)
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
        self.reader = self._reader(self.directory, self.position, self._files)
        self.lines.clear()
        self.size = 0

    def establish(self) -> None:
        """Write the first checkpoint: retention sees by it that this sink exists. Raises `OSError`."""
        if checkpoints.read(self._files, self._checkpoint) is None:
            checkpoints.write(self._files, self._checkpoint, self.position)


class Worker(Background):
    """Forwards to one sink. Give it `channels`; it takes what comes in them, one batch after the other."""

    def __init__(self, sink: Sink, rejected: RejectedFile, *, batch_seconds: float, pace: Pace | None = None) -> None:
        super().__init__(f"audit-forward-{sink.name}", pace)
        self.sink = sink
        self.channels: tuple[Channel, ...] = ()
        self.retired: deque[Channel] = deque()  # to be closed by the thread that reads them
        self.failed: SinkError | None = None
        self._log = log.getChild(sink.name)
        self._delivery = Delivery(sink, rejected, self._pace, self._log)
        self.tally = self._delivery.tally
        self._batch_seconds = batch_seconds

    # -- the loop ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        backoff = Backoff(self._pace)
        while not self._stopping:
            before = self.tally.forwarded
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
            if self.tally.forwarded > before:
                backoff.reset()
            if not self._stopping:
                self.pause(backoff.next(self.backoff_max()))

    def _forward(self) -> None:
        for channel in self.channels:
            channel.rewind()
        while not self._stopping:
            if not self._round():
                self.pause(self._pace.poll)

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
                self._deliver(channel)
                if len(self.channels) > READ_AHEAD_CHANNELS_MAX:
                    channel.rewind()
        return busy

    def _is_due(self, channel: Channel) -> bool:
        if not channel.lines:
            return False
        bounds = self.sink.bounds
        full = len(channel.lines) >= bounds.records_max or channel.size >= bounds.bytes_max
        return full or self._draining or time.monotonic() - channel.since >= self._batch_seconds

    def _deliver(self, channel: Channel) -> None:
        items = self._batch(channel)
        self._delivery.deliver(items, _Batch(self, channel, items))

    def _batch(self, channel: Channel) -> list[Item]:
        """Take from ``channel`` what goes together."""
        bounds = self.sink.bounds
        items: list[Item] = []
        size = 0
        while channel.lines and len(items) < bounds.records_max:
            item = self._delivery.encoded(channel.lines[0])
            item_size = item.payload.size if item.payload else 0
            if items and size + item_size > bounds.bytes_max:
                break
            channel.take()
            items.append(item)
            size += item_size
        channel.since = time.monotonic() - self._batch_seconds  # what is left has waited
        return items

    def is_stopping(self) -> bool:
        """Return whether to end."""
        return self._stopping


class _Batch:
    """The `delivery.Caller` of the records that were taken from a channel together."""

    def __init__(self, worker: Worker, channel: Channel, items: Sequence[Item]) -> None:
        self._worker = worker
        self._channel = channel
        self._items = items
        self.backoff_max = worker.backoff_max

    def confirm(self) -> None:
        """Confirm what is settled, up to the first that is not."""
        last = None
        for item in self._items:
            if not item.done:
                break
            last = item
        if last is not None:
            self._channel.confirm(last.line.end())

    def pause(self, seconds: float) -> bool:
        """Wait; return whether the batch is still ours to send."""
        self._worker.pause(seconds)
        return not (self._worker.is_stopping() or self._channel.given_up)

    def others(self) -> Sequence[Line]:
        """Return what was read ahead, and reads what has come meanwhile."""
        with contextlib.suppress(OSError):  # the next round says so
            self._channel.fill(self._worker.sink.bounds.bytes_max)
        return list(self._channel.lines)
