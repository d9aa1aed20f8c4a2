"""``clusters check``: a synthetic review through the real URL, as an API server would send it, and what came back."""

from __future__ import annotations

import contextlib
import glob
import http.client
import json
import os
import ssl
import time
import urllib.parse
import uuid
from typing import Any, NamedTuple

from .. import synthetic
from ..record import reading
from ..record.reading import NotARecord

__all__ = ["Found", "check"]

TIMEOUT_SECONDS = 10
ANSWER_BYTES_MAX = 64 << 10


class Found(NamedTuple):
    """What the check found: whether all is well, and what to say, (subject, text) each. No token is in it."""

    well: bool
    lines: list[tuple[str, str]]


def check(urls: list[str], *, cluster: str, ca_file: str | None, journal: str | None) -> Found:
    """Post one synthetic review to each of ``urls`` (one for each token) on one connection.

    The certificate is verified as an API server does: against ``ca_file``, or what the system trusts. ``journal`` is
    a journal directory to look for the records in. Raises `OSError` when ``ca_file`` cannot be read.
    """
    parts = urllib.parse.urlsplit(urls[0])
    context = ssl.create_default_context(cafile=ca_file)
    connection = http.client.HTTPSConnection(
        parts.hostname or "", parts.port or 443, timeout=TIMEOUT_SECONDS, context=context
    )
    with contextlib.closing(connection):
        lines, well = _connect(connection)
        if not well:
            return Found(well=False, lines=lines)
        for number, url in enumerate(urls, 1):
            which = f" {number} of {len(urls)}" if len(urls) > 1 else ""
            found = _ask(connection, urllib.parse.urlsplit(url).path, which, cluster, journal)
            well = well and found.well
            lines += found.lines
    return Found(well, lines)


def _connect(connection: http.client.HTTPSConnection) -> tuple[list[tuple[str, str]], bool]:
    address = f"{connection.host}:{connection.port}"
    try:
        connection.connect()
    except ssl.SSLCertVerificationError as error:
        hint = "an API server with the same caBundle refuses it too"
        return [("TLS", f"FAILED: {error.verify_message} ({hint})")], False
    except ssl.SSLError as error:
        return [("TLS", f"FAILED: {error.reason or 'no TLS'}: does {address} serve https?")], False
    except OSError as error:
        return [("connect", f"FAILED: {address}: {error.strerror or error}")], False
    except UnicodeError:
        return [("connect", f"FAILED: {address}: no name of a host")], False
    return [("TLS", _certificate(connection.sock))], True


def _certificate(sock: Any) -> str:
    presented = sock.getpeercert() or {}
    until = str(presented.get("notAfter", "unknown"))
    issuer = dict(pair[0] for pair in presented.get("issuer", ()))
    by = issuer.get("commonName") or issuer.get("organizationName") or "unknown"
    return f"ok: {sock.version()}, certificate of {by}, valid until {until}"


def _ask(connection: http.client.HTTPSConnection, path: str, which: str, cluster: str, journal: str | None) -> Found:
    uid = f"check-{uuid.uuid4()}"
    headers = {"Content-Type": "application/json", "User-Agent": "kube-apiserver-admission"}
    started = time.perf_counter()
    try:
        connection.request("POST", f"{path}?timeout={TIMEOUT_SECONDS}s", synthetic.review(uid), headers)
        response = connection.getresponse()
        body = response.read(ANSWER_BYTES_MAX)
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        return Found(well=False, lines=[("answer", f"FAILED: none came: {type(error).__name__}")])
    took = f"{(time.perf_counter() - started) * 1e3:.0f} ms"
    well, lines = _judged(response.status, body, uid, which, took)
    if well and journal:
        recorded, where = _recorded(journal, uid, cluster)
        return Found(recorded, [*lines, ("journal", where)])
    return Found(well, lines)


def _judged(status: int, body: bytes, uid: str, which: str, took: str) -> tuple[bool, list[tuple[str, str]]]:
    """Return whether the answer is that of a recorded review, and what to say about it."""
    answer = _json(body)
    response = answer.get("response")
    if status == 200 and isinstance(response, dict) and response.get("uid") == uid and response.get("allowed") is True:
        recorded = f"yes: 200 in {took}, uid {uid} (or left out by the policy)"
        return True, [("token" + which, "ok: accepted"), ("recorded", recorded)]
    if status == 404 and answer.get("error") == "not found":
        hint = "a wrong token, or a cluster that the endpoint does not know yet"
        return False, [("token" + which, f"REFUSED: 404: {hint}")]
    if answer.keys() == {"error", "hint"} and status in _OURS:
        return False, [("token" + which, "ok: accepted"), ("recorded", f"NO: {status}: {_OURS[status]}")]
    return False, [("answer" + which, f"FAILED: {status}, not from this function: does the ingress pass the path on?")]


_OURS = {
    400: "the endpoint does not take the review: another version?",
    500: "the journal cannot store: see the endpoint's log",
    503: "too much waits, or the volume is slow: see the endpoint's metrics",
}


def _json(body: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError, RecursionError):
        if isinstance(answer := json.loads(body), dict):
            return answer
    return {}


def _recorded(journal: str, uid: str, cluster: str) -> tuple[bool, str]:
    """Return whether a segment holds the record, under the right cluster, and which."""
    for path in glob.glob(os.path.join(glob.escape(journal), "*", "audit-*.ndjson")):
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as segment:  # retention was faster
            for line in segment:
                if uid.encode() in line and (named := _cluster_of(line, uid)) is not None:
                    right = named == cluster or not cluster
                    return right, f"{'ok' if right else 'WRONG CLUSTER'}: in {path}"
    return False, f"NOT in {journal}: another replica's volume, or left out by the policy"


def _cluster_of(line: bytes, uid: str) -> str | None:
    """Return the cluster of the record ``uid``, None where the line is another's."""
    with contextlib.suppress(NotARecord):
        record = reading.read(line)
        return record.cluster if record.uid == uid else None
    return None
