"""Streams against real servers: in one piece, in parts, and each request alone; the same answers, the same records."""

import asyncio
import random
import socket
import ssl
import time

import streams
import watch
from streams import UID

# So many cases are under way at once.
CASES_AT_ONCE = 40
SLOW_SECONDS = 0.6
STALL_SECONDS = 0.5
# The longest that a caller can ask for is 30 s.
END_SECONDS = 33.0
# The timeouts of the server under test: what never comes is waited for, so these are short.
BOUNDS = {"header_seconds": 3, "body_begins_seconds": 2, "sweep_seconds": 0.2, "aside_idle_seconds": 2}
SETTINGS = {"AUDIT_BODY_BYTES_MAX": "100000"}


class Sent:
    """A stream as it was sent once: ``uids`` are those of its reviews; ``data`` came back, until it ``ended`` so."""

    def __init__(self, stream):
        self.uids = []
        self.stream = stream
        self.data = b""
        self.ended = ""
        self.seconds = 0.0  # that sending took
        self.answers = []

    def fill(self, new_uid):
        """Give each review a uid of its own."""
        parts = self.stream.split(UID.encode())
        self.uids = [new_uid() for _ in parts[1:]]
        self.stream = parts[0] + b"".join(uid + part for uid, part in zip(self.uids, parts[1:], strict=True))


class Replay:
    """Sends cases to servers, a plain one and one with TLS."""

    def __init__(self, servers, seed, first):
        self.servers = servers
        self.seed = seed
        self.broken = False
        self._stalled_at = 0.0
        self._number = first
        self.counts = {"cases": 0, "streams": 0, "answers": 0, "recorded": 0, "resets": 0, "slow": 0}
        self.by_status = {}
        self._uids = 0
        self._journals = {server: Journal(server) for server in servers}

    async def until(self, ends, keep):
        """Send cases until then, or until one breaks; call ``keep`` for each that does."""

        async def sender():
            while time.monotonic() < ends and not self.broken:
                number, self._number = self._number, self._number + 1
                case, server, wrong, sent = await self._case(number)
                self._journals[server].read()
                wrong = wrong or self._wrong_records(case, server, sent)
                if wrong:
                    self.broken = True
                    files = {f"{place}-sent": one.stream for place, one in enumerate(sent)}
                    files |= {f"{place}-{one.ended}": one.data for place, one in enumerate(sent)}
                    keep("streams", number, wrong, files)

        watching = asyncio.create_task(self._watch_machine())
        await asyncio.gather(*(sender() for _ in range(CASES_AT_ONCE)))
        watching.cancel()

    async def _watch_machine(self):
        """Notice when the machine stands still: what was under way then says nothing about timeouts."""
        while True:
            due = time.monotonic() + 0.1
            await asyncio.sleep(0.1)
            if time.monotonic() - due > STALL_SECONDS:
                self._stalled_at = time.monotonic()

    async def _case(self, number):
        """Send the streams of a case; return it, its server, what is wrong with the answers, and what was sent."""
        began = time.monotonic()
        rng = random.Random(f"{self.seed} streams {number}")
        case = streams.case(rng, number)
        server = self.servers[number % len(self.servers)]
        stream = b"".join(request.data for request in case.requests)
        self.counts["cases"] += 1
        if case.end != "probe":
            torn = await self._send(server, stream, case.cuts, case.pause, case.end)
            return case, server, self._wrong_answers(torn, case.requests, ""), [torn]
        alone = []
        for request in case.requests:
            if not request.is_framed:
                break
            alone.append(await self._send(server, request.data, [], 0.0, "after"))
        whole = await self._send(server, stream + streams.PROBE, [], 0.0, "probe")
        torn = await self._send(server, stream + streams.PROBE, case.cuts, case.pause, "probe")
        sent = [*alone, whole, torn]
        wrong = next(filter(None, (self._wrong_answers(one, [], case.end) for one in alone)), "")
        for one in (whole, torn):
            wrong = wrong or self._wrong_answers(one, case.requests, case.end)
        own = [one.answers[0] if one.answers else None for one in alone]
        own += [None] * (len(case.requests) - len(own))
        if torn.seconds < SLOW_SECONDS and self._stalled_at < began:  # whoever is slower is not waited for
            wrong = wrong or streams.differs_from_alone(case, own, whole.answers)
            wrong = wrong or streams.differs_from_alone(case, own, torn.answers)
            wrong = wrong or streams.differ(case, whole.answers, torn.answers)
        else:
            self.counts["slow"] += 1
        return case, server, wrong, sent

    async def _send(self, server, stream, cuts, pause, end):
        sent = Sent(stream)
        sent.fill(self._new_uid)
        await talk(server, sent, cuts, pause, end)
        sent.answers, sent.rest = streams.answers(bytes(sent.data), sent.uids)
        self.counts["streams"] += 1
        self.counts["answers"] += len(sent.answers)
        self.counts["resets"] += sent.ended == "reset"
        for answer in sent.answers:
            self.by_status[answer.status] = self.by_status.get(answer.status, 0) + 1
        return sent

    def _new_uid(self):
        self._uids += 1
        return b"%012x" % self._uids

    def _wrong_answers(self, sent, requests, end):
        """Return what is wrong with the answers to a stream of these requests whatever is in it."""
        if sent.ended.startswith("unreached"):
            return f"the server could not be reached: {sent.ended}"
        is_framed = all(request.is_framed for request in requests)
        # Else the probe behind them, which asks for a close, may be the end of a body that seemed to have none.
        if sent.ended == "open" and (is_framed or len(sent.answers) < len(requests)):
            return f"{END_SECONDS:g} s later the connection was neither answered nor closed"
        if sent.rest and sent.ended == "closed" and end:
            return f"behind the answers came {bytes(sent.rest[:100])!r}"
        for answer in sent.answers:
            if answer.status >= 500 and not (answer.status == 503 and b"did not arrive in time" in answer.body):
                return f"answered {answer}"
        return ""

    def _wrong_records(self, case, server, sent):
        """Return what is wrong with the records of a case: lost, doubled, refused ones, or different ones."""
        seen = {}
        journal = self._journals[server]
        reads_on = case.end == "probe" or (case.end == "half" and server.scheme == "http")
        for one in sent:
            answered = sum(answer.status == 200 and b'"uid"' in answer.body for answer in one.answers)
            records = [journal.records.pop(uid, []) for uid in one.uids]
            self.counts["recorded"] += sum(map(len, records))
            if any(len(found) > 1 for found in records):
                return "a review was recorded twice"
            if sum(map(len, records)) < answered:
                return f"{answered} reviews were acknowledged, {sum(map(len, records))} are recorded"
            if sum(map(len, records)) > answered and one.ended != "reset" and reads_on:
                return f"{answered} reviews were acknowledged, {sum(map(len, records))} are recorded"
            if one is not sent[-1] and one is not sent[-2:][0]:
                continue
            for place, (uid, found) in enumerate(zip(one.uids, records, strict=True)):
                if found and seen.setdefault(place, fields := streams.normal(found[0], uid)) != fields:
                    return f"review {place} was recorded as {seen[place]} and as {fields}"
        return ""


