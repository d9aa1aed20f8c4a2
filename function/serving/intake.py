"""What happens to a review, from its body to the answer: the one way, and the only caller of the recorder.

An `Exchange` is begun for each review, which takes the body and ends with one answer: 200 once the record is stored, or
where the policy wants none, else a refusal. What takes long is done beside the event loop, with the same steps.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import time
import traceback
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from ..clusters.tokens import Cluster
from ..configuration.files import Snapshot
from ..journal import Entry, Journal
from ..metrics import Metrics
from ..recorder import Recorded
from ..review import answer, degrade, degrade_whole
from ..work import TooCostly, Work
from .aside import Aside, TookTooMuch
from .bodies import Body, Held, Long, Waiting
from .bounds import Bounds
from .refusals import Refusal, refusal_of
from .turns import Turns

__all__ = ["JSON", "Caller", "Exchange", "Intake"]

log = logging.getLogger("audit.endpoint")


# The header lines of an answer, each with its line break.
JSON = b"content-type: application/json\r\n"


class Caller(Protocol):
    """Who sent a request. It is answered once."""

    client: tuple[str, int] | None

    def answer(self, status: int, body: bytes, *, close: bool, headers: bytes = JSON) -> None:
        """Answer; ``close`` ends the connection. Must not raise."""


class Intake:
    """Records reviews, and answers them. ``configuration`` may be replaced at any time.

    Clusters share what is bounded: requests in flight, bytes that wait for the disk, bytes of long bodies. Each may
    have as much as is still free, and not more. So one that is noisy gets half at most, two get a third each, and
    what is left is there for those that are quiet.
    """

    def __init__(
        self,
        configuration: Snapshot,
        journal: Journal,
        metrics: Metrics,
        *,
        body_bytes_max: int,
        bounds: Bounds,
        annotates: bool = False,
    ) -> None:
        self.configuration = configuration
        self.annotates = annotates
        self.draining = False
        self.body_bytes_max = body_bytes_max
        self.held = Held(max(bounds.bodies_in_flight_bytes, 2 * body_bytes_max))
        self.waiting = Waiting(bounds.connections // 2)
        self.body_begins_seconds = bounds.body_begins_seconds
        self._journal = journal
        self._metrics = metrics
        self._bounds = bounds
        self._in_flight = 0
        self._turns = Turns(bounds.loop_turn_seconds)
        self._aside = Aside(bounds, body_bytes_max=body_bytes_max)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="audit-head")
        self._tasks: set[asyncio.Task[None]] = set()

    def tree_head(self) -> str:
        """See `Journal.tree_head`."""
        return self._journal.tree_head()

    def close(self) -> None:
        """End what works beside us."""
        self._aside.end()

    # -- the steps, in their order ----------------------------------------------------------------------------

    def record(self, exchange: Exchange, body: bytes | Long) -> None:
        """Record the review of a body that is here, and answer: now, or when the journal has it (`Exchange.done`)."""
        try:
            self._admit(exchange)
            if isinstance(body, Long) or len(body) > self._bounds.loop_body_bytes:
                self.held.add(exchange, len(body))
                self._record_aside(exchange, body)
            elif len(body) <= self._bounds.loop_uncounted_bytes:
                self._record_here(exchange, body)
            elif not self._turns.is_over():
                self._turns.now(functools.partial(self._record_here, exchange, body))
            elif self._holds(exchange, len(body)):
                self._turns.later(functools.partial(self._record_held, exchange, body))
            else:
                self._store(exchange, self._recorded_by_head(exchange, body))
        except Exception as error:  # noqa: BLE001 - whatever it is, it ends as an answer
            self.refuse(exchange, error)

    def _record_held(self, exchange: Exchange, body: bytes) -> None:
        self.held.add(exchange, -len(body))
        self._turns.now(functools.partial(self._record_here, exchange, body))

    def _record_here(self, exchange: Exchange, body: bytes) -> None:
        """Do it on the event loop, unless it turns out to be too much."""
        try:
            try:
                self._store(exchange, self._recorded(exchange, body))
            except TooCostly:
                if self._holds(exchange, len(body)):
                    self._record_aside(exchange, body)
                else:
                    self._store(exchange, self._recorded_by_head(exchange, body))
        except Exception as error:  # noqa: BLE001 - as in `record`
            self.refuse(exchange, error)

    def _holds(self, exchange: Exchange, size: int) -> bool:
        """Count a body that came at once among those in memory; return False where that is too much."""
        self.held.add(exchange, size)
        try:
            self.held.check(exchange, size, shared=self.configuration.clusters is not None)
        except Refusal:
            self.held.add(exchange, -size)
            return False
        return True

    def _admit(self, exchange: Exchange) -> None:
        """Give the review a place among those in flight: its body is here. Raises `Refusal`."""
        free = self._bounds.requests_in_flight - self._in_flight
        cluster = exchange.cluster
        if cluster.in_flight >= free:
            if free <= 0:
                raise Refusal("overloaded")
            if self.configuration.clusters is not None:
                cluster.beyond_share += 1
                raise Refusal("share")
        self._in_flight += 1
        cluster.in_flight += 1
        exchange.has_place = True

    def _recorded(self, exchange: Exchange, body: bytes) -> Recorded:
        """Return what becomes of the review, at once. Raises `BadReview`, `TooCostly`."""
        bounds, configuration, name = self._bounds, self.configuration, exchange.cluster.name
        work = Work(bounds.loop_steps) if len(body) > bounds.loop_uncounted_bytes else None
        recorder = configuration.recorders.get(name, configuration.recorder)
        return recorder.record(body, received_ns=exchange.received_ns, cluster=name, work=work)

    def _store(self, exchange: Exchange, recorded: Recorded) -> None:
        """Hand the line to the journal. Raises `Refusal`, `Overloaded`."""
        exchange.uid, line, note = recorded
        if line is None:
            self._metrics.omitted("policy")
            self.allow(exchange, {"omitted": note} if self.annotates else None)
            return
        if note:
            self._metrics.degraded(note)
        exchange.line, exchange.degraded = line, note
        exchange.size = size = len(line)
        cluster = exchange.cluster
        # A cluster that waits for nothing may have all that the journal takes: records can be large.
        if cluster.pending_bytes and self.configuration.clusters is not None:
            free = self._journal.pending_bytes_max - self._journal.pending_bytes
            if cluster.pending_bytes + size > free:
                cluster.beyond_share += 1
                raise Refusal("share")
        self._journal.submit(exchange)
        cluster.pending_bytes += size

    def allow(self, exchange: Exchange, annotations: Mapping[str, str] | None) -> None:
        """Answer 200: it is recorded, or not to be. The API server writes the annotations into its own log."""
        cluster = exchange.cluster
        self._in_flight -= 1
        cluster.in_flight -= 1
        cluster.valid += 1
        self._metrics.valid_requests.inc()
        self._metrics.request_seconds.observe(time.monotonic() - exchange.started)
        exchange.caller.answer(200, answer(exchange.uid, annotations), close=self.draining)

    def refuse(self, exchange: Exchange, error: Exception) -> None:
        """Answer anything else."""
        if exchange.has_place:
            self._in_flight -= 1
            exchange.cluster.in_flight -= 1
        exchange.cluster.refused += 1
        refusal = self.refusal(error)
        exchange.caller.answer(refusal.status, refusal.body(), close=refusal.close or self.draining)

    def abandon(self, exchange: Exchange) -> None:
        """Nobody is there to answer any more, and the review has not come whole."""
        exchange.cluster.refused += 1
        self._metrics.refused("disconnected")

    def refusal(self, error: Exception) -> Refusal:
        """Return the refusal that ``error`` amounts to, counted, and logged where it is a mistake of ours."""
        refusal = refusal_of(error)
        self._metrics.refused(refusal.reason)
        if refusal.reason == "internal":
            # Not its text: it may quote what it failed on.
            log.error(
                "internal error while a review was recorded: %s",
                type(error).__name__,
                extra={"details": _frames(error)},
            )
        return refusal

    # -- what takes long --------------------------------------------------------------------------------------

    def _record_aside(self, exchange: Exchange, body: bytes | Long) -> None:
        """Do what `record` does beside the event loop; the bytes are among those in memory already, until the end."""
        task = asyncio.get_running_loop().create_task(self._store_later(exchange, body, len(body)))
        self._tasks.add(task)  # or it could be collected before it ends
        task.add_done_callback(self._tasks.discard)

    async def _store_later(self, exchange: Exchange, body: bytes | Long, held: int) -> None:
        """Store it, whole where that may be; clusters take turns. At the end ``held`` bytes fewer are in memory."""
        try:
            async with asyncio.timeout(exchange.deadline - time.monotonic()):
                recorded = await self._recorded_whole(exchange, body) or await self._recorded_head(exchange, body)
            self._store(exchange, recorded)
        except TimeoutError:
            self.refuse(exchange, Refusal("deadline"))
        except Exception as error:  # noqa: BLE001 - as in `record`
            self.refuse(exchange, error)
        finally:
            self.held.add(exchange, -held)

    async def _recorded_whole(self, exchange: Exchange, body: bytes | Long) -> Recorded | None:
        """Return what becomes of the whole review, None where that is too much, or not to be had in time."""
        if isinstance(body, Long) and not body.is_whole():
            return None
        name = exchange.cluster.name
        recorder = self.configuration.recorder_of(name)
        seconds = (exchange.deadline - exchange.started) * self._bounds.aside_share
        try:
            async with asyncio.timeout(exchange.started + seconds - time.monotonic()), exchange.cluster.turn:
                return await self._aside.record(recorder, body, received_ns=exchange.received_ns, cluster=name)
        except (TookTooMuch, TimeoutError):
            return None

    async def _recorded_head(self, exchange: Exchange, body: bytes | Long) -> Recorded:
        """Do what `_recorded_by_head` does on a thread: a head can be long."""
        by_head = functools.partial(self._recorded_by_head, exchange, body)
        return await asyncio.get_running_loop().run_in_executor(self._thread, by_head)

    def _recorded_by_head(self, exchange: Exchange, body: bytes | Long) -> Recorded:
        """Return what becomes of a review of which only the head is looked at. Raises `BadReview`."""
        name = exchange.cluster.name
        if isinstance(body, Long):
            review = degrade(body.head, reason=body.reason, size=body.size, sha256=body.digest.hexdigest())
        else:
            review = degrade_whole(body, reason="too_costly")
        recorder = self.configuration.recorder_of(name)
        return recorder.record_head(review, received_ns=exchange.received_ns, cluster=name)


class Exchange(Entry):
    """One review, from its head to its answer. `take` its body, and `end` with the last of it; or `leave`.

    ``expires`` is when its body must have begun to come, and then when it must be here.
    """

    __slots__ = (
        "_body", "_is_open", "_waits", "caller", "cluster", "degraded", "expires", "has_place", "intake",
        "received_ns", "started", "uid",
    )  # fmt: skip

    def __init__(self, intake: Intake, cluster: Cluster, seconds: float, caller: Caller) -> None:
        """Begin: the review must be answered within ``seconds`` from now."""
        # What `Entry` needs; the line comes later.
        self.line = None
        self.size = 0
        self.segment = self.degraded = ""
        self.offset = 0
        self.started = started = time.monotonic()
        self.deadline = started + seconds
        self.received_ns = time.time_ns()
        self.intake = intake
        self.cluster = cluster
        self.caller = caller
        self.uid = ""
        self.has_place = self._waits = False
        self._body: Body | None = None
        self._is_open = True

    def take(self, part: bytes) -> None:
        """Take a part of the body; there is more to come."""
        if not self._is_open:
            return  # it was refused meanwhile: what still comes is of no use
        self.expires = self.deadline
        held = self.intake.held
        try:
            if self._body is None:
                self._body = Body(self.intake.body_bytes_max)
            held.add(self, self._body.take(part))
            held.check(self, self._body.held, shared=self.intake.configuration.clusters is not None)
        except Refusal as refusal:
            self._shrink_or_refuse(refusal)

    def end(self, part: bytes) -> None:
        """Take the last part of the body, nearly always all of it, and record the review."""
        if self._body is None and not self._waits and len(part) <= self.intake.body_bytes_max:
            self._is_open = False
            self.intake.record(self, part)
            return
        if part:
            self.take(part)
        if self._is_open:
            body = b"" if self._body is None else self._body.whole()
            self._let_go()
            self.intake.record(self, body)

    def wait(self) -> None:
        """The body is still to come: soon, and whole before the deadline."""
        if self._is_open and not self._waits:
            self._waits = True
            begins = self.deadline if self._body else self.started + self.intake.body_begins_seconds
            self.expires = min(self.deadline, begins)
            self.intake.waiting.add(self)

    def expire(self) -> None:
        """The body did not come in time."""
        self.refuse(Refusal("body_timeout"))

    def leave(self) -> None:
        """The caller is gone before its body was here."""
        if self._is_open:
            self._let_go()
            self.intake.abandon(self)

    def done(self, error: Exception | None) -> None:
        """Answer: the journal has the record, or it could not be stored. See `Entry`."""
        self.cluster.pending_bytes -= self.size
        if error is None:
            self.intake.allow(self, self._annotations() if self.intake.annotates else None)
        else:
            self.intake.refuse(self, error)

    def _annotations(self) -> dict[str, str]:
        """Return what the API server's own log may say of the record: where it is, why it holds less, its tree."""
        found = {"recorded": f"{self.segment}/{self.offset}"} if self.segment else {}
        if self.degraded:
            found["degraded"] = self.degraded
        if head := self.intake.tree_head():
            found["tree"] = head
        return found

    def _shrink_or_refuse(self, refusal: Refusal) -> None:
        """Keep the head at least, where there is no room for all of it: what was refused would be recorded nowhere."""
        held = self.intake.held
        if refusal.reason != "too_large" and self._body is not None:
            held.add(self, self._body.shrink("too_costly"))
            if held.has_room():
                return
        self.refuse(refusal)

    def refuse(self, refusal: Refusal) -> None:
        """Answer that it is not taken; what still comes is of no use."""
        if self._is_open:
            self._let_go()
            self.intake.refuse(self, refusal)

    def _let_go(self) -> None:
        """Wait for no body, and hold none."""
        self._is_open = False
        if self._waits:
            self.intake.waiting.discard(self)
        if self._body is not None:
            self.intake.held.add(self, -self._body.held)
            self._body = None


def _frames(error: BaseException) -> list[str]:
    """Return where an exception came from, without what it says."""
    frames = traceback.extract_tb(error.__traceback__)
    return [f"{os.path.basename(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames]
