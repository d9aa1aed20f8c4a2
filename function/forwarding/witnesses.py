"""Asking witnesses to cosign checkpoints (c2sp.org/tlog-witness): beside the sinks, and never in a review's way.

What a witness has cosigned lies beside the segments, and is all the state there is.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Sequence

from ..journal.evidence import Evidence, cosigned_name, read_evidence, write_whole
from ..journal.files import Files
from ..journal.leaves import leaves, start_before
from ..transparency import checkpoint as checkpoints
from ..transparency import witness as protocol
from ..transparency.keys import parse_verifier_key
from ..transparency.note import Malformed
from ..transparency.paths import consistency_proof
from ..transparency.tree import leaf_hash
from ..transparency.witness import AddCheckpoint, Cosigned, NotCosigned, SizeConflict
from .http import Poster
from .sink import Retry, SinkError

__all__ = ["WitnessWorker", "make_witnesses"]

log = logging.getLogger("audit.witness")

POLL_SECONDS = 2.0
BACKOFF_SECONDS_MIN, BACKOFF_SECONDS_MAX = 5.0, 300.0


def make_witnesses(witnesses: Sequence[tuple[str, str]]) -> list[WitnessWorker]:
    """Return a worker for each URL and verifier key."""
    return [WitnessWorker(url, key) for url, key in witnesses]


class WitnessWorker:
    """One witness, on a thread of its own. Give it `directories`."""

    def __init__(self, url: str, key: str, *, files: Files | None = None, poll_seconds: float = POLL_SECONDS) -> None:
        self._key = parse_verifier_key(key)
        self.name = self._key.name
        self.directories: tuple[str, ...] = ()
        self._files = files or Files()
        self._poll_seconds = poll_seconds
        self._poster = Poster(f"{url.rstrip('/')}/add-checkpoint")
        self._log = log.getChild(self._key.key_id.hex())
        self._done: dict[str, int] = {}
        self._waits: dict[str, tuple[float, float]] = {}  # not before, and how long the last wait was
        self._failures = 0
        self._last = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit-witness", daemon=True)

    def start(self) -> None:
        """Start asking."""
        self._thread.start()

    def stop(self) -> None:
        """End after what is being asked now."""
        self._stopping.set()

    def join(self, seconds: float) -> bool:
        """Return whether the thread has ended within ``seconds``."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def status(self) -> dict[str, float]:
        """Return the failures so far, and when it last cosigned (Unix time)."""
        return {"failures": self._failures, "last_cosignature": self._last}

    def is_through(self, directory: str) -> bool:
        """Return whether the newest checkpoint of ``directory`` is cosigned, or there is none."""
        try:
            size, _ = _newest(read_evidence(self._files, directory))
        except Malformed:
            return True  # it is no checkpoint: it is not asked about
        return self._cosigned(directory) >= size

    # -- its thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.wait(self._poll_seconds):
            try:
                self._poster.open()
                for directory in self.directories:
                    if not self._stopping.is_set():
                        self._look(directory)
            except SinkError as error:
                self._fail(f"cannot be asked: {error}", error.hint)
            except Exception:  # noqa: BLE001 - logged; the next look tries again
                self._failures += 1
                self._log.exception("witness: %s: internal error", self.name)
            finally:
                self._poster.close()

    def _look(self, directory: str) -> None:
        now = time.monotonic()
        if now < self._waits.get(directory, (0.0, 0.0))[0]:
            return
        try:
            evidence = read_evidence(self._files, directory)
            size, newest = _newest(evidence)
            old = self._cosigned(directory)
            if size <= old:
                return
            is_done = self._ask(directory, evidence, newest, old, size)
        except (FileNotFoundError, Malformed):
            return  # retention was faster; or it is no checkpoint, which `verify` says
        except (OSError, ValueError) as error:
            self._fail(f"no proof for {directory}: {error}", "it will be retried; check the volume")
            is_done = False
        if is_done:
            self._waits.pop(directory, None)
        else:
            last = self._waits.get(directory, (0.0, BACKOFF_SECONDS_MIN / 2))[1]
            wait = min(2 * last, BACKOFF_SECONDS_MAX)
            self._waits[directory] = (now + random.uniform(wait / 2, wait), wait)  # noqa: S311 - not for secrets

    def _ask(self, directory: str, evidence: Evidence, newest: bytes, old: int, size: int) -> bool:
        """Ask for a cosignature, twice where the witness knows another size; return whether it is there."""
        for _ in range(2):
            request = AddCheckpoint(old, self._proof(directory, evidence, old, size), newest)
            answer = self._poster.request("POST", self._poster.target, request.encode(), {})
            if isinstance(answer, Retry):
                self._fail(answer.reason, "it is asked again; is it up, and is its URL right?")
                return False
            body = answer.body[: protocol.BODY_BYTES_MAX]
            outcome = protocol.outcome(request, answer.status, answer.content_type, body, [self._key])
            if isinstance(outcome, Cosigned):
                path = f"{directory}/{cosigned_name(self._key.key_id)}"
                write_whole(self._files, path, outcome.checkpoint)
                self._done[directory] = size
                self._last = time.time()
                return True
            if isinstance(outcome, NotCosigned):
                self._fail(outcome.reason, outcome.hint, alarming=outcome.alarming)
                return False
            if isinstance(outcome, SizeConflict):
                old = outcome.size
        self._fail("the witness contradicts itself about the size", "report it to its operator")
        return False

    def _proof(self, directory: str, evidence: Evidence, old: int, size: int) -> tuple[bytes, ...]:
        if not old or old == size:
            return ()
        start = start_before(evidence, old)
        hashes = (leaf_hash(one.line) for one in leaves(self._files, directory, evidence, start.number))
        return tuple(consistency_proof(hashes, old_size=old, size=size, before=start.edge))

    def _cosigned(self, directory: str) -> int:
        """Return how many entries of ``directory`` the witness has cosigned, as far as we know."""
        if directory not in self._done:
            try:
                data = self._files.tail(f"{directory}/{cosigned_name(self._key.key_id)}", protocol.BODY_BYTES_MAX)
                self._done[directory] = checkpoints.parse_signed(data)[0].size
            except (FileNotFoundError, Malformed):
                self._done[directory] = 0
        return self._done[directory]

    def _fail(self, reason: str, hint: str, *, alarming: bool = False) -> None:
        self._failures += 1
        report = self._log.error if alarming else self._log.warning
        report("witness: %s has not cosigned: %s", self.name, reason, extra={"hint": hint})


def _newest(evidence: Evidence) -> tuple[int, bytes]:
    """Return the largest checkpoint and its size; 0 where there is none of any entry."""
    for _, contents in sorted(evidence.checkpoints.items(), reverse=True):
        found = [one for content in contents for one in checkpoints.split(content)[0]]
        if found:
            sized = [(checkpoints.parse_signed(one)[0].size, one) for one in found]
            return max(sized)
    return 0, b""
