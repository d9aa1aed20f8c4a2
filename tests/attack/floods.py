"""`python tests/attack/floods.py NAME SEED SECONDS PORT METRICS_PORT SCHEME`: one flood, at the lowest priority.

The attackers share the machine with the server and its victim: at the lowest priority they take what those two leave,
so that what the victim feels is the server's doing. Prints what was sent as JSON.
"""

import asyncio
import contextlib
import functools
import json
import os
import pathlib
import random
import resource
import ssl
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent))

import hostile
import running
import uvloop

PROBE = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
SCRAPE = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = (
    b"POST /log-request?timeout=30s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


class Flood:
    """What the attackers of one flood share. ``rng`` decides; it ends when the time is up."""

    def __init__(self, seed, seconds, port, metrics_port, scheme):
        self.rng = random.Random(seed)
        self.until = time.monotonic() + seconds
        self.seconds = seconds
        self.port = port
        self.metrics_port = metrics_port
        self.context = ssl._create_unverified_context() if scheme == "https" else None
        self.counts = {"connections": 0, "bytes": 0, "answers": 0, "cut": 0}

    @property
    def is_over(self):
        return time.monotonic() >= self.until

    async def open(self, *, port=None, tls=True, reads=True):
        """Return a connection. Raises `OSError`."""
        context = self.context if tls else None
        caller = Caller(self, reads=reads)
        await asyncio.get_running_loop().create_connection(lambda: caller, "127.0.0.1", port or self.port, ssl=context)
        self.counts["connections"] += 1
        return caller

    async def crowd(self, count, attack, *, at_once=64):
        """Let so many attackers attack again and again until the time is up; they come some at a time."""
        gate = asyncio.Semaphore(at_once)

        async def attacker(number):
            while not self.is_over:
                try:
                    await attack(number, gate)
                except OSError:
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0)

        tasks = [asyncio.create_task(attacker(number)) for number in range(count)]
        await asyncio.sleep(max(0, self.until - time.monotonic()))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Caller(asyncio.Protocol):
    """One connection; counts the answers."""

    def __init__(self, flood, *, reads):
        self._flood = flood
        self._reads = reads
        self.lost = asyncio.Event()
        self.writable = asyncio.Event()
        self.writable.set()
        self.came = asyncio.Event()

    def connection_made(self, transport):
        self.transport = transport
        if not self._reads:
            transport.pause_reading()

    def data_received(self, data):
        self._flood.counts["answers"] += data.count(b"HTTP/1.1 ")
        self.came.set()

    def pause_writing(self):
        self.writable.clear()

    def resume_writing(self):
        self.writable.set()

    def connection_lost(self, exc):
        self._flood.counts["cut"] += exc is not None
        self.lost.set()
        self.writable.set()
        self.came.set()

    async def send(self, data):
        """Send as soon as what was sent before is on its way."""
        await self.writable.wait()
        if not self.lost.is_set():
            self.transport.write(data)
            self._flood.counts["bytes"] += len(data)

    async def hold(self, seconds):
        """Stay connected, until the server ends it, at most so long."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.lost.wait(), max(0.0, seconds))

    def close(self):
        self.transport.abort()


def holding(count, first, *, seconds=1e9, tls=True, at_once=64, port="port"):
    """Return a flood of ``count`` connections that each send ``first(flood, number)`` and then stay."""

    async def flood(flood):
        async def attack(number, gate):
            async with gate:
                caller = await flood.open(port=getattr(flood, port), tls=tls and port == "port")
                if data := first(flood, number):
                    await caller.send(data)
            await caller.hold(min(seconds, flood.until - time.monotonic()))
            caller.close()

        await flood.crowd(count, attack, at_once=at_once)

    return flood


def sending(count, pieces, *, reads=True, port="port", after=None):
    """Return a flood of ``count`` connections that send what ``pieces(flood, number)`` yields, as fast as it goes."""

    async def flood(flood):
        async def attack(number, gate):
            async with gate:
                caller = await flood.open(port=getattr(flood, port), tls=port == "port", reads=reads)
            try:
                for piece in pieces(flood, number):
                    await caller.send(piece)
                    await asyncio.sleep(0)
                    if caller.lost.is_set() or flood.is_over:
                        break
                await caller.hold(0.05 if after is None else after)
            finally:
                caller.close()

        await flood.crowd(count, attack)

    return flood


async def churn(flood):
    """Keep the server at its bound on connections, and come again and again."""

    async def attack(_number, gate):
        async with gate:
            caller = await flood.open(tls=False)
        await caller.hold(flood.rng.uniform(1, 20))
        caller.close()

    await flood.crowd(5000, attack, at_once=200)


async def trickle(flood):
    """Bodies that come byte by byte, on more connections than one would look at for an idle one; then others come."""

    async def attack(number, gate):
        async with gate:
            caller = await flood.open()
            await caller.send(running.raw_post(b"x" * 5000, "/log-request?timeout=30s")[:-4000])
        while not caller.lost.is_set() and not flood.is_over:
            await caller.send(b"x")
            await asyncio.sleep(0.5)
        caller.close()

    await flood.crowd(600, attack)


def costly(flood, number):
    """Yield reviews that take the event loop as long as they can."""
    while True:
        family = flood.rng.choice(COSTLY)
        yield running.raw_post(made(family, 120 << 10), "/log-request?timeout=30s")


def large(flood, number):
    while True:
        yield running.raw_post(made(flood.rng.choice(COSTLY[:4]), 30 << 20), "/log-request?timeout=30s")


@functools.cache
def made(family, size):
    return hostile.FAMILIES[family](size)


COSTLY = [
    "a Secret's keys, twice",
    "arrays that differ",
    "half a surrogate, keys",
    "quotes behind a nest",
    "one extra",
    "nests that differ inside",
    "fields of a later version",
]


def repeated(data):
    return lambda flood, number: iter(lambda: data, None)


def half_head(flood, number):
    return b"POST /log-request HTTP/1.1\r\nHost: x\r\nX: " + b"y" * flood.rng.randrange(16_000)


def many_headers(flood, number):
    while True:
        yield b"POST /log-request HTTP/1.1\r\n" + b"".join(b"a%d:b\r\n" % i for i in range(90)) + b"\r\n"
        yield b"POST /log-request HTTP/1.1\r\n" + b"a:b\r\n" * 12_000


def tiny_chunks(flood, number):
    size = flood.rng.choice([1, 2, 3, 10])
    yield CHUNKED
    while True:
        yield (b"%x\r\n%b\r\n" % (size, b"x" * size)) * 8000


def long_chunks(flood, number):
    yield CHUNKED
    while True:
        yield (b"400\r\n" + b"x" * 1024 + b"\r\n") * 256


def not_http(flood, number):
    while True:
        yield flood.rng.choice([b"\x16\x03\x01" + b"x" * 500, b"EHLO x\r\n", b"GET\r\n\r\n"])


def refused(flood, number):
    posts = [
        running.raw_post(b"{"),
        running.raw_post(running.review("x"), "/nowhere"),
        running.raw_post(running.review("x"), "/log-request/prod/" + "a" * 32),
        running.raw_post(running.review("x")).replace(b"application/json", b"text/plain"),
    ]
    while True:
        yield flood.rng.choice(posts) * 20


def valid(flood, number):
    while True:
        yield running.raw_post(running.review(f"flood-{number}")) * 4


def post_and_stay(flood, number):
    """A body that the TLS of each connection has to take in one go, and its buffers keep."""
    return running.raw_post(running.review("stays", object={"data": {"blob": "x" * 15_000}}))


FLOODS = {
    "idle connections": holding(5000, lambda *_: b"", at_once=200),
    "connections that come and go at the bound": churn,
    "half heads": holding(3000, half_head),
    "heads without bodies": holding(2500, lambda *_: running.raw_post(b"x" * 100, "/log-request?timeout=30s")[:-100]),
    "bodies byte by byte": trickle,
    "pipelines that nobody reads": sending(32, repeated(PROBE * 4000), reads=False),
    "pipelines": sending(8, repeated(PROBE * 200)),
    "pipelines of thousands": sending(3000, repeated(PROBE * 8000)),
    "bodies of a thousand": sending(1000, repeated(running.raw_post(running.large(1 << 20)))),
    "chunks of a thousand": sending(1000, long_chunks),
    "headers": sending(200, many_headers),
    "chunks of a few bytes": sending(16, tiny_chunks),
    "what is not HTTP": sending(64, not_http),
    "refused requests": sending(32, refused),
    "valid reviews": sending(16, valid),
    "reviews that cost": sending(200, costly, after=1.0),
    "reviews of 30 MiB": sending(4, large, after=5.0),
    "half scrapes": holding(300, lambda *_: b"GET /metrics HTTP/1.1\r\nHost:", port="metrics_port"),
    "scrapes": sending(40, repeated(SCRAPE * 4), port="metrics_port"),
}
# Their records are so large that what is stored behind one waits for the disk.
LARGE_RECORDS = {"reviews of 30 MiB"}
TLS_FLOODS = {
    "silent handshakes": holding(4500, lambda *_: b"", tls=False, at_once=200),
    "half handshakes": holding(2000, lambda *_: b"\x16\x03\x01\x02\x00\x01\x00", tls=False),
    "handshakes": holding(64, lambda *_: b"", seconds=0.0),
    "connections that stay": holding(600, post_and_stay),
    "pipelines": sending(8, repeated(PROBE * 200)),
    "reviews that cost": sending(60, costly, after=1.0),
}


def main(name, seed, seconds, port, metrics_port, scheme):
    os.nice(19)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    flood = Flood(seed, float(seconds), int(port), int(metrics_port), scheme)
    attack = (TLS_FLOODS if scheme == "https" else FLOODS)[name]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(attack(flood))
    print(json.dumps(flood.counts), flush=True)
    os._exit(0)  # thousands of connections end with the process


if __name__ == "__main__":
    main(*sys.argv[1:])