class Journal:
    """What a server has recorded since the last look: lines by the uid of their review."""

    def __init__(self, server):
        self._server = server
        self._read = {}
        self.records = {}

    def read(self):
        for path in sorted(self._server.journal.glob("*/audit-*.ndjson")):
            for line in watch.new_lines(path, self._read):
                uid = line.partition(b'"uid":"')[2][:12]
                self.records.setdefault(uid, []).append(line)


class _Client(asyncio.Protocol):
    """Collects what comes; ``ended`` is set at the end, ``came`` with the first bytes."""

    def __init__(self, sent):
        self._sent = sent
        self._data = bytearray()
        self.came = asyncio.Event()
        self.ended = asyncio.Event()

    def data_received(self, data):
        self._data += data
        self.came.set()

    def eof_received(self):
        self._end("closed")

    def connection_lost(self, exc):
        self._end("reset" if exc else "closed")

    def _end(self, how):
        if not self.ended.is_set():
            self._sent.ended, self._sent.data = how, bytes(self._data)
        self.ended.set()
        self.came.set()

    def give_up(self):
        self._end("open")


async def talk(server, sent, cuts, pause, end):
    """Send a stream, cut at these places, and collect what comes back until the end."""
    loop = asyncio.get_running_loop()
    context = ssl._create_unverified_context() if server.scheme == "https" else None
    client = _Client(sent)
    try:
        transport, _ = await loop.create_connection(lambda: client, "127.0.0.1", server.port, ssl=context)
    except OSError as error:
        sent.ended = f"unreached-{type(error).__name__}"
        return
    transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        began = time.monotonic()
        for piece in streams.torn(sent.stream, cuts):
            if client.ended.is_set():
                break
            transport.write(piece)
            await asyncio.sleep(pause)
        sent.seconds = time.monotonic() - began
        if end == "after":  # the answer comes first, then the probe
            await _at_most(client.came.wait(), END_SECONDS)
            await asyncio.sleep(0.01)
            transport.write(streams.PROBE)
        elif end == "half" and transport.can_write_eof():
            transport.write_eof()
        elif end in ("abort", "half"):
            await asyncio.sleep(pause)
            transport.abort()
        await _at_most(client.ended.wait(), END_SECONDS)
        client.give_up()
    finally:
        transport.abort()


async def _at_most(awaitable, seconds):
    try:
        await asyncio.wait_for(awaitable, seconds)
    except TimeoutError:
        return


def run(servers, seed, first, seconds, keep):
    """Send cases until the time is up, or one breaks; return what was sent."""
    replay = Replay(servers, seed, first)
    asyncio.run(replay.until(time.monotonic() + seconds, keep))
    return replay
