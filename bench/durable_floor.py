"""The floor of a webhook that records: TLS, one hand-over to a thread that writes, one back, and nothing else.

httptools and uvloop; answers the uid once a thread has written the body to a file (``AUDIT_FSYNC=always``: and synced
it). An eventfd each way is the quickest hand-over that CPython offers: no lock, no queue. It checks, bounds and counts
nothing. Run: ``PORT=8080 AUDIT_JOURNAL_DIR=/tmp/journal python bench/durable_floor.py``.
"""

import asyncio
import os
import threading

import orjson
from bare_httptools import Bare, answer, run


class Disk:
    """A file, and the thread that writes it. One group of bodies at a time."""

    def __init__(self) -> None:
        directory = os.environ["AUDIT_JOURNAL_DIR"]
        self._syncs = os.environ.get("AUDIT_FSYNC", "always") == "always"
        self._fd = os.open(os.path.join(directory, "floor.ndjson"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._wanted, self._stored = os.eventfd(0), os.eventfd(0, os.EFD_NONBLOCK)
        self._waiting: list[tuple[DurableFloor, bytes]] = []
        self._group: list[tuple[DurableFloor, bytes]] = []
        asyncio.get_running_loop().add_reader(self._stored, self._finish)
        threading.Thread(target=self._write, daemon=True).start()

    def store(self, caller: "DurableFloor", body: bytes) -> None:
        """Write ``body``, then let ``caller`` answer."""
        self._waiting.append((caller, body))
        if not self._group:
            self._hand_over()

    def _hand_over(self) -> None:
        self._group, self._waiting = self._waiting, []
        os.eventfd_write(self._wanted, 1)

    def _write(self) -> None:
        while True:
            os.eventfd_read(self._wanted)
            os.write(self._fd, b"".join(body for _, body in self._group))
            if self._syncs:
                os.fdatasync(self._fd)
            os.eventfd_write(self._stored, 1)

    def _finish(self) -> None:
        os.eventfd_read(self._stored)
        group, self._group = self._group, []
        for caller, body in group:
            caller.respond(body)
        if self._waiting:
            self._hand_over()


class DurableFloor(Bare):
    """One connection. A request without a body is a probe."""

    disk: Disk | None = None

    def on_message_complete(self) -> None:
        """Store the review."""
        body = b"".join(self.body)
        if not body:
            self.transport.write(answer(b"{}"))
            return
        cls = type(self)
        if cls.disk is None:
            cls.disk = Disk()
        cls.disk.store(self, body)

    def respond(self, body: bytes) -> None:
        """Answer the review."""
        response = {"uid": orjson.loads(body)["request"]["uid"], "allowed": True}
        review = {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response}
        self.transport.write(answer(orjson.dumps(review)))


if __name__ == "__main__":
    run(DurableFloor)
