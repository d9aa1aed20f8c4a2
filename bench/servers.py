"""Starting the servers that are measured, as their users start them, each with a journal of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import trustme
from load import Target

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
PATH = "/log-request?timeout=10s"
START_SECONDS_MAX = 30
STOP_SECONDS_MAX = 40

FLOOR = "floor"
HTTPTOOLS = "httptools"
UVICORN = "uvicorn"
PYTHON = sys.executable
COMMANDS = {
    "serve": [PYTHON, "-m", "function", "serve"],
    "serve-tls": [PYTHON, "-m", "function", "serve"],
    "functions-framework": [
        os.path.join(os.path.dirname(PYTHON), "functions-framework"), "--target=handle", "--source=handler.py",
    ],
    FLOOR: [PYTHON, os.path.join(HERE, "floor.py")],
    HTTPTOOLS: [PYTHON, os.path.join(HERE, "bare_httptools.py")],
    UVICORN: [PYTHON, os.path.join(HERE, "bare_uvicorn.py")],
}  # fmt: skip
JOURNALLESS = (FLOOR, HTTPTOOLS, UVICORN)
FIXED_UID = (HTTPTOOLS, UVICORN)


class Certificates(NamedTuple):
    """Files made for the run: a certificate for 127.0.0.1, its key, the CA that signed it."""

    cert: str
    key: str
    ca: str


class Running(NamedTuple):
    """A server that answered its first probe ``start_ms`` after it was started."""

    target: Target
    start_ms: float
    journal: str

    def records(self) -> int:
        """Return how many records the journal holds now."""
        return sum(_lines(os.path.join(at, name)) for at, _, names in os.walk(self.journal) for name in names)


def make_certificates(directory: str) -> Certificates:
    """Make a CA and a certificate (ECDSA P-256) in ``directory``."""
    files = Certificates(*(os.path.join(directory, name) for name in ("tls.crt", "tls.key", "ca.crt")))
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    authority.cert_pem.write_to_path(files.ca)
    certificate.private_key_pem.write_to_path(files.key)
    for number, blob in enumerate(certificate.cert_chain_pems):
        blob.write_to_path(files.cert, append=number > 0)
    return files


@contextlib.contextmanager
def running(
    server: str, environ: Mapping[str, str], *, tree: str, scratch: str, certificates: Certificates, core: int | None
) -> Iterator[Running]:
    """Start ``server`` from the checkout ``tree``; stop it with SIGTERM at the end.

    Raises `RuntimeError` when it does not answer ``/healthz`` in time, with the end of what it logged.
    """
    journal = tempfile.mkdtemp(prefix=f"{server}-", dir=scratch)
    port = free_port()
    tls = certificates if server.endswith("-tls") else None
    log_path = os.path.join(scratch, "server.log")
    with open(log_path, "wb") as log:
        start = time.perf_counter()
        process = subprocess.Popen(
            COMMANDS[server],
            env=_environ(server, port, journal, tls) | dict(environ),
            cwd=tree,
            stdout=log,
            stderr=log,
            preexec_fn=None if core is None else lambda: os.sched_setaffinity(0, {core}),  # noqa: PLW1509 - no threads here
        )
    try:
        if not _wait_for_200(process, port, tls):
            raise RuntimeError(f"{server} does not answer /healthz; it said:\n{_end_of(log_path)}")
        start_ms = (time.perf_counter() - start) * 1e3
        url = f"http{'s' if tls else ''}://127.0.0.1:{port}{PATH}"
        yield Running(Target(url, process.pid, tls.ca if tls else "", fixed_uid=server in FIXED_UID), start_ms, journal)
    finally:
        _stop(process)
        shutil.rmtree(journal)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _environ(server: str, port: int, journal: str, tls: Certificates | None) -> dict[str, str]:
    """Return the environment of a server: ours without AUDIT_ settings, plus those of the run."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("AUDIT_")}
    ours.pop("PYTHONDONTWRITEBYTECODE", None)  # or each start would compile ours again, and not the libraries'
    ours |= {"PORT": str(port)}
    if server not in JOURNALLESS:
        ours |= {"AUDIT_JOURNAL_DIR": journal, "AUDIT_METRICS_PORT": "0", "AUDIT_DRAIN_SECONDS": "0"}
    if tls:
        ours |= {"AUDIT_TLS_CERT_FILE": tls.cert, "AUDIT_TLS_KEY_FILE": tls.key}
    return ours


def _wait_for_200(process: subprocess.Popen[bytes], port: int, tls: Certificates | None) -> bool:
    context = ssl.create_default_context(cafile=tls.ca) if tls else None
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            if _probe(port, context):
                return True
        time.sleep(0.002)
    return False


def _probe(port: int, context: ssl.SSLContext | None) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
        connection = context.wrap_socket(plain, server_hostname="127.0.0.1") if context else plain
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return connection.recv(64).startswith(b"HTTP/1.1 200")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _end_of(path: str) -> str:
    with open(path, errors="replace") as file:
        return file.read()[-2000:]


def _lines(path: str) -> int:
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:  # retention may be at work
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
    return 0
