"""`tests/attack/run [--seed N] [--seconds S] [--only PART] [--first I]`: attack real servers, and say what held.

Parts: ``streams`` (torn, pipelined and odd HTTP, over TCP and TLS), ``objects`` (hostile ones, and such as Go writes)
and ``floods``. Beside objects and floods a victim posts on a kept connection: each of its reviews is recorded, and
answered within 100 ms, but for what the machine itself takes. No server may take more than 300 MiB, its children
included, nor keep it afterwards. What breaks is kept in build/attack, with the command that does it again.
"""

import argparse
import contextlib
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent))

import floods
import objects
import replay
import running
import trustme
import watch

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
VICTIM_WAITED = "the victim waited"
# AUDIT_BODY_BYTES_MAX.
LARGEST_BYTES = 32 << 20
VICTIM_SECONDS = 0.1
MEMORY_BYTES = 300 << 20
# What may stay for good: memory that the system's allocator keeps, and caches.
KEPT_BYTES = 64 << 20
SETTLE_SECONDS = 20.0
BROKEN_MAX = 8
# The share of the time that each part gets, and the least of a flood, of a server that objects are sent to.
SHARES = {"streams": 0.3, "objects": 0.3, "floods": 0.4}
FLOOD_SECONDS = 4.0
SETUP_SECONDS = 15.0


