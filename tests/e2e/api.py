"""A client of the API server: one kept-alive connection a thread, tokens for users, answers as they came."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"


@dataclass(frozen=True)
class Answer:
    """What the API server answered."""

    status: int
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    def __str__(self) -> str:
        return f"{self.status} {self.body[:400].decode(errors='replace')}"


class Unexpected(AssertionError):  # noqa: N818 - an answer, not an error
    """A request of the workload ended otherwise than it must."""


class Api:
    """Requests of one user, from any thread."""

    def __init__(self, port: int, tls: ssl.SSLContext, *, token: str = "", impersonate: dict[str, str] | None = None):
        self.port = port
        self._tls = tls
        self._headers = ({"Authorization": f"Bearer {token}"} if token else {}) | (impersonate or {})
        self._mine = threading.local()

    def as_user(self, name: str, *groups: str) -> Api:
        """Return a client that impersonates somebody (one group at most: headers are a dictionary)."""
        headers = {"Impersonate-User": name} | ({"Impersonate-Group": groups[0]} if groups else {})
        return Api(self.port, self._tls, impersonate=self._headers | headers)

    def with_token(self, token: str) -> Api:
        return Api(self.port, self._tls, token=token)

    def call(
        self, method: str, path: str, body: Any = None, *, content_type: str = "application/json", **query: str
    ) -> Answer:
        """Return the answer, whatever it is. ``body`` is bytes as they are, or an object to encode."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = self._headers | ({"Content-Type": content_type} if data is not None else {})
        target = f"{path}?{urlencode(query)}" if query else path
        for attempt in (1, 2):
            connection = self._connection(fresh=attempt == 2)
            try:
                connection.request(method, target, body=data, headers=headers)
                response = connection.getresponse()
                return Answer(response.status, response.read())
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                # The API server ended an idle connection; a second end is its own.
                if attempt == 2:
                    raise
        raise AssertionError("unreachable")

    def must(self, method: str, path: str, body: Any = None, *, status: int = 0, **options: Any) -> Answer:
        """Return the answer. Raises `Unexpected` unless it is a success, or has ``status``."""
        answer = self.call(method, path, body, **options)
        if answer.status != status if status else not answer.ok:
            raise Unexpected(f"{method} {path}: {answer}")
        return answer

    def create(self, path: str, body: Any, **options: Any) -> Answer:
        return self.must("POST", path, body, **options)

    def _connection(self, *, fresh: bool) -> http.client.HTTPSConnection:
        known: http.client.HTTPSConnection | None = getattr(self._mine, "connection", None)
        if known is None or fresh:
            if known is not None:
                known.close()
            known = http.client.HTTPSConnection("127.0.0.1", self.port, context=self._tls, timeout=60)
            self._mine.connection = known
        return known
