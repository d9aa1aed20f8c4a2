"""Real servers for tests: processes on free ports, stopped by their pid, whatever the test does."""

import contextlib
import hashlib
import http.client
import json
import os
import pathlib
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

from ports import free_ports

ROOT = pathlib.Path(__file__).parent.parent
START_SECONDS = 40.0
STOP_SECONDS = 30.0
RESPONSE_SECONDS = 30.0
# By which a busy machine may hold up what a test times: bounds tell seconds from tens of seconds, not what is quick.
BUSY_SECONDS = 2.0
SERVE = [sys.executable, "-m", "function", "serve"]
JSON = {"Content-Type": "application/json"}


def review(uid="7d1f", *, name="demo", object=None, **request):  # noqa: A002 - the field's name
    """Return a small review as the API server writes it: compact, one line, a line break at the end."""
    fields = {
        "uid": uid,
        "kind": {"group": "", "version": "v1", "kind": "ConfigMap"},
        "resource": {"group": "", "version": "v1", "resource": "configmaps"},
        "name": name,
        "namespace": "default",
        "operation": "CREATE",
        "userInfo": {"username": "jane", "groups": ["system:authenticated"]},
        "object": object if object is not None else {"kind": "ConfigMap", "apiVersion": "v1"},
        "oldObject": None,
        "dryRun": False,
        "options": None,
    }
    return envelope(json.dumps(fields | request, separators=(",", ":"), ensure_ascii=False).encode())


def envelope(request):
    """Return the review with these bytes as its request."""
    return b'{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":%b}\n' % request


def nested(levels, uid="deep"):
    """Return a review whose object is nested this deep."""
    body = review(uid, object={"deep": "HERE"})
    return body.replace(b'"HERE"', b'{"a":' * (levels - 1) + b"1" + b"}" * (levels - 1))


def large(size, uid="large"):
    """Return a review of about ``size`` bytes."""
    return review(uid, object={"data": {"blob": "x" * size}})


def sha256(data):
    return hashlib.sha256(data).hexdigest()


class Answer:
    """A response: ``status``, ``headers`` (lower-case names), ``body``."""

    def __init__(self, status, headers, body):
        self.status = status
        self.headers = {name.lower(): value for name, value in headers}
        self.body = body

    @property
    def json(self):
        return json.loads(self.body)


class Server:
    """A running process; ``journal`` is its journal's directory."""

    def __init__(self, process, port, metrics_port, journal, scheme, *, hold_stdout=False):
        self.process = process
        self.pid = process.pid
        self.port = port
        self.metrics_port = metrics_port
        self.journal = journal
        self.scheme = scheme
        self.url = f"{scheme}://127.0.0.1:{port}"
        self.stdout = bytearray()
        self.stderr = bytearray()
        self._readers = []
        self._read(process.stderr, self.stderr)
        if not hold_stdout:
            self.read_stdout()

    def read_stdout(self):
        """Read the process's standard output from now on; before, it blocks when its pipe is full."""
        self._read(self.process.stdout, self.stdout)

    def _read(self, pipe, into):
        self._readers.append(threading.Thread(target=_collect, args=(pipe, into), daemon=True))
        self._readers[-1].start()

    def request(self, method, path, body=None, headers=JSON):
        """Return the answer to one request on a connection of its own."""
        connection = self.connect()
        try:
            return ask(connection, method, path, body, headers)
        finally:
            connection.close()

    def post(self, body, path="/log-request?timeout=10s", headers=JSON):
        return self.request("POST", path, body, headers)

    def connect(self):
        """Return a connection; over TLS it trusts whoever answers."""
        if self.scheme == "http":
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=RESPONSE_SECONDS)
        context = ssl._create_unverified_context()
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=RESPONSE_SECONDS, context=context)

    def socket(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=RESPONSE_SECONDS)

    def send(self, data):
        """Send raw bytes and return all that comes back until the server closes."""
        with self.socket() as raw:
            raw.sendall(data)
            return read_all(raw)

    def lines(self):
        """Return every line of the journal, as bytes."""
        paths = sorted(self.journal.glob("*/audit-*.ndjson"))
        return [line for path in paths for line in path.read_bytes().splitlines()]

    def line_at(self, place):
        """Return the line that an answer's annotation leads to: directory, segment, byte."""
        segment, _, offset = place.rpartition("/")
        with (self.journal / segment).open("rb") as file:
            file.seek(int(offset))
            return file.readline()

    def records(self, uid=None):
        """Return the journal's records, or those of one review."""
        found = [json.loads(line) for line in self.lines()]
        return [record for record in found if uid is None or record["request"]["uid"] == uid]

    def log(self):
        """Return the log so far: one dictionary a line; a line that is not JSON fails the test."""
        return [json.loads(line) for line in bytes(self.stderr).splitlines() if line.strip()]

    def logged(self, part, seconds=20.0):
        """Return the first log line whose message contains ``part``; wait for it."""
        return wait_for(lambda: next((line for line in self.log() if part in line["message"]), None), seconds)

    def metrics(self):
        """Return every sample as a dictionary: ``name{labels}`` to value."""
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=RESPONSE_SECONDS) as response:
            return parse_metrics(response.read().decode())

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def wait(self, seconds=STOP_SECONDS):
        """Return the exit code, and make sure that all output was read."""
        code = self.process.wait(seconds)
        for reader in self._readers:
            reader.join(5)
        return code

    def ready(self):
        with contextlib.suppress(OSError):
            return self.request("GET", "/readyz").status == 200
        return False