class Campaign:
    """One run: what it was given, and what came of it."""

    def __init__(self, seed, seconds, first, folder):
        self.seed = seed
        self.seconds = seconds
        self.first = first
        self.broken = []
        self.lines = []
        self.folder = folder
        self.kept = ROOT / "build" / "attack" / str(seed)
        self.tls = certificate(folder)

    def keep(self, part, number, wrong, files):
        """Keep what broke, and say how to do it again; of many that break at once the first few."""
        if len(self.broken) == BROKEN_MAX:
            return
        folder = self.kept / f"{part}-{number}".replace(" ", "-")
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)
        first = f" --first {number}" if isinstance(number, int) else ""
        again = f"tests/attack/run --seed {self.seed} --only {part}{first}"
        (folder / "README").write_text(f"{wrong}\n\n{again}\n")
        self.broken.append(f"{part} {number}: {wrong}"[:1000])
        say(f"BROKEN  {part} {number}: {wrong[:1000]}\n        kept in {folder.relative_to(ROOT)}; again: {again}")

    # -- parts ------------------------------------------------------------------------------------------------

    def part(self, part, seconds):
        """Run a part; once more where all that broke is that a victim waited: a busy machine does that once."""
        broken, lines = len(self.broken), len(self.lines)
        getattr(self, part)(seconds)
        if self.broken[broken:] and all(VICTIM_WAITED in one for one in self.broken[broken:]):
            say(f"{part} again: is it the machine?")
            del self.broken[broken:], self.lines[lines:]
            getattr(self, part)(seconds)

    def streams(self, seconds):
        """Torn, pipelined and odd HTTP."""
        command = running.bounded(**replay.BOUNDS)
        with (
            self.server("streams", replay.SETTINGS, command=command) as plain,
            self.server("streams", replay.SETTINGS | self.tls, command=command, scheme="https") as tls,
        ):
            sent = replay.run([plain, tls], self.seed, self.first, seconds, self.keep)
            peak = max(plain.watch.peak_bytes, tls.watch.peak_bytes)
        statuses = ", ".join(f"{count} times {status}" for status, count in sorted(sent.by_status.items()))
        counts = sent.counts
        self.report(
            "streams",
            f"{counts['cases']} cases as {counts['streams']} streams: {counts['answers']} answers ({statuses}), "
            f"{counts['recorded']} records, {counts['resets']} ended by a reset, {counts['slow']} too slow to compare",
            peak=peak,
        )

    def objects(self, seconds):
        """Hostile objects, to servers of every setup in turn."""
        until, peak, victims, number = time.monotonic() + seconds, 0, [], self.first
        total, refused, slowest = {}, {}, [0.0, ""]
        turns = max(len(objects.SETUPS), round(seconds / SETUP_SECONDS))
        names = [name for _ in range(turns) for name in objects.SETUPS][:turns]
        for turn, name in enumerate(names):
            settings = objects.settings(name, self.folder) | {"AUDIT_JOURNAL_BYTES_MAX": "100GiB"}
            command = running.bounded(aside_idle_seconds=2)
            with self.server("objects", settings, command=command) as server, self.victim(server, f"v{turn}") as victim:
                ends = time.monotonic() + (until - time.monotonic()) / (turns - turn)
                seen = self.attack_with("objects.py", self.seed, number, ends - time.monotonic(), server.port)
                number = seen.get("number", number)
                for one, wrong in seen.get("broken", []):
                    self.keep("objects", one, f"({name}) {wrong}", {"body": objects.case(self.seed, one)[1]})
                self.ended(victim)
                lines, degraded = objects.recorded(server)
                added(total, seen.get("counts", {}) | {"degraded": degraded})
                added(refused, seen.get("refused", {}))
                slowest = max(slowest, seen.get("slowest", slowest))
                if lines != (acknowledged := seen.get("counts", {}).get("recorded", 0) + victim.recorded):
                    self.keep("objects", name, f"{acknowledged} were acknowledged, {lines} are recorded", {})
                if victim.worst > self.limit("objects", name):
                    say(f"  ({name}) the victim waited beside {victim.beside(seen.get('spans', []))}")
                self.judge("objects", name, victim, server)
                peak = max(peak, server.watch.peak_bytes)
                victims.append(victim)
            if self.broken:
                break
        refusals = ", ".join(f"{count} times {status}" for status, count in sorted(refused.items()))
        self.report(
            "objects",
            f"{total['objects']} objects, {total['bytes'] >> 20} MiB: {total['recorded']} recorded, "
            f"{total['degraded']} of them by their heads, refused {refusals or 0}; "
            f"the slowest took {slowest[0]:.1f} s ({slowest[1]})",
            peak=peak,
            victims=victims,
        )

    def floods(self, seconds):
        """Floods, one after the other, on a server each for plain connections and TLS."""
        every = [("http", name) for name in floods.FLOODS] + [("https", name) for name in floods.TLS_FLOODS]
        rng = random.Random(f"{self.seed} floods")
        rng.shuffle(every)
        chosen = every[: max(1, int(seconds / (FLOOD_SECONDS + 2)))]
        each = max(FLOOD_SECONDS, seconds / len(chosen) - 2)
        command = running.bounded(aside_idle_seconds=2)
        victims, peak, total = [], 0, {}
        with contextlib.ExitStack() as stack:
            servers = {
                "http": stack.enter_context(self.server("floods", {}, command=command)),
                "https": stack.enter_context(self.server("floods", self.tls, command=command, scheme="https")),
            }
            for number, (scheme, name) in enumerate(chosen):
                for attempt in ("", "again "):
                    server = servers[scheme]
                    server.watch.begin()
                    victim, counts = self.flood(server, f"f{number}{attempt[:1]}", name, each)
                    peak = max(peak, server.watch.peak_bytes)
                    took = megabytes(server.watch.peak_bytes)
                    say(f"  {attempt}{scheme} {name}: {victim.summary()}, {took}, {counts}")
                    late = victim.worst > self.limit("floods", name)
                    if not late:  # what a busy machine did once it does not do twice
                        break
                self.judge("floods", name, victim, server)
                victims.append(victim)
                added(total, counts)
        sent = ", ".join(f"{value} {key}" for key, value in sorted(total.items()))
        self.report("floods", f"{len(chosen)} floods of {each:.0f} s: {sent}", peak=peak, victims=victims)

    def flood(self, server, prefix, name, seconds):
        """Run one flood beside a victim; return the victim, and what was sent."""
        with self.victim(server, prefix) as victim:
            arguments = [name, f"{self.seed} {name}", seconds, server.port, server.metrics_port, server.scheme]
            counts = self.attack_with("floods.py", *arguments)
            self.ended(victim)
        found = sum(line.count(b'"uid":"%b-' % prefix.encode()) for line in lines_since(server))
        if found != len(victim.latencies) - len(victim.wrong):
            self.keep("floods", name, f"{len(victim.latencies)} of the victim's reviews, {found} recorded", {})
        return victim, counts

    def attack_with(self, program, *arguments):
        """Run attackers, in a process of the lowest priority; return what they print."""
        command = [sys.executable, str(HERE / program), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, timeout=self.seconds + 120, check=False)
        if done.returncode:
            self.keep(program.removesuffix(".py"), arguments[0], "the attacker broke", {"stderr": done.stderr})
            return {}
        return json.loads(done.stdout)

    # -- what must hold ---------------------------------------------------------------------------------------

    def judge(self, part, name, victim, server):
        """Say what did not hold beside an attack."""
        if victim.wrong:
            self.keep(part, name, f"{len(victim.wrong)} of the victim's reviews: {victim.wrong[:3]}", {})
        if victim.connections > 1:
            self.keep(part, name, f"the victim's connection was cut {victim.connections - 1} times", {})
        if victim.worst > self.limit(part, name):
            self.keep(part, name, f"{VICTIM_WAITED}: {victim.summary()}", {})
        if server.watch.peak_bytes > MEMORY_BYTES:
            self.keep(part, name, f"the server took {megabytes(server.watch.peak_bytes)}", {})

    def limit(self, part, name):
        """Return how long a victim may wait, in seconds: an idle server's worst is allowed for.

        So is the disk's time for one record of the largest size: what is stored behind it waits for it.
        """
        stores_large = part == "objects" or name in floods.LARGE_RECORDS
        return VICTIM_SECONDS + self.baseline + (self.large_write if stores_large else 0.0)

    @contextlib.contextmanager
    def server(self, part, settings, **more):
        """A server, watched; it lives, has told no mistake of its own, and gives back what it took."""
        with running.serve(settings, **more) as server:
            server.watch = watch.Watch(server.pid)
            descriptors, threads = watch.descriptors(server.pid), watch.threads(server.pid)
            server.read_bytes = {}
            yield server
            if server.process.poll() is not None:
                self.keep(part, "server", f"it ended with {server.process.returncode}", {"log": bytes(server.stderr)})
                return
            more_bytes = server.watch.settled(KEPT_BYTES, SETTLE_SECONDS)
            server.watch.end()
            if more_bytes > KEPT_BYTES:
                self.keep(part, "memory", f"{megabytes(more_bytes)} were not given back", {})
            with contextlib.suppress(AssertionError):
                running.wait_for(lambda: watch.descriptors(server.pid) <= descriptors + 20, SETTLE_SECONDS)
            if (now := watch.descriptors(server.pid)) > descriptors + 20:
                self.keep(part, "descriptors", f"{descriptors} before, {now} after", {})
            if (now := watch.threads(server.pid)) > threads + 2:
                self.keep(part, "threads", f"{threads} before, {now} after", {})
            if server.request("GET", "/readyz").status != 200:
                self.keep(part, "server", "it is not ready any more", {})
            server.signal()
            code, log = server.wait(60), bytes(server.stderr)
            if code or b"Traceback" in log or b"error of our own" in log:
                self.keep(part, "log", f"exit code {code}, or a mistake of its own", {"log": log})

    @contextlib.contextmanager
    def victim(self, server, prefix):
        victim = Victim(server, prefix, self.folder)
        try:
            yield victim
        finally:
            victim.kill()

    def ended(self, victim):
        victim.end()

    def measure_baseline(self):
        """Let a victim post to an idle server, for what the machine itself makes of 100 ms."""
        self.baseline = 0.0
        with running.serve() as server, self.victim(server, "idle") as victim:
            time.sleep(min(5.0, max(2.0, self.seconds / 30)))
            victim.end()
        self.baseline = victim.worst
        self.large_write = max(_write_seconds(self.folder) for _ in range(3))
        say(f"idle: {victim.summary()}; the disk takes {milliseconds(self.large_write)} for the largest record")

    def report(self, part, text, *, peak, victims=()):
        held = "" if not any(line.startswith(part) for line in self.broken) else "BROKEN; "
        waits = [wait for victim in victims for _, wait in victim.latencies]
        if victims:
            gross = max(wait for victim in victims for wait, _ in victim.latencies)
            text += (
                f"; victims: {len(waits)} reviews, p50 {milliseconds(sorted(waits)[len(waits) // 2])}, worst "
                f"{milliseconds(max(waits))} ({milliseconds(gross)} with the machine's own delays)"
            )
        self.lines.append(f"{part:8} {held}{text}; peak {megabytes(peak)}")


