"""A batch to one sink, until each of its records is delivered or set aside.

Two things keep a sink from taking a batch, and they look alike: the backend is down, or one record makes it fail. A
record that was delivered before tells them apart: while it does not pass either, nothing is judged and nothing is set
aside. While it passes, the batch is halved until one record is left, and that one is set aside when it fails alone
again and again.
"""

from __future__ import annotations

import collections
import logging
import time
from collections.abc import Sequence
from typing import Protocol

from ..journal.reader import Line
from ..record import reading
from ..record.reading import Record
from ..record.truncation import STEPS, truncated
from .backoff import Backoff, Pace
from .rejected import RejectedFile
from .sink import Delivered, Outcome, Payload, Refused, Rejected, Retry, Sink, TooLarge

__all__ = ["REJECTED_REASONS", "Caller", "Delivery", "Item", "Tally"]

# Why a record was set aside: refused by the backend, too large for it in any form, no record at all, or failing
# (5xx, a cut connection) while others pass.
REJECTED_REASONS = ("failing", "refused", "too_large", "unreadable")

# A backend that asks for more is asked again all the same.
RETRY_AFTER_SECONDS_MAX = 300.0
# As many attempts with nothing taken are bad luck; after that it is asked what the matter is.
FAILURES_MAX = 3
# As many times a record must fail alone, each time right after another record passed twice: by chance that is one in
# 100,000 where half of all answers fail, and less where fewer or more do.
STRIKES = 6
# Where nothing was delivered yet, no record is known to pass. After as many failures (half a minute of them) the
# records behind the first are tried, each fourth time.
ALONE_MIN, ALONE_STEP = 16, 4
# A larger record is not kept to tell whether the backend is there.
KNOWN_BYTES_MAX = 64 << 10
# Progress is written down this often, and before a pause longer than that; a killed forwarder sends it again.
CONFIRM_SECONDS = 0.2
# A shorter pause is not worth a line in the log.
LOGGED_SECONDS = 0.1


class Tally:
    """What became of records, since the worker started; read by other threads."""

    def __init__(self) -> None:
        self.forwarded = 0
        self.retried = 0
        self.rejected: collections.Counter[str] = collections.Counter(dict.fromkeys(REJECTED_REASONS, 0))
        self.truncated = 0
        self.lost = 0  # rejected records that had to make room
        self.last_success = 0.0  # Unix time


class Caller(Protocol):
    """Whose batch it is."""

    def confirm(self) -> None:
        """Write down what is settled."""

    def pause(self, seconds: float) -> bool:
        """Wait; return whether to go on."""

    def backoff_max(self) -> float:
        """Return the longest pause, in seconds."""

    def others(self) -> Sequence[Line]:
        """Return lines that come after the batch, as far as they have been read."""


class Item:
    """A record on its way, or ``refused``: to be set aside for that, and not to be sent (again)."""

    __slots__ = ("done", "line", "payload", "record", "refused", "refused_reason", "step")

    def __init__(self, line: Line) -> None:
        self.line = line
        self.record: Record | None = None
        self.payload: Payload | None = None
        self.step = 0
        self.refused = self.refused_reason = ""
        self.done = False


class _Course:
    """How it goes with one batch."""

    def __init__(self, caller: Caller, pace: Pace) -> None:
        self.caller = caller
        self.backoff = Backoff(pace)
        self.failures = 0  # attempts with nothing taken, one after the other
        self.strikes = 0  # times that one record failed alone, right after a record that is known passed twice
        self.armed = False  # the last two attempts were of that known record, and passed

    def progressed(self) -> None:
        """Something was taken: begin again."""
        self.failures = self.strikes = 0
        self.armed = False
        self.backoff.reset()


