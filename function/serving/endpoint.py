"""The routes: probes are answered at once, a review gets an `Exchange`, everything else a refusal."""

from __future__ import annotations

import asyncio
import time
import urllib.parse

import msgspec

from ..clusters.tokens import Cluster
from ..configuration.settings import BODY_BYTES_HARD_MAX
from ..configuration.units import parse_seconds
from ..journal import Journal
from ..metrics import Metrics
from .bounds import Bounds
from .intake import JSON, Caller, Exchange, Intake
from .refusals import RECORD_PATH, Refusal, body_of
from .throttle import Throttle

__all__ = ["PROBES", "Endpoint", "Head"]

PROBES = {"/healthz": "alive", "/_/health": "alive", "/readyz": "ready", "/_/ready": "ready"}

# A webhook's timeoutSeconds is 1 to 30, 10 by default; a share of it is left for the way back.
TIMEOUT_SECONDS_MIN, TIMEOUT_SECONDS_DEFAULT, TIMEOUT_SECONDS_MAX = 1.0, 10.0, 30.0
MARGIN_SHARE, MARGIN_SECONDS_MAX = 0.1, 0.5
# Those that are remembered; an API server has one query, for each webhook.
BUDGETS_MAX, BUDGET_QUERY_BYTES_MAX = 256, 256


class Head(msgspec.Struct, gc=False):
    """What matters of a request's head, but for the length of its body."""

    method: bytes
    path: str
    query: bytes
    content_type: bytes


class Endpoint:
    """Routes requests. ``cluster_name`` names the single cluster; it is empty where none is named."""

    def __init__(
        self, intake: Intake, journal: Journal, metrics: Metrics, *, bounds: Bounds, cluster_name: str = ""
    ) -> None:
        self.intake = intake
        self._journal = journal
        self._metrics = metrics
        self._only = Cluster(cluster_name)
        self._throttle = Throttle(free_failures=bounds.free_failures, failures_per_second=bounds.failures_per_second)
        self._refusals_held_max = bounds.refusals_held
        self._refusals_held = 0
        self._budgets: dict[bytes, float] = {}

    def begin(self, head: Head, length: int, caller: Caller) -> Exchange | None:
        """Return where the body of a review goes; None for what is answered by its head alone, now or soon.

        ``length`` is what the head says of the body, in bytes; 0 where it does not.
        """
        if head.path in PROBES:
            self._answer_probe(head, caller)
            return None
        self._metrics.http_requests.inc()
        cluster = None
        try:
            cluster = self._cluster_of(head)
            if head.content_type != b"application/json" and not _is_json(head.content_type):
                raise Refusal("content_type")
            if length > BODY_BYTES_HARD_MAX:
                raise Refusal("too_large")
            return Exchange(self.intake, cluster, self._budget(head.query), caller)
        except Exception as error:  # noqa: BLE001 - a framework would log our own mistake with the path
            if cluster is not None:
                cluster.refused += 1
            self._refuse(error, head, caller)
            return None

    def ready(self) -> tuple[bool, str]:
        """Return whether reviews may come, and why not.

        Disk trouble is a fast 500 and a metric: not being ready would take every replica out with one full volume.
        """
        if self.intake.draining:
            return False, "draining: this instance is shutting down"
        if not self._journal.opened:
            return False, "the journal directory could not be opened yet: see the log"
        return True, "ready"

    # -- routes -----------------------------------------------------------------------------------------------

    def _cluster_of(self, head: Head) -> Cluster:
        """Return the cluster whose review this is (its name is empty where none is named). Raises `Refusal`."""
        clusters = self.intake.configuration.clusters
        if clusters is None:
            if head.path not in (RECORD_PATH, "/"):
                raise Refusal("path")
            cluster = self._only
        else:
            if not head.path.startswith(RECORD_PATH + "/"):
                raise Refusal("path")
            name, _, token = head.path[len(RECORD_PATH) + 1 :].partition("/")
            known = clusters.check(name, token)
            if known is None:
                raise Refusal("cluster")
            cluster = known
        if head.method != b"POST":
            if clusters is not None:
                cluster.refused += 1
            raise Refusal("method")
        return cluster

    def _budget(self, query: bytes) -> float:
        """Return the seconds in which a review must be answered: ``?timeout=`` less a margin."""
        budget = self._budgets.get(query)
        if budget is None:
            timeout = min(max(_timeout(query), TIMEOUT_SECONDS_MIN), TIMEOUT_SECONDS_MAX)
            budget = timeout - min(timeout * MARGIN_SHARE, MARGIN_SECONDS_MAX)
            if len(self._budgets) < BUDGETS_MAX and len(query) <= BUDGET_QUERY_BYTES_MAX:
                self._budgets[query] = budget
        return budget

    def _answer_probe(self, head: Head, caller: Caller) -> None:
        close = self.intake.draining
        if head.method not in (b"GET", b"HEAD"):
            headers = JSON + b"allow: GET, HEAD\r\n"
            caller.answer(405, body_of("method not allowed", "probe with GET"), close=close, headers=headers)
        elif PROBES[head.path] == "alive":
            caller.answer(200, b'{"status":"alive"}', close=close)
        else:
            ready, why = self.ready()
            if ready:
                caller.answer(200, b'{"status":"ready"}', close=close)
            else:
                caller.answer(503, body_of(why, "reviews go to another instance meanwhile"), close=close)

    # -- refusing by the head alone ---------------------------------------------------------------------------

    def _refuse(self, error: Exception, head: Head, caller: Caller) -> None:
        refusal = self.intake.refusal(error)
        if delay := self._delay(refusal, head, caller):
            asyncio.get_running_loop().call_later(delay, self._refuse_held, refusal, caller)
        else:
            self._answer(refusal, caller)

    def _delay(self, refusal: Refusal, head: Head, caller: Caller) -> float:
        """Return how many seconds the refusal waits, 0 but for a client that keeps failing; count it among the held.

        At most half of what the caller grants, so that it sees a 404 and not a timeout.
        """
        if self.intake.configuration.clusters is None or refusal.status != 404:
            return 0.0
        delay = self._throttle.delay(caller.client[0] if caller.client else "", time.monotonic())
        delay = min(delay, self._budget(head.query) / 2)
        if not delay or self._refusals_held >= self._refusals_held_max:
            return 0.0
        self._refusals_held += 1
        self._metrics.refusals_slowed.inc()
        return delay

    def _refuse_held(self, refusal: Refusal, caller: Caller) -> None:
        self._refusals_held -= 1
        self._answer(refusal, caller)

    def _answer(self, refusal: Refusal, caller: Caller) -> None:
        headers = JSON + b"allow: POST\r\n" if refusal.status == 405 else JSON
        caller.answer(refusal.status, refusal.body(), close=refusal.close or self.intake.draining, headers=headers)


def _is_json(content_type: bytes) -> bool:
    """Return whether a Content-Type header says JSON."""
    return content_type.split(b";")[0].strip().lower() == b"application/json"


def _timeout(query: bytes) -> float:
    """Return the seconds of ``timeout=`` in the query, in Go's syntax; the default where there is none."""
    try:
        values = urllib.parse.parse_qs(query.decode("ascii")).get("timeout")
        return parse_seconds(values[0]) if values else TIMEOUT_SECONDS_DEFAULT
    except ValueError:
        return TIMEOUT_SECONDS_DEFAULT
