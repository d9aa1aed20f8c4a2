"""What keeps long work, long bodies and free memory from harming others, each by itself."""

import asyncio
import contextlib
import hashlib
import itertools
import random
import socket
import sys
import time

import pytest
import running
import uvloop

from function.review import HEAD_BYTES_MAX
from function.serving.bodies import DIGESTED_BYTES, Body
from function.serving.bounds import Bounds
from function.serving.listener import Connections, Listener, listening_socket
from function.serving.protocol import Connection
from function.serving.turns import Turns


def test_long_work_is_done_in_order_and_others_have_their_turn_between():
    """Of 20 pieces of 10 ms, each round of the loop does two; what is asked for meanwhile comes last."""
    done, rounds = [], 0

    def ask(turns, number):
        if turns.is_over():
            turns.later(lambda: turns.now(lambda: work(number)))
        else:
            turns.now(lambda: work(number))

    def work(number):
        time.sleep(0.01)
        done.append(number)

    async def main():
        nonlocal rounds
        turns = Turns(0.015)
        for number in range(20):
            ask(turns, number)
        while len(done) < 21:
            await asyncio.sleep(0)
            if rounds == 3:
                ask(turns, 20)
            rounds += 1

    asyncio.run(main())
    assert done == list(range(21))
    assert rounds >= 8


def test_whose_turn_has_come_goes_on_though_others_wait():
    """Or none would ever get further."""

    async def main():
        turns, left = Turns(0.002), dict.fromkeys("abc", 5)

        def go_on(name):
            while left[name]:
                if turns.is_over():
                    turns.later(lambda: go_on(name))
                    return
                turns.now(lambda: time.sleep(0.001))
                left[name] -= 1

        for name in left:
            go_on(name)
        async with asyncio.timeout(5):
            while any(left.values()):  # noqa: ASYNC110 - a turn of the loop at a time
                await asyncio.sleep(0)

    asyncio.run(main())


class Slow:
    """An endpoint whose bodies take long for each part; ``parts`` taken so far, ``seen`` when something was asked."""

    def __init__(self):
        self.parts = 0
        self.seen = []

    def begin(self, head, length, caller):
        if length:
            return self
        self.seen.append(self.parts)
        caller.answer(200, b"{}", close=False)
        return None

    def take(self, part):
        self.parts += 1
        time.sleep(0.003)

    def wait(self): ...

    def leave(self): ...


@pytest.mark.parametrize("callers", [1, 4])
def test_who_sends_a_long_body_without_pause_does_not_keep_the_loop(callers):
    """Uvloop reads 32 parts of one connection before it looks at the next: of four, that was 100 ms and more."""
    body = b"POST / HTTP/1.1\r\nContent-Type: a\r\nContent-Length: 16777216\r\n\r\n" + bytes((16 << 20) - 1)

    async def main():
        listening, endpoint = listening_socket(0), Slow()
        connections = Connections(10, lambda: None)
        listener = Listener(
            listening,
            connections,
            lambda client: Connection(endpoint, Bounds(), connections, lambda _: None, client),
            bounds=Bounds(),
        )
        listener.start()
        port = listening.getsockname()[1]
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for _ in range(callers):
                group.create_task(asyncio.to_thread(send, port))
            while endpoint.parts < callers * 60:
                writer.write(b"GET / HTTP/1.1\r\n\r\n")
                await reader.readuntil(b"{}")
            writer.close()
        listener.stop()
        return endpoint.seen

    def send(port):
        with socket.create_connection(("127.0.0.1", port)) as raw:
            raw.sendall(body)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        seen = runner.run(main())
    between = [after - before for before, after in itertools.pairwise(seen)]
    assert sum(between) > callers * 50
    assert max(between) < 3 * (callers + 2)


@pytest.mark.parametrize("bytes_max", [1 << 20, DIGESTED_BYTES, DIGESTED_BYTES + 300_000])
def test_a_body_that_is_too_long_keeps_its_head_size_and_digest(bytes_max):
    data = random.Random(1).randbytes(bytes_max + 700_000)
    body = Body(bytes_max)
    for at in range(0, len(data), 65_000):
        before = body.held
        assert body.take(data[at : at + 65_000]) == body.held - before
    whole = body.whole()
    assert (whole.size, whole.head, whole.digest.hexdigest()) == (
        len(data),
        data[:HEAD_BYTES_MAX],
        hashlib.sha256(data).hexdigest(),
    )
    assert body.held == len(whole.head)


