"""Accepting connections: counted from the moment the kernel has them, before TLS, and never more than there may be."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import resource
import socket
import ssl
from collections.abc import Callable, Coroutine

from .bounds import Bounds
from .free_memory import FreeMemory
from .protocol import Connection
from .turns import Turns

__all__ = ["Connections", "Listener", "connections_max", "listening_socket"]

log = logging.getLogger("audit.server")

BACKLOG = 1024
# Descriptors for everything but connections: the journal, the metrics, files that are read again.
DESCRIPTORS_SPARE = 64
# Of each round of the loop, so much is for long bodies and what is pipelined; chunks of one byte take the most for what
# they bring.
TURNS_SECONDS = 0.005
# So many connections are accepted before others have their turn: a newcomer waits a round, which may take milliseconds,
# for so many that came before it.
ACCEPTED_A_TURN = 64
# So many where each costs a handshake, or another its place, which takes rounds to give its descriptor back.
COSTLY_ACCEPTED_A_TURN = 8
# After a failure to accept, such as no descriptor left.
FAILED_SECONDS = 0.05

_GONE = frozenset({errno.ECONNABORTED, errno.EPERM, errno.EPROTO})


class Connections:
    """The connections that are open, handshakes included, by what they were good for.

    Beyond ``most`` one has to go for each that comes: never one that has recorded a review while an idle one has not,
    and of its kind the one that was used least lately. ``cut`` is called for each that goes against its will.
    """

    def __init__(self, most: int, cut: Callable[[], None]) -> None:
        self.turns = Turns(TURNS_SECONDS)
        self.kept_bytes = 0
        self._most = most
        self._cut = cut
        # Not used yet; used for anything; used for a review that was recorded. First what was not used for longest, as
        # of the last sweep: to order them with each request would cost more than it is good for.
        self._ranks: tuple[dict[Connection, None], ...] = ({}, {}, {})

    def __len__(self) -> int:
        """Return how many there are."""
        return sum(map(len, self._ranks))

    def add(self, connection: Connection) -> None:
        """Count a connection, and make room where there is none; without room it is the one that goes."""
        if len(self) >= self._most and not self.make_room():
            self._end(connection)
        else:
            self._ranks[0][connection] = None

    def used(self, connection: Connection, *, recorded: bool) -> None:
        """See `protocol.Registry`."""
        rank = 2 if recorded else max(connection.rank, 1)
        if rank != connection.rank and connection in self._ranks[connection.rank]:
            del self._ranks[connection.rank][connection]
            self._ranks[rank][connection] = None
            connection.rank = rank

    def lost(self, connection: Connection) -> None:
        """See `protocol.Registry`. Also for a handshake that failed."""
        self._ranks[connection.rank].pop(connection, None)

    def has_room(self, more: int) -> bool:
        """Return whether so many more may come without one having to go."""
        return len(self) + more <= self._most

    def make_room(self) -> bool:
        """End the connection that is worth least, and return whether there was one.

        It is an idle one. Where none is, it is one whose body does not come, but of those that have recorded a review.
        """
        found = next(filter(None, map(_longest_unused, self._ranks)), None)
        found = found or next((one for rank in self._ranks[:2] for one in rank if one.is_reading_body()), None)
        if found is not None:
            self._end(found)
        return found is not None

    def sweep(self, now: float) -> None:
        """End what is overdue, and what nobody has used for longer than connections are kept; order the others."""
        for rank in self._ranks:
            for connection in list(rank):
                if connection.was_used():
                    _move_to_end(rank, connection)
                overdue = connection.transport is not None and connection.is_overdue(now)
                if overdue:
                    self._end(connection)
                elif overdue is None:
                    connection.transport.close()

    async def look_after(self, seconds: float) -> None:
        """Sweep every so many seconds, for ever, and let go of the memory of those that went."""
        loop = asyncio.get_running_loop()
        free_memory = FreeMemory()
        while True:
            await asyncio.sleep(seconds)
            self.sweep(loop.time())
            free_memory.look()

    def shutdown(self) -> None:
        """End each as soon as nothing is being answered on it."""
        for connection in [one for rank in self._ranks for one in rank]:
            if connection.transport is None:
                connection.abort()
            else:
                connection.shutdown()

    def abort(self) -> None:
        """End all, at once."""
        for connection in [one for rank in self._ranks for one in rank]:
            connection.abort()

    def _end(self, connection: Connection) -> None:
        self.lost(connection)
        self._cut()
        connection.abort()


def _longest_unused(rank: dict[Connection, None]) -> Connection | None:
    """Return the idle connection of a rank that comes first; what is busy goes to the end, to be looked at last."""
    busy = []
    found = None
    for connection in rank:
        if connection.is_idle():
            found = connection
            break
        busy.append(connection)
    for connection in busy:
        _move_to_end(rank, connection)
    return found


def _move_to_end(rank: dict[Connection, None], connection: Connection) -> None:
    del rank[connection]
    rank[connection] = None


class Listener:
    """Accepts connections on ``listening``, with TLS where there is a ``context``, and looks after them."""

    def __init__(
        self,
        listening: socket.socket,
        connections: Connections,
        new_connection: Callable[[tuple[str, int]], Connection],
        *,
        bounds: Bounds,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._listening = listening
        self._connections = connections
        self._new_connection = new_connection
        self._context = context
        self._bounds = bounds
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Start accepting, on the running loop."""
        self._listening.setblocking(False)
        self._spawn(self._accept())
        self._spawn(self._connections.look_after(self._bounds.sweep_seconds))

    def stop(self) -> None:
        """Accept no more connections, and forget those there are."""
        for task in list(self._tasks):
            task.cancel()
        self._listening.close()

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)  # or it could be collected before it ends
        task.add_done_callback(self._tasks.discard)
        return task

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                self._take(*await loop.sock_accept(self._listening))
                is_cheap = self._context is None and self._connections.has_room(ACCEPTED_A_TURN)
                for _ in range((ACCEPTED_A_TURN if is_cheap else COSTLY_ACCEPTED_A_TURN) - 1):
                    self._take(*self._listening.accept())
            except BlockingIOError:
                continue  # that was all
            except OSError as error:
                if error.errno not in _GONE:
                    log.error(
                        "cannot accept a connection: %s",
                        error.strerror,
                        extra={"hint": "raise the limit of open files"},
                    )
                    self._connections.make_room()
                    await asyncio.sleep(FAILED_SECONDS)

    def _take(self, sock: socket.socket, address: tuple[str, int]) -> None:
        sock.setblocking(False)
        connection = self._new_connection((str(address[0]), int(address[1])))
        connection.connecting = task = self._spawn(self._connect(connection, sock))
        task.add_done_callback(functools.partial(self._connected, connection, sock))
        self._connections.add(connection)

    async def _connect(self, connection: Connection, sock: socket.socket) -> None:
        """Shake hands where that is due; from then on the connection looks after itself."""
        with contextlib.suppress(OSError):  # it is gone already
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        seconds = self._bounds.handshake_seconds if self._context is not None else None
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: connection, sock, ssl=self._context, ssl_handshake_timeout=seconds)

    def _connected(self, connection: Connection, sock: socket.socket, task: asyncio.Task[None]) -> None:
        """Forget a connection that did not come about; its task may have been cancelled before it began."""
        connection.connecting = None
        if task.cancelled() or task.exception() is not None:
            self._connections.lost(connection)
            sock.close()


def listening_socket(port: int) -> socket.socket:
    """Return a listening socket for IPv6 and IPv4. Raises `OSError`."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG)
    return socket.create_server(("", port), backlog=BACKLOG)


def connections_max(most: int) -> int:
    """Return how many connections there may be: fewer than ``most`` where descriptors are scarce.

    Many container runtimes start processes with 1,024 descriptors, and let them ask for more. Without one left, a
    probe could not even be accepted.
    """
    wanted = most + DESCRIPTORS_SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return most if soft == resource.RLIM_INFINITY else max(1, min(most, soft - DESCRIPTORS_SPARE))
