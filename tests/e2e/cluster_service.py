"""What a Kubernetes Service is to its callers: new connections go to instances that are ready, open ones stay."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Iterator, Sequence

from function_hosts import is_ready
from ports import free_ports

PROBE_SECONDS = 0.2  # a kubelet asks every second or slower, and endpoints take their time: within the drain


class Service:
    """Passes connections on, as kube-proxy does; ``port`` is where it listens."""

    def __init__(self, instances: Sequence[int]) -> None:
        self.port = free_ports(1)[0]
        self._instances = instances
        self._ready: list[int] = []
        self._turn = itertools.count()

    async def run(self, stop: asyncio.Event, listening: threading.Event) -> None:
        """Serve until told to stop."""
        await self._probe()
        async with await asyncio.start_server(self._connect, "127.0.0.1", self.port, backlog=1024):
            listening.set()
            while not stop.is_set():
                await self._probe()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), PROBE_SECONDS)

    async def _probe(self) -> None:
        answers = await asyncio.gather(*(asyncio.to_thread(_answers_ready, port) for port in self._instances))
        self._ready = [port for port, ready in zip(self._instances, answers, strict=True) if ready]

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        instance = self._ready[next(self._turn) % len(self._ready)]
        try:
            to_read, to_write = await asyncio.open_connection("127.0.0.1", instance)
            await asyncio.gather(pass_on(reader, to_write), pass_on(to_read, writer))
        except OSError:
            writer.transport.abort()


@contextlib.contextmanager
def before(instances: Sequence[int]) -> Iterator[int]:
    """Run a Service before instances (their ports); yield its own port."""
    service = Service(instances)
    loop = asyncio.new_event_loop()
    stop, listening = asyncio.Event(), threading.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(service.run(stop, listening)))
    thread.start()
    try:
        assert listening.wait(10), "the Service does not listen"
        yield service.port
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


def _answers_ready(port: int) -> bool:
    with contextlib.suppress(OSError):
        return is_ready(port, tls=False)
    return False
