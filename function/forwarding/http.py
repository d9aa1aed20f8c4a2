"""HTTP to a backend: one keep-alive connection, TLS, credentials from files, and what an answer means."""

from __future__ import annotations

import base64
import email.utils
import re
import ssl
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from .sink import Refused, Retry, SinkError

if TYPE_CHECKING:
    import urllib3

__all__ = ["Answer", "Credentials", "Poster", "judged"]

# The longest that an answer may take: a sink that hangs is tried again.
READ_SECONDS = 30.0
CONNECT_SECONDS = 5.0
REASON_CHARACTERS_MAX = 500


class Answer(NamedTuple):
    """An HTTP response."""

    status: int
    retry_after: float  # seconds; 0 where the backend does not say
    body: bytes
    content_type: str = ""

    def excerpt(self) -> str:
        """Return the start of the body: for the file of rejected records, not for the log."""
        return self.body[:REASON_CHARACTERS_MAX].decode(errors="replace")


class Credentials(NamedTuple):
    """Files that are read for each request, so that a rotated secret is taken up. Empty: none."""

    bearer_file: str = ""
    api_key_file: str = ""
    username: str = ""
    password_file: str = ""
    headers_file: str = ""

    def headers(self) -> dict[str, str]:
        """Return the headers they make. Raises `OSError`, and `ValueError` for text that is no header."""
        return (_headers(self.headers_file) if self.headers_file else {}) | self._authorization()

    def _authorization(self) -> dict[str, str]:
        if self.bearer_file:
            return {"Authorization": f"Bearer {_secret(self.bearer_file)}"}
        if self.api_key_file:
            return {"Authorization": f"ApiKey {_secret(self.api_key_file)}"}
        if self.username:
            pair = f"{self.username}:{_secret(self.password_file)}".encode()
            return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}
        return {}


class Poster:
    """Sends requests to the server of ``url``. ``ca_file`` or ``ca_pem`` replace the system's authorities."""

    def __init__(
        self,
        url: str,
        *,
        ca_file: str = "",
        ca_pem: str = "",
        credentials: Credentials | None = None,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        self._parts = urlsplit(url)
        self.path = self._parts.path or "/"
        self.query = self._parts.query
        self._ca_file = ca_file
        self._read_seconds = read_seconds
        self._ca_pem = ca_pem
        self._credentials = credentials or Credentials()
        self._pool: urllib3.HTTPConnectionPool | None = None

    @property
    def target(self) -> str:
        """Path and query, as in the URL."""
        return f"{self.path}?{self.query}" if self.query else self.path

    def open(self) -> None:
        """Read the authorities' certificates; nothing is sent. Raises `SinkError`."""
        import urllib3  # noqa: PLC0415 - whoever only reads a sink's settings sends nothing

        timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=self._read_seconds)
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "https":
            context = _tls(self._ca_file, self._ca_pem)
            self._pool = urllib3.HTTPSConnectionPool(
                host, port, timeout=timeout, maxsize=1, retries=False, ssl_context=context
            )
        else:
            self._pool = urllib3.HTTPConnectionPool(host, port, timeout=timeout, maxsize=1, retries=False)

    def request(self, method: str, target: str, body: bytes, headers: Mapping[str, str]) -> Answer | Retry:
        """Return the answer, or why there is none."""
        import urllib3  # noqa: PLC0415 - see open

        if self._pool is None:
            return Retry("not open")
        try:
            secret = self._credentials.headers()
        except (OSError, ValueError) as error:
            return Retry(f"the credentials cannot be read: {_unreadable(error)}")
        try:
            response = self._pool.urlopen(
                method, target, body=body, headers={**headers, **secret}, redirect=False, assert_same_host=False
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            return Retry(_cause(error))
        headers_ = response.headers
        after = _retry_after(headers_.get("Retry-After", ""))
        return Answer(response.status, after, response.data, headers_.get("Content-Type", ""))

    def close(self) -> None:
        """Close the connection."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None


def judged(answer: Answer | Retry) -> Answer | Retry:
    """Return a 2xx answer, or the `Retry` that another one means. Raises `Refused` for what concerns the content.

    Whatever may be the set-up's fault (401, 403, 404, redirects) is tried again: a token that has expired must not
    end with records set aside.
    """
    if isinstance(answer, Retry) or 200 <= answer.status < 300:
        return answer
    if answer.status in (400, 413, 422):
        raise Refused(f"HTTP {answer.status}: {answer.excerpt()}", too_large=answer.status == 413)
    return Retry(f"HTTP {answer.status}", answer.retry_after, answer.status == 429)


def _unreadable(error: OSError | ValueError) -> str:
    """Return why a file of credentials is of no use, and nothing of what is in it."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return "not ASCII" if isinstance(error, UnicodeError) else str(error)


def _secret(path: str) -> str:
    with open(path, "rb") as file:
        text = file.read(1 << 16).decode("ascii").strip()
    if not text.isprintable():
        raise ValueError("more than one line")
    return text


def _headers(path: str) -> dict[str, str]:
    """Return the headers of a file, ``Name: value`` on each line."""
    with open(path, "rb") as file:
        lines = file.read(1 << 16).decode("ascii").splitlines()
    pairs = [line.partition(":") for line in lines if line.strip()]
    if not all(colon and _is_token(name) and value.strip().isprintable() for name, colon, value in pairs):
        raise ValueError("a line that is not `Name: value`")
    return {name: value.strip() for name, _, value in pairs}


_is_token = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch


def _tls(ca_file: str, ca_pem: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file or None, cadata=ca_pem or None)
    except (OSError, ValueError) as error:
        raise SinkError(f"the CA certificates cannot be used: {error}", "give PEM certificates") from None


def _cause(error: BaseException) -> str:
    """Return what went wrong, without URL, headers or body."""
    reason = getattr(error, "reason", None)
    inner = reason if isinstance(reason, BaseException) else error
    deepest = inner.__cause__ or inner.__context__ or inner
    text = getattr(deepest, "strerror", None) or getattr(deepest, "verify_message", None)
    return f"{type(inner).__name__}: {text}" if text else type(inner).__name__


def _retry_after(text: str) -> float:
    """Return the seconds that a Retry-After header asks for: a number, or a date."""
    if text.isascii() and text.isdigit():
        return float(text[:9])
    parsed = email.utils.parsedate_tz(text) if text else None
    try:
        return max(0.0, email.utils.mktime_tz(parsed) - time.time()) if parsed else 0.0
    except (ValueError, OverflowError):  # of no year that there is
        return 0.0
