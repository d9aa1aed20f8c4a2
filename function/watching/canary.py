"""Canaries: a dry run of a create that goes the whole way of a review, and is looked for where it must arrive.

Whatever breaks that way is seen, for any cause: a certificate, a network policy, a selector, a provider's meddling.
Nothing is stored in the cluster. A canary does not know the uid of its review, but its name is used once.
"""

from __future__ import annotations

import http.client
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from .. import synthetic
from ..metrics import WatchMetrics
from ..record.url_tokens import without_tokens
from .api_server import ApiServer, Unreachable

__all__ = ["Canary"]

log = logging.getLogger("audit.watch")

# The API server's answer comes after the webhook's, and that after the record: it is there, or will not be.
FOUND_WITHIN_SECONDS_MIN, FOUND_WITHIN_SECONDS_MAX = 1.0, 5.0
POLL_SECONDS = 0.2
ASK_SECONDS = 2.0

_HINTS = {
    "no_answer": "can this pod reach the API server?",
    "refused": "the API server's message says why: rights (deploy/kubernetes/watch), a quota, or the webhook itself",
    "not_recorded": "`python -m function doctor --kubectl` looks for the reason: webhook, network, policy",
    "unasked": "AUDIT_WATCH_CANARY_URL is to name every process that answers reviews, by its metrics port",
}


class Canary:
    """Sends one every ``seconds``, into ``namespace``; asks every address of ``url`` whether it recorded it."""

    def __init__(self, api: ApiServer, url: str, metrics: WatchMetrics, *, namespace: str, seconds: float) -> None:
        parts = urlsplit(url)
        self._api = api
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._metrics = metrics
        self._namespace = namespace
        self._seconds = seconds
        self._stopped = threading.Event()

    def run(self) -> None:
        """Send canaries until stopped."""
        while not self._stopped.is_set():
            began = time.monotonic()
            self.send()
            self._stopped.wait(max(0.0, self._seconds - (time.monotonic() - began)))

    def stop(self) -> None:
        """End soon."""
        self._stopped.set()

    def send(self) -> str:
        """Send one, and return why it was lost; empty where its record was found."""
        began = time.monotonic()
        reason, details = self._tried()
        if reason and self._stopped.is_set():  # nobody looked for it to the end
            return reason
        if reason:
            self._metrics.canary_lost(reason)
            log.error("watch: a canary was lost: %s: %s", reason, details, extra={"hint": _HINTS[reason]})
        else:
            self._metrics.canary_found(time.monotonic() - began)
        return reason

    # -- steps ------------------------------------------------------------------------------------------------

    def _tried(self) -> tuple[str, str]:
        name = synthetic.canary_name(os.urandom(16).hex())
        path = f"/api/v1/namespaces/{self._namespace}/configmaps"
        try:
            answer = self._api.post(path, synthetic.canary(name, self._namespace), dryRun="All")
        except Unreachable as error:
            return "no_answer", str(error)
        if answer.status != 201:
            # Of a webhook that failed the message has the URL, and that our token.
            return "refused", without_tokens(str(answer).encode(errors="replace")).decode()
        return self._looked_for(name)

    def _looked_for(self, name: str) -> tuple[str, str]:
        until = time.monotonic() + min(max(FOUND_WITHIN_SECONDS_MIN, self._seconds), FOUND_WITHIN_SECONDS_MAX)
        while True:
            answers = list(self._answers(name))
            if 200 in answers:
                return "", ""
            if time.monotonic() >= until or self._stopped.wait(POLL_SECONDS):
                break
        reached = [status for status in answers if status]
        if not reached:
            return "unasked", f"{len(answers)} addresses of {self._host}, and none answered"
        return "not_recorded", f"{len(reached)} of {len(answers)} processes say that they have no such record"

    def _answers(self, name: str) -> Iterator[int]:
        """Yield the status that each process answers with, 0 for none, until one has the record."""
        for address in self._addresses():
            status = _asked(address, self._port, f"{synthetic.CANARY_PATH}{name}")
            yield status
            if status == 200:
                return

    def _addresses(self) -> list[str]:
        try:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):  # no such name; a name that cannot be one
            return []
        return sorted({str(address[0]) for *_, address in found})


def _asked(address: str, port: int, path: str) -> int:
    connection = http.client.HTTPConnection(address, port, timeout=ASK_SECONDS)
    try:
        connection.request("GET", path)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()
    return status if status in (200, 404) else 0