def _write_seconds(folder):
    """Return what a record of the largest size takes, from the write to the disk's answer."""
    data = os.urandom(LARGEST_BYTES)
    began = time.monotonic()
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(data)
        file.flush()
        os.fdatasync(file.fileno())
        return time.monotonic() - began


class Victim:
    """The process of `victim.py`. After `end` it has ``latencies`` (with and without the machine's own delays)."""

    def __init__(self, server, prefix, folder):
        arguments = map(str, (server.port, server.scheme, prefix, folder, server.pid))
        program = [sys.executable, str(HERE / "victim.py"), *arguments]
        self._process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout.readline() == b"ready\n"
        self.latencies, self.wrong, self.connections = [], [], 0

    def end(self):
        """Let it finish, and take what it saw."""
        out, _ = self._process.communicate(timeout=90)
        seen = json.loads(out)
        self.latencies, self.wrong, self.connections = seen["latencies"], seen["wrong"], seen["connections"]
        self.spans = seen["spans"]

    def beside(self, spans):
        """Return what of ``spans`` was going on while it waited longest."""
        worst = max(range(len(self.latencies)), key=lambda number: self.latencies[number][1])
        began, ended = self.spans[worst]
        return "; ".join(f"{number}: {what}" for start, end, number, what in spans if start < ended and end > began)

    def kill(self):
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    @property
    def worst(self):
        return max(wait for _, wait in self.latencies)

    @property
    def recorded(self):
        return len(self.latencies) - len(self.wrong)

    def summary(self):
        waits = sorted(wait for _, wait in self.latencies)
        return (
            f"{len(waits)} reviews, p50 {milliseconds(waits[len(waits) // 2])}, "
            f"p99 {milliseconds(waits[len(waits) * 99 // 100])}, worst {milliseconds(waits[-1])} "
            f"({milliseconds(max(wait for wait, _ in self.latencies))} in all)"
        )


