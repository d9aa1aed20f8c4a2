"""Reviews sent by hand, to hosts that no API server calls."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from http.client import HTTPConnection
from pathlib import Path

from judge import records

PATH = "/log-request?timeout=10s"
HEADERS = {"Content-Type": "application/json"}


def post(connection: HTTPConnection, body: bytes | Sequence[bytes]) -> int:
    """Return the status of the answer to one review; a sequence goes in chunks."""
    connection.request("POST", PATH, body, HEADERS, encode_chunked=not isinstance(body, bytes))
    response = connection.getresponse()
    response.read()
    return response.status


def uids(journal: Path) -> Counter[str]:
    """Return how often each review is in a journal."""
    return Counter(json.loads(line)["request"]["uid"] for line in records.lines(journal))