@pytest.mark.parametrize("size", [0, 10, DIGESTED_BYTES, DIGESTED_BYTES + 1])
def test_a_body_is_whole_once(size):
    """Of a long one, what identifies it is known before it is given away."""
    data = random.Random(1).randbytes(size)
    body = Body(size)
    for at in range(0, size, 650_000):
        body.take(data[at : at + 650_000])
    whole = body.whole()
    if size > DIGESTED_BYTES:
        assert (whole.size, whole.digest.digest()) == (size, hashlib.sha256(data).digest())
        assert whole.take() == data
        assert not whole.is_whole()
        assert len(whole) == HEAD_BYTES_MAX
    else:
        assert whole == data


def test_with_tls_there_are_fewer_connections():
    """Each takes up to 300 KiB."""
    assert Bounds().served_with(tls=True).connections == 512
    assert Bounds().served_with(tls=False).connections == 4096
    assert Bounds(connections=50).served_with(tls=True).connections == 50


def test_free_memory_goes_back_to_the_system():
    """Though pieces that are in use lie between."""
    code = (
        "import ctypes; from function.serving import free_memory\n"
        "if not hasattr(ctypes.CDLL(None), 'malloc_trim'): print(1 << 40); raise SystemExit\n"
        "memory = free_memory.FreeMemory(); blocks, kept = [], []\n"
        "for _ in range(3000): blocks.append(b'x' * 60_000); kept.append(b'y' * 1000)\n"
        "blocks.clear(); before = free_memory._resident_bytes(); memory.look()\n"
        "print(before - free_memory._resident_bytes())\n"
    )
    status, out, err = running.run([sys.executable, "-c", code])
    assert status == 0, err
    assert int(out) > 100 << 20


@pytest.mark.parametrize("close", [True, False])
def test_a_connection_whose_answers_nobody_takes_ends_though_it_was_told_to_close(close):
    """To close waits until all is sent, and that can be for ever; the clock is the test's."""

    class Long:
        def begin(self, head, length, caller):
            caller.transport.set_write_buffer_limits(1 << 30)  # as if all but a little of it had been taken
            caller.answer(200, b"x" * (16 << 20), close=close)
            answered.set()

    cut, answered = [], asyncio.Event()
    kept_seconds = Bounds().linger_seconds if close else Bounds().keep_alive_seconds

    async def main():
        connections = Connections(10, lambda: cut.append(1))

        def new_connection():
            connection = Connection(Long(), Bounds(), connections, lambda _: None)
            connections.add(connection)
            return connection

        loop = asyncio.get_running_loop()
        server = await loop.create_server(new_connection, "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname()) as raw:
            raw.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await answered.wait()
            for now in (0, kept_seconds + 1, kept_seconds + 2):
                connections.sweep(now)
                await asyncio.sleep(0)
            assert (len(connections), cut) == (1, [])
            connections.sweep(kept_seconds + Bounds().finish_seconds + 1)
            assert (len(connections), cut) == (0, [1])
        server.close()

    uvloop.run(main())


def test_where_every_connection_is_busy_a_newcomer_ends_also_where_the_host_accepts_it():
    """functions-framework's server makes the connection before it has a transport: there is nothing to abort yet."""

    class Slow:
        def begin(self, head, length, caller):
            """Answer later."""
            begun.set()

    cut, made, begun = [], [], asyncio.Event()

    async def main():
        connections = Connections(1, lambda: cut.append(1))

        def new_connection():
            connection = Connection(Slow(), Bounds(), connections, lambda _: None)
            connections.add(connection)
            made.append(connection)
            return connection

        loop = asyncio.get_running_loop()
        server = await loop.create_server(new_connection, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        _, busy = await asyncio.open_connection(*address)
        busy.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await begun.wait()
        reader, newcomer = await asyncio.open_connection(*address)
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 20) == b""
        assert (len(connections), len(cut), made[0].transport.is_closing()) == (1, 1, False)
        for writer in (busy, newcomer):
            writer.close()
        server.close()

    uvloop.run(main())
