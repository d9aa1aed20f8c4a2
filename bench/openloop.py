"""A paced generator: sends reviews at a fixed rate whatever the answers do, and prints their latencies.

Latency counts from the moment a review was *due*, so a server (or a generator) that stalls is charged for every
review that had to wait: no coordinated omission. Every answer is checked: status 200, ``allowed``, its own uid.
A connection is taken from the idle ones or opened, as Go's client does. Run by bench/run as a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import selectors
import ssl
import sys
import time
from typing import Any
from urllib.parse import urlsplit

UID = re.compile(rb'"uid":\s*"([^"]*)"')
ALLOWED = re.compile(rb'"allowed":\s*true')
TIMEOUT_SECONDS = 30


class Caller:
    """Calls one webhook; counts wrong answers, collects (seconds due, latency in ms)."""

    def __init__(self, url: str, ca: str, *, checks_uid: bool) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname, parts.port
        self._ssl = ssl.create_default_context(cafile=ca) if ca else None
        self._checks_uid = checks_uid
        self._head = (
            f"POST {parts.path or '/'}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            "User-Agent: kube-apiserver-admission\r\nAccept: application/json, */*\r\n"
            "Accept-Encoding: gzip\r\nContent-Type: application/json\r\nContent-Length: "
        ).encode()
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.wrong: list[str] = []
        self.latencies: list[tuple[float, float]] = []

    async def call(self, body: bytes, due: float) -> None:
        """Send one review that was due at ``due`` (``perf_counter``), and check its answer."""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                problem = await self._exchange(body)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            problem = f"{type(error).__name__}: {error}"
        if problem:
            self.wrong.append(problem)
        self.latencies.append((due, (time.perf_counter() - due) * 1e3))

    async def _exchange(self, body: bytes) -> str:
        connection = self._idle.pop() if self._idle else await self._connect()
        reader, writer = connection
        writer.write(b"%b%d\r\n\r\n" % (self._head, len(body) + 1))
        writer.write(body)
        writer.write(b"\n")
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        answer = await reader.readexactly(int(length[1]) if length else 0)
        self._idle.append(connection)
        return self._problem(head, body, answer)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self._host, self._port, ssl=self._ssl)

    def _problem(self, head: bytes, body: bytes, answer: bytes) -> str:
        if not head.startswith(b"HTTP/1.1 200 ") or not ALLOWED.search(answer):
            return (head[9:40].partition(b"\r\n")[0] + b": " + answer[:200]).decode(errors="replace")
        if self._checks_uid and UID.findall(answer) != UID.findall(body)[:1]:
            return "the answer has another uid"
        return ""


async def pace(caller: Caller, bodies: list[bytes], rate: float, seconds: float) -> None:
    """Call ``rate`` times a second for ``seconds``; return when the last answer is there."""
    start = time.perf_counter() + 0.1
    async with asyncio.TaskGroup() as calls:
        for number in range(int(rate * seconds)):
            due = start + number / rate
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            calls.create_task(caller.call(bodies[number % len(bodies)], due))


def precise_loop() -> asyncio.AbstractEventLoop:
    """Return a loop whose timers are good to microseconds: those on epoll (and uvloop's) round up to 1 ms."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def main() -> None:
    """Print one line of JSON: reviews, wrong answers (and the first few), latencies in ms in order of due time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--ca", default="")
    parser.add_argument("--bodies", required=True, help="a file of reviews, one a line")
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--any-uid", action="store_true")
    options = parser.parse_args()
    with open(options.bodies, "rb") as file:
        bodies = file.read().splitlines()
    caller = Caller(options.url, options.ca, checks_uid=not options.any_uid)
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        runner.run(pace(caller, bodies, options.rate, options.seconds))
    result: dict[str, Any] = {
        "reviews": len(caller.latencies),
        "wrong": len(caller.wrong),
        "problems": sorted(set(caller.wrong))[:5],
        "latencies_ms": [round(latency, 4) for _, latency in sorted(caller.latencies)],
    }
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
