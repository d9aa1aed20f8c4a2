"""`python tests/attack/victim.py PORT SCHEME PREFIX FOLDER PID`: a client that nothing may harm, whatever others do.

It posts small reviews on one kept connection until its standard input ends, then prints what it saw as JSON. Beside it
the machine is watched: how late a sleep ends, how long a small write to the disk takes, how long the server was ready
to run and had no core. What the machine takes from everybody is not the server's doing, and is told apart.
"""

import contextlib
import json
import os
import pathlib
import socket
import ssl
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import running

EVERY_SECONDS = 0.02
TIMEOUT_SECONDS = 30.0
# A sleep that ends later than this, a write that takes longer: the machine is busy with something else.
LATE_SECONDS = 0.003


class Machine:
    """The delays of the machine itself, as (start, end)."""

    def __init__(self, folder):
        self.stopped = False
        self._delays = []
        self._path = pathlib.Path(folder, f"disk-{os.getpid()}")
        for watching in (self._watch_sleep, self._watch_disk):
            threading.Thread(target=watching, daemon=True).start()

    def between(self, start, end):
        """Return for how many seconds of a span it was busy with something else."""
        delays = sorted((max(began, start), min(ended, end)) for began, ended in self._delays)
        total, until = 0.0, start
        for began, ended in delays:
            if ended > max(began, until):
                total += ended - max(began, until)
                until = ended
        return total

    def _watch_sleep(self):
        while not self.stopped:
            due = time.monotonic() + 0.005
            time.sleep(0.005)
            self._delayed(due, time.monotonic())

    def _watch_disk(self):
        with open(self._path, "wb", buffering=0) as file:
            while not self.stopped:
                file.seek(0)
                file.write(b"x" * 600)
                began = time.monotonic()
                os.fdatasync(file.fileno())
                self._delayed(began, time.monotonic())
                time.sleep(0.02)
        self._path.unlink()

    def _delayed(self, began, ended):
        if ended - began > LATE_SECONDS:
            self._delays.append((began, ended))


class Caller:
    """One connection, opened again where it is lost."""

    def __init__(self, port, scheme):
        self._port = port
        self._scheme = scheme
        self.connections = 0
        self._raw = None
        self._file = None

    def post(self, body):
        """Return the status of the answer. Raises `OSError`, `ValueError`."""
        if self._raw is None:
            self._connect()
        self._raw.sendall(running.raw_post(body))
        return running.read_answer(self._file).status

    def close(self):
        if self._raw is not None:
            self._raw.close()
        self._raw = None

    def _connect(self):
        self.connections += 1
        raw = socket.create_connection(("127.0.0.1", self._port), timeout=TIMEOUT_SECONDS)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._scheme == "https":
            raw = ssl._create_unverified_context().wrap_socket(raw)
        self._raw, self._file = raw, raw.makefile("rb")


def waited_for_a_core(pid):
    """Return for how many seconds so far the server's event loop was ready to run and did not."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(pathlib.Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    return 0.0


def main(port, scheme, prefix, folder, pid):
    caller, machine = Caller(int(port), scheme), Machine(folder)
    posts, waits, wrong = [], [], []
    stopped = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stopped.set()), daemon=True).start()
    while not stopped.is_set():
        uid = f"{prefix}-{len(posts)}"
        before, began = waited_for_a_core(pid), time.monotonic()
        try:
            status = caller.post(running.review(uid))
            if status != 200:
                wrong.append([uid, f"answered {status}"])
        except (OSError, ValueError, IndexError) as error:
            wrong.append([uid, repr(error)])
            caller.close()
        ended = time.monotonic()
        posts.append((began, ended))
        waits.append(waited_for_a_core(pid) - before)
        if len(posts) == 1:
            print("ready", flush=True)
        time.sleep(EVERY_SECONDS)
    machine.stopped = True
    time.sleep(0.05)
    latencies = [
        (ended - began, max(0.0, ended - began - max(wait, machine.between(began, ended))))
        for (began, ended), wait in zip(posts, waits, strict=True)
    ]
    with contextlib.suppress(BrokenPipeError):
        seen = {"latencies": latencies, "spans": posts, "wrong": wrong, "connections": caller.connections}
        print(json.dumps(seen), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
