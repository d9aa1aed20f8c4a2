"""`python -m function.serving.aside_process MEMORY_BYTES LINE_BYTES_MAX`: the process of `aside.Aside`.

It speaks on the socket that is its standard input, and ends with it. It may take so many bytes more than it has at its
start, and answer lines of so many.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import resource
import socket
import sys
import traceback

import msgspec

from ..recorder import Recorder
from ..review import BadReview
from .aside import LENGTH_BYTES, Reply, Task

__all__ = ["main"]

NICE = 5  # those who answer go first


def main(arguments: list[str]) -> None:
    """Record what comes until nothing more does."""
    memory_bytes, line_bytes_max = map(int, arguments)
    sock = socket.socket(fileno=0)
    with contextlib.suppress(OSError):
        os.nice(NICE)
    _bound_memory(memory_bytes)
    recorder = None
    with contextlib.suppress(ConnectionError):  # our parent is gone, wherever that finds us
        while True:
            size = int.from_bytes(_received(sock, LENGTH_BYTES), "big")
            task = msgspec.msgpack.decode(_received(sock, size), type=Task)
            if task.recorder:
                recorder = pickle.loads(task.recorder)  # noqa: S301 - our parent's
            reply, line = _answer(recorder, task, sock, line_bytes_max)
            encoded = msgspec.msgpack.encode(reply)
            sock.sendall(len(encoded).to_bytes(LENGTH_BYTES, "big") + encoded)
            sock.sendall(line)


def _answer(recorder: Recorder | None, task: Task, sock: socket.socket, line_bytes_max: int) -> tuple[Reply, bytes]:
    try:
        body = _received(sock, int.from_bytes(_received(sock, LENGTH_BYTES), "big"))
        assert recorder is not None  # noqa: S101 - the first task brings one
        uid, line, degraded = recorder.record(body, received_ns=task.received_ns, cluster=task.cluster)
    except BadReview as bad:
        return Reply("bad", reason=bad.reason, text=str(bad)), b""
    except MemoryError:
        return Reply("too_much"), b""
    except Exception as error:  # noqa: BLE001 - our own mistake; not its text: it may quote what it failed on
        frames = traceback.extract_tb(error.__traceback__)
        where = ", ".join(f"{os.path.basename(frame.filename)}:{frame.lineno}" for frame in frames)
        return Reply("mistake", text=f"{type(error).__name__} in {where}"), b""
    if line is not None and len(line) > line_bytes_max:
        return Reply("too_much"), b""
    return Reply("recorded", uid, len(line or b""), degraded), line or b""


def _received(sock: socket.socket, size: int) -> bytes:
    """Return ``size`` bytes. Raises `ConnectionError` where the other side is gone."""
    parts = []
    while size:
        part = sock.recv(min(size, 1 << 20))
        if not part:
            raise ConnectionResetError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _bound_memory(memory_bytes: int) -> None:
    with contextlib.suppress(OSError, ValueError), open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + memory_bytes, now + memory_bytes))


if __name__ == "__main__":
    main(sys.argv[1:])