class Delivery:
    """Of one sink, for one thread."""

    def __init__(self, sink: Sink, rejected: RejectedFile, pace: Pace, log: logging.Logger) -> None:
        self.tally = Tally()
        self._sink = sink
        self._rejected = rejected
        self._pace = pace
        self._log = log
        self._known: Payload | None = None  # the backend took it, so it takes it again: a duplicate, of the same id
        self._size = sink.bounds.records_max  # records in one attempt: halved where more than that fail together

    def encoded(self, line: Line) -> Item:
        """Return ``line`` as it goes to the backend, or why it does not."""
        item = Item(line)
        try:
            item.record = reading.read(line.data)
        except reading.NotARecord as error:
            item.refused, item.refused_reason = str(error), "unreadable"
            return item
        self._cut_down(item, item.record)
        return item

    def deliver(self, items: Sequence[Item], caller: Caller) -> None:
        """Send ``items``, in order, until each is delivered or set aside, or ``caller`` says to stop."""
        try:
            self._deliver(items, caller)
        finally:
            caller.confirm()

    # -- attempts ---------------------------------------------------------------------------------------------

    def _deliver(self, items: Sequence[Item], caller: Caller) -> None:
        unsettled = list(items)
        course = _Course(caller, self._pace)
        confirmed = time.monotonic()
        while unsettled := [item for item in unsettled if not item.done]:
            tried = unsettled[: self._size]
            retries = self._send_once(tried)
            self.tally.retried += sum(not item.done for item in tried)
            if time.monotonic() - confirmed > CONFIRM_SECONDS:
                caller.confirm()
                confirmed = time.monotonic()
            if not any(item.done for item in tried):
                going_on = self._nothing_taken(unsettled, len(tried), retries, course)
            else:
                course.progressed()
                self._size = min(2 * self._size, self._sink.bounds.records_max)
                going_on = not retries or self._pause(retries, course)
            if not going_on:
                return

    def _pause(self, retries: Sequence[Retry], course: _Course) -> bool:
        """Wait as long as the backend wants, and as its failures demand; return whether to go on."""
        after = min(RETRY_AFTER_SECONDS_MAX, max((retry.after for retry in retries), default=0.0))
        seconds = max(course.backoff.next(course.caller.backoff_max()), after)
        if seconds >= LOGGED_SECONDS:
            self._log.warning(
                "forward: %s is not taking records (%s)",
                self._sink.name,
                retries[0].reason if retries else "unknown",
                extra={"hint": "records are kept in the journal, and tried for as long as it takes"},
            )
        if seconds > CONFIRM_SECONDS:
            course.caller.confirm()
        return course.caller.pause(seconds)

    # -- the backend, or the record? --------------------------------------------------------------------------

    def _nothing_taken(self, unsettled: Sequence[Item], size: int, retries: Sequence[Retry], course: _Course) -> bool:
        """The first ``size`` of ``unsettled`` were tried, and none was taken; return whether to go on."""
        if any(item.refused for item in unsettled[:size]):  # our own disk takes none of those: nobody else is to blame
            return self._pause(retries, course)
        course.failures += 1
        is_narrowed = self._size < self._sink.bounds.records_max
        if course.failures < FAILURES_MAX and not is_narrowed:
            return self._pause(retries, course)
        if self._known is None:
            return self._without_known(unsettled, size, retries, course)
        if size == 1 and self._strike(unsettled[0], retries, course):
            return True
        if not self._pause(retries, course) or not self._wait_for_known(course):
            return False
        if self._known is None:
            return True
        course.backoff.reset()
        if size > 1:
            self._size = size // 2
            return True
        return self._arm(retries, course)

    def _wait_for_known(self, course: _Course) -> bool:
        """Return when the backend takes what it has taken before, and whether to go on.

        While it is down this one record is all that is sent, and not a whole batch each time.
        """
        while (retry := self._passes_known()) is not None and self._known is not None:
            if not self._pause([retry], course):
                return False
        return True

    def _passes_known(self) -> Retry | None:
        """Send a record that was delivered before; return why it was not taken, None where it was."""
        if self._known is None:
            return Retry("nothing was delivered yet")
        try:
            (outcome,) = self._sink.send([self._known])
        except Refused as refused:
            outcome = Rejected(refused.reason)
        if isinstance(outcome, Rejected):  # the backend has changed its mind: it tells nothing any more
            self._known = None
            return Retry("what was delivered before is refused now")
        return outcome if isinstance(outcome, Retry) else None

    def _arm(self, retries: Sequence[Retry], course: _Course) -> bool:
        """A record failed alone, and a known one passed. Where that passes again, the next failure counts."""
        course.armed = self._passes_known() is None
        if not course.armed:
            course.strikes = 0  # it passes, and then it does not: that says nothing about the other record
        if not any(retry.throttled for retry in retries):
            return True
        return course.caller.pause(min(course.caller.backoff_max(), self._pace.throttled * 2.0**course.strikes))

    def _strike(self, item: Item, retries: Sequence[Retry], course: _Course) -> bool:
        """Note that ``item`` failed alone; return whether it was set aside for that."""
        course.strikes += course.armed
        course.armed = False
        if course.strikes < STRIKES:
            return False
        reason = retries[0].reason if retries else "unknown"
        if self._set_aside(item, f"fails again and again while others pass: {reason}", "failing"):
            return False
        course.progressed()
        return True

    def _without_known(self, unsettled: Sequence[Item], size: int, retries: Sequence[Retry], course: _Course) -> bool:
        """Go on where nothing was ever taken: with fewer, and at last with another record than the first."""
        self._size = max(1, size // 2)
        if not self._pause(retries, course):
            return False
        turn = course.failures - ALONE_MIN
        if size == 1 and turn >= 0 and turn % ALONE_STEP == 0:
            others = unsettled[1:] or [self.encoded(line) for line in course.caller.others()]
            if others:
                failed = self._send_once([others[turn // ALONE_STEP % len(others)]])
                return not failed or self._pause(failed, course)
        return True

    # -- one attempt ------------------------------------------------------------------------------------------

    def _send_once(self, items: Sequence[Item]) -> list[Retry]:
        """Send ``items`` once; mark those that are settled, and return why the others are not."""
        refused = [item for item in items if item.refused]
        retries = [retry for item in refused if (retry := self._set_aside(item, item.refused, item.refused_reason))]
        sendable = [item for item in items if item.payload is not None and not item.refused]
        outcomes = self._send(sendable) if sendable else []
        delivered = None
        for item, outcome in zip(sendable, outcomes, strict=True):
            if isinstance(outcome, Delivered):
                item.done = True
                delivered = item.payload
                self.tally.forwarded += 1
                self.tally.truncated += item.step > 0
            elif isinstance(outcome, Rejected):
                category = "too_large" if item.refused_reason == "too_large" else "refused"
                if retry := self._set_aside(item, outcome.reason, category):
                    retries.append(retry)
            else:
                retries.append(outcome)
        if delivered is not None:
            self.tally.last_success = time.time()
            if self._known is None or delivered.size <= KNOWN_BYTES_MAX:
                self._known = delivered
        return retries

    def _send(self, items: Sequence[Item]) -> list[Outcome]:
        """Send one batch; where it is refused as a whole, find out which record it is."""
        try:
            return self._sink.send([item.payload for item in items if item.payload is not None])
        except Refused as refused:
            if len(items) > 1:
                return self._send_halves(items)
            return [self._send_less(items[0], refused)]

    def _send_halves(self, items: Sequence[Item]) -> list[Outcome]:
        """Send both halves, the second not before the first is settled: a refused batch keeps its order."""
        middle = len(items) // 2
        first = self._send(items[:middle])
        waiting = next((outcome for outcome in first if isinstance(outcome, Retry)), None)
        if waiting is not None:
            return [*first, *[waiting] * (len(items) - middle)]
        return [*first, *self._send(items[middle:])]

    def _send_less(self, item: Item, refused: Refused) -> Outcome:
        """Cut down a record that the backend finds too large; what it refuses otherwise is rejected."""
        if not refused.too_large or item.record is None or item.step == STEPS:
            item.refused_reason = "too_large" if refused.too_large else "refused"
            return Rejected(refused.reason)
        item.step += 1
        self._cut_down(item, item.record)
        if item.payload is None:
            return Rejected(item.refused)
        return self._send([item])[0]

    def _cut_down(self, item: Item, record: Record) -> None:
        """Encode ``record`` into ``item``, with as much of it as the backend takes from ``item.step`` on."""
        while True:
            try:
                cut = truncated(record, item.step) if item.step else record
                item.payload = self._sink.encode(cut)
            except TooLarge:
                item.payload = None
                if item.step == STEPS:
                    item.refused = "too large for the backend, even without its objects"
                    item.refused_reason = "too_large"
                    return
                item.step += 1
            except (ValueError, RecursionError) as error:
                item.payload = None
                item.refused = f"cannot be converted: {type(error).__name__}"
                item.refused_reason = "unreadable"
                return
            else:
                return

    def _set_aside(self, item: Item, reason: str, category: str) -> Retry | None:
        """Put a record that will not arrive into the file of rejected ones; return why that cannot be done."""
        record_id = item.record.id if item.record else ""
        try:
            self.tally.lost += self._rejected.add(item.line.data, record_id, reason)
        except OSError as error:
            item.refused, item.refused_reason = reason, category
            return Retry(f"cannot write {self._rejected.path}: {error.strerror}")
        item.done = True
        self.tally.rejected[category] += 1
        what = "fails on a record, and takes others" if category == "failing" else "refuses a record for good"
        self._log.error(
            "forward: %s %s; it was set aside",
            self._sink.name,
            what,
            extra={"hint": f"see {self._rejected.path}", "details": record_id},
        )
        return None
