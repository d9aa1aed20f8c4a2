"""The API server over HTTPS, from inside the cluster: get, post and watch.

Plain ``http.client``: a tenth of the import time and a quarter of the memory of a Kubernetes client, and all that a
client would do for us is short enough to be read here. Each call has a connection of its own and reads the token and
the certificates anew, so that rotated ones are taken up: a projected token lives an hour, a watch five minutes.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import ssl
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

import msgspec

__all__ = ["Answer", "ApiServer", "Unreachable"]

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 30.0
# The API server sends a bookmark about once a minute, so a watch that is silent for longer is dead.
SILENCE_SECONDS = 150.0
BODY_BYTES_MAX = 256 << 20
LINE_BYTES_MAX = 32 << 20  # an object has 3 MiB at most, each byte of it six where it is escaped


class Unreachable(Exception):  # noqa: N818 - named after what it means; the caller tries again
    """There is no answer. The text says why, and holds no token."""


class _Status(msgspec.Struct):
    message: str = ""


class Answer(NamedTuple):
    """An HTTP response."""

    status: int
    body: bytes

    def __str__(self) -> str:
        """Return what the API server says of it, for a log."""
        try:
            message = _status(self.body).message
        except msgspec.DecodeError:
            message = ""
        return f"HTTP {self.status} {message[:300]}".rstrip()


class ApiServer:
    """Calls the server of ``url``, as whoever the token in ``token_file`` is; without a file, as nobody."""

    def __init__(self, url: str, *, token_file: str = "", ca_file: str = "") -> None:
        parts = urlsplit(url)
        self._scheme, self._host, self._port = parts.scheme, parts.hostname or "", parts.port
        self._base = parts.path.rstrip("/")
        self._token_file = token_file
        self._ca_file = ca_file

    def get(self, path: str, **query: str) -> Answer:
        """Return the answer, whatever it is. Raises `Unreachable`."""
        with self._answered("GET", path, query, b"", ANSWER_SECONDS) as response:
            return Answer(response.status, _read(response))

    def post(self, path: str, body: Any, **query: str) -> Answer:
        """Return the answer, whatever it is; ``body`` is sent as JSON. Raises `Unreachable`."""
        with self._answered("POST", path, query, json.dumps(body).encode(), ANSWER_SECONDS) as response:
            return Answer(response.status, _read(response))

    @contextlib.contextmanager
    def watch(self, path: str, **query: str) -> Iterator[tuple[int, Iterator[bytes]]]:
        """Give the status, and the lines as they come until the other end closes. Raises `Unreachable`.

        A line that is cut off in the middle is none.
        """
        with self._answered("GET", path, query, b"", SILENCE_SECONDS) as response:
            yield response.status, _lines(response)

    @contextlib.contextmanager
    def _answered(
        self, method: str, path: str, query: dict[str, str], body: bytes, seconds: float
    ) -> Iterator[http.client.HTTPResponse]:
        connection = None
        try:
            connection = self._connection()
            connection.connect()
            connection.sock.settimeout(seconds)
            target = self._base + path + (f"?{urlencode(query)}" if query else "")
            connection.request(method, target, body or None, self._headers())
            yield connection.getresponse()
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unreachable(_cause(error)) from None
        finally:
            if connection is not None:
                connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self._scheme == "http":
            return http.client.HTTPConnection(self._host, self._port, timeout=CONNECT_SECONDS)
        try:
            context = ssl.create_default_context(cafile=self._ca_file or None)
        except OSError as error:
            raise OSError(f"{self._ca_file}: {error.strerror}") from None
        return http.client.HTTPSConnection(self._host, self._port, timeout=CONNECT_SECONDS, context=context)

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": "kube-audit-function-watch"}
        headers |= {"Content-Type": "application/json"}
        if self._token_file:
            headers["Authorization"] = f"Bearer {_token(self._token_file)}"
        return headers


def _token(path: str) -> str:
    try:
        with open(path, "rb") as file:
            token = file.read(1 << 16).strip()
    except OSError as error:
        raise OSError(f"{path}: {error.strerror}") from None
    if not re.fullmatch(rb"[!-~]+", token):  # nothing of it is told
        raise OSError(f"{path}: holds no token")
    return token.decode("ascii")


def _read(response: http.client.HTTPResponse) -> bytes:
    body = response.read(BODY_BYTES_MAX + 1)
    if len(body) > BODY_BYTES_MAX:
        raise OSError("the answer is too long")
    return body


def _lines(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while (line := response.readline(LINE_BYTES_MAX)).endswith(b"\n"):
        yield line
    if len(line) >= LINE_BYTES_MAX:
        raise OSError("a line of the watch is too long")


def _cause(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    said = str(error) if isinstance(error, OSError) else ""  # other errors may quote a header
    return getattr(error, "strerror", None) or said or type(error).__name__


_status = msgspec.json.Decoder(_Status).decode