def lines_since(server):
    """Yield the lines that the journal has since this was asked last."""
    for path in sorted(server.journal.glob("*/audit-*.ndjson")):
        with contextlib.suppress(FileNotFoundError):  # retention took it
            yield from watch.new_lines(path, server.read_bytes)


def added(total, more):
    """Add counts to others."""
    for name, count in more.items():
        total[name] = total.get(name, 0) + count


def certificate(folder):
    """Return the settings of a server with a certificate of its own."""
    issued = trustme.CA().issue_cert("localhost")
    issued.private_key_pem.write_to_path(str(folder / "tls.key"))
    issued.cert_chain_pems[0].write_to_path(str(folder / "tls.crt"))
    return {"AUDIT_TLS_CERT_FILE": str(folder / "tls.crt"), "AUDIT_TLS_KEY_FILE": str(folder / "tls.key")}


def milliseconds(seconds):
    return f"{seconds * 1000:.0f} ms"


def megabytes(size):
    return f"{size / (1 << 20):.0f} MiB"


def say(text):
    print(text, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[2], usage=__doc__.partition(":")[0])
    parser.add_argument("--seed", default=str(random.SystemRandom().randrange(1 << 32)), help="what chance depends on")
    parser.add_argument("--seconds", type=float, default=120.0, help="about how long it takes, in all")
    parser.add_argument("--only", choices=list(SHARES), help="one part")
    parser.add_argument("--first", type=int, default=0, help="the number of the first case")
    arguments = parser.parse_args()
    parts = [arguments.only] if arguments.only else list(SHARES)
    say(f"seed {arguments.seed}: {', '.join(parts)}, {arguments.seconds:g} s")
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(arguments.seed, arguments.seconds, arguments.first, pathlib.Path(folder))
        campaign.measure_baseline()
        share = sum(SHARES[part] for part in parts)
        for part in parts:
            campaign.part(part, arguments.seconds * SHARES[part] / share)
    say("\n" + "\n".join(campaign.lines))
    if campaign.broken:
        say(f"\nseed {arguments.seed}: {len(campaign.broken)} did not hold")
        return 1
    say(f"\nseed {arguments.seed}: all held")
    return 0


if __name__ == "__main__":
    sys.exit(main())