def ask(connection, method, path, body=None, headers=JSON):
    """Return the answer to a request on an open connection."""
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    return Answer(response.status, response.getheaders(), response.read())


@contextlib.contextmanager
def serve(env=None, *, command=SERVE, journal=None, scheme="http", wait=True, hold_stdout=False):
    """Start ``command`` with ``env`` and nothing else of ours in the environment; stop it at the end."""
    with contextlib.ExitStack() as stack:
        if journal is None:
            journal = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        port, metrics_port = free_ports(2)
        settings = {
            "PORT": str(port),
            "AUDIT_METRICS_PORT": str(metrics_port),
            "AUDIT_JOURNAL_DIR": str(journal),
            "AUDIT_DRAIN_SECONDS": "0",
        } | (env or {})
        process = start(command, settings)
        stack.callback(stop, process)
        server = Server(
            process,
            int(settings["PORT"]),
            int(settings["AUDIT_METRICS_PORT"]),
            journal,
            scheme,
            hold_stdout=hold_stdout,
        )
        if wait:
            wait_for(lambda: server.ready() or process.poll() is not None, START_SECONDS)
            if process.poll() is not None:
                server.wait()
                raise AssertionError(f"exit code {process.returncode}: {bytes(server.stderr).decode()}")
        yield server


def bounded(limits=None, **bounds):
    """Return the command that serves with other bounds than the promised ones, such as ``header_seconds=1``.

    ``limits`` are the system's for the process, such as ``{"NOFILE": (128, 200)}``.
    """
    return [sys.executable, str(ROOT / "tests" / "serve_bounded.py"), json.dumps(bounds), json.dumps(limits or {})]


def functions_framework(env=None, *, source="handler.py", **more):
    """Start the function as functions-framework runs it."""
    framework = os.path.join(os.path.dirname(sys.executable), "functions-framework")
    port = free_port()
    command = [sys.executable, framework, "--target=handle", f"--source={source}", "--port", str(port)]
    return serve({"PORT": str(port)} | (env or {}), command=command, **more)


def start(command, env):
    """Start a process in a session of its own."""
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=clean_environment() | env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def stop(process):
    """End a process and its children, by the group that they alone are in."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(60)  # a thread that is inside fdatasync ends with it, and the disk may be busy
    for pipe in (process.stdout, process.stderr):
        with contextlib.suppress(OSError, ValueError):
            pipe.close()


def run(command, env=None, *, seconds=120.0, cwd=ROOT):
    """Run a command to its end; return (exit code, stdout, stderr) as text."""
    finished = subprocess.run(
        command, cwd=cwd, env=clean_environment() | (env or {}), capture_output=True, timeout=seconds, check=False
    )
    return finished.returncode, finished.stdout.decode(), finished.stderr.decode()


def clean_environment():
    """Return the environment without settings of the function or its hosts."""
    ours = ("AUDIT_", "FUNCTION_", "GUNICORN_")
    hosts = {"PORT", "WORKERS", "THREADS", "DEBUG", "HOST", "K_SINK", "GUNICORN_CMD_ARGS", "WEB_CONCURRENCY"}
    return {name: value for name, value in os.environ.items() if not name.startswith(ours) and name not in hosts}


def free_port():
    """Return a port that nobody listens on."""
    return free_ports(1)[0]


def can_connect(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def wait_for(condition, seconds=20.0):
    """Return what ``condition`` returns as soon as it is true; fail after ``seconds``."""
    until = time.monotonic() + seconds
    while True:
        if found := condition():
            return found
        if time.monotonic() > until:
            raise AssertionError(f"not within {seconds:g} s")
        time.sleep(0.02)


def read_all(raw):
    """Return what comes until the other side closes (or resets)."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while part := raw.recv(65536):
            data += part
    return data


def read_answer(file):
    """Return the next response on a connection, read from a buffered file of its socket."""
    status = int(file.readline().split()[1])
    headers = []
    while (line := file.readline()) not in (b"\r\n", b""):
        name, _, value = line.decode("latin-1").partition(":")
        headers.append((name, value.strip()))
    length = int(dict((name.lower(), value) for name, value in headers).get("content-length", 0))  # noqa: C402 - reads better
    return Answer(status, headers, file.read(length))


def raw_post(body, path="/log-request?timeout=10s", more=b""):
    """Return the bytes of a request."""
    return b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b\r\n%b" % (
        path.encode(),
        len(body),
        more,
        body,
    )


def parse_metrics(text):
    samples = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            samples[name] = float(value)
    return samples


def _collect(pipe, into):
    with contextlib.suppress(ValueError, OSError):
        while part := os.read(pipe.fileno(), 65536):
            into += part
