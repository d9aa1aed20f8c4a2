"""Reviews that take long: recorded by a child process, one at a time, so that nobody waits behind them.

A process and not a thread: reading JSON holds the interpreter's lock for milliseconds a megabyte. The system bounds its
memory, and we its time, by ending it. It is started when it is needed first, and ends when it was not for a while.
"""

from __future__ import annotations

import asyncio
import io
import logging
import pickle
import socket
import subprocess
from typing import TYPE_CHECKING, Literal

import msgspec

from ..recorder import Recorded, Recorder
from ..review import BadReason, BadReview
from .bounds import Bounds
from .child import child_environment, python_command

if TYPE_CHECKING:  # the child reads this file as well, and has no use for it
    from .bodies import Long

__all__ = ["Aside", "Reply", "Task", "TookTooMuch"]

log = logging.getLogger("audit.endpoint")

# Of each frame on the socket between us, in front: how long it is.
LENGTH_BYTES = 8
# Of a record, so much is taken at a time.
PART_BYTES = 256 << 10


class TookTooMuch(Exception):  # noqa: N818 - the caller's action is one: record the head
    """The review takes more memory than may be, or the child process is not to be had."""


class Task(msgspec.Struct):
    """What the child gets before a body: how to record it. ``recorder`` is pickled, empty for the last."""

    recorder: bytes
    received_ns: int
    cluster: str


class Reply(msgspec.Struct):
    """What became of the body. A line follows where ``line_bytes`` is not 0."""

    outcome: Literal["recorded", "bad", "too_much", "mistake"]
    uid: str = ""
    line_bytes: int = 0
    degraded: str = ""
    reason: BadReason = "json"
    text: str = ""


class Aside:
    """Keeps at most one child process. `record` may be called again before it has returned: calls take turns."""

    def __init__(self, bounds: Bounds, *, body_bytes_max: int) -> None:
        self._memory_bytes = bounds.aside_memory_bytes(body_bytes_max)
        self._line_bytes_max = bounds.aside_line_bytes(body_bytes_max)
        self._idle_seconds = bounds.aside_idle_seconds
        self._turn = asyncio.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._ended: list[subprocess.Popen[bytes]] = []
        self._socket: socket.socket | None = None
        self._recorder: Recorder | None = None  # that the child has
        self._idle: asyncio.TimerHandle | None = None

    async def record(self, recorder: Recorder, body: bytes | Long, *, received_ns: int, cluster: str) -> Recorded:
        """Return what becomes of the review in ``body``; see `Recorder.record`. Raises `BadReview`, `TookTooMuch`.

        Of a long one only the head is left here once the child has it: its record is on its way back. Cancelled, it
        ends the child that is at work: nothing goes on that nobody waits for.
        """
        async with self._turn:
            if self._idle is not None:
                self._idle.cancel()
            try:
                reply, line = await self._ask(recorder, body, received_ns, cluster)
            except OSError as error:
                self.end()
                log.warning("the child process could not record a large review: %s", error.strerror or error)
                raise TookTooMuch from None
            except BaseException:
                self.end()
                raise
            self._idle = asyncio.get_running_loop().call_later(self._idle_seconds, self.end)
        return self._recorded(reply, line)

    def end(self) -> None:
        """End the child, if there is one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._child is not None:
            self._child.kill()
            self._ended.append(self._child)
            self._child = None
        # Not waited for: to give its memory back takes the system a while.
        self._ended = [child for child in self._ended if child.poll() is None]

    # -- one task ---------------------------------------------------------------------------------------------

    async def _ask(self, recorder: Recorder, body: bytes | Long, received_ns: int, cluster: str) -> tuple[Reply, bytes]:
        sock = self._socket or self._start()
        loop = asyncio.get_running_loop()
        new = b"" if recorder is self._recorder else pickle.dumps(recorder)
        task = msgspec.msgpack.encode(Task(new, received_ns, cluster))
        self._recorder = recorder
        await loop.sock_sendall(sock, _length(task) + task + _length(body))
        await loop.sock_sendall(sock, body if isinstance(body, bytes) else body.take())
        size = int.from_bytes(await _received(sock, LENGTH_BYTES), "big")
        reply = msgspec.msgpack.decode(await _received(sock, size), type=Reply)
        return reply, await _received(sock, reply.line_bytes)

    def _start(self) -> socket.socket:
        """Start the child. Raises `OSError`."""
        ours, its = socket.socketpair()
        with its:
            try:
                self._child = subprocess.Popen(  # noqa: S603 - our own program
                    python_command("serving.aside_process", [str(self._memory_bytes), str(self._line_bytes_max)]),
                    stdin=its.fileno(),
                    stdout=subprocess.DEVNULL,
                    env=child_environment(),
                    start_new_session=True,  # a Ctrl-C is for us; the child ends when we do
                )
            except OSError:
                ours.close()
                raise
        ours.setblocking(False)
        self._socket = ours
        self._recorder = None
        return ours

    def _recorded(self, reply: Reply, line: bytes) -> Recorded:
        if reply.outcome == "bad":
            raise BadReview(reply.reason, reply.text)
        if reply.outcome != "recorded":
            self.end()  # and with it what it has allocated
            if reply.outcome == "mistake":
                log.error("internal error while a review was recorded: %s", reply.text)
            raise TookTooMuch
        return reply.uid, line or None, reply.degraded


def _length(frame: bytes | Long) -> bytes:
    return len(frame).to_bytes(LENGTH_BYTES, "big")


async def _received(sock: socket.socket, size: int) -> bytes:
    """Return ``size`` bytes, which are never in memory twice. Raises `OSError` where the other side is gone."""
    buffer = io.BytesIO()
    loop = asyncio.get_running_loop()
    while missing := size - buffer.tell():
        part = await loop.sock_recv(sock, min(missing, PART_BYTES))
        if not part:
            raise ConnectionResetError("it ended")
        buffer.write(part)
    return buffer.getvalue()
