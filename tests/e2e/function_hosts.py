"""The function as users run it: functions-framework and func's middleware behind a TLS proxy, `serve` with its own."""

from __future__ import annotations

import contextlib
import os
import ssl
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path

from certificates import Authority, Pair
from ports import free_ports
from processes import Program, stopping
from prometheus_client.parser import text_string_to_metric_families

TREE = Path(__file__).resolve().parents[2]

# The place of Knative's ingress: TLS outside, kept-alive plain connections inside, nothing buffered.
# Only what never reached an instance goes to the next one: nginx does not send a POST twice.
NGINX = """\
daemon off;
{user}worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
  log_format reviews '$msec $status $request_time "$upstream_addr" "$upstream_status" $request_length';
  access_log {directory}/access.log reviews;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  client_max_body_size 0;
  client_body_buffer_size 64k;
  keepalive_timeout 300s;
  keepalive_requests 1000000;
  ssl_certificate {pair.certificate};
  ssl_certificate_key {pair.key};
  upstream function {{
{servers}
    keepalive 64;
    keepalive_requests 1000000;
  }}
  server {{
    listen 127.0.0.1:{port} ssl backlog=1024;
    location / {{
      proxy_pass http://function;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_request_buffering off;
      proxy_connect_timeout 1s;
    }}
  }}
}}
"""


@dataclass(frozen=True)
class Endpoint:
    """Where the API server sends reviews, and where the records are."""

    url: str
    journal: Path
    logs: tuple[Path, ...]


class Serve:
    """`python -m function serve`, which can be killed and started again with the same settings."""

    def __init__(
        self, directory: Path, *, pair: Pair | None = None, journal: Path | None = None, **settings: str
    ) -> None:
        self.port, self.metrics_port = free_ports(2)
        self.journal = journal or directory / "journal"
        self.log = directory / "function.log"
        self._directory = directory
        self._scheme = "https" if pair else "http"
        tls = {"AUDIT_TLS_CERT_FILE": str(pair.certificate), "AUDIT_TLS_KEY_FILE": str(pair.key)} if pair else {}
        self._env = _environment(self.port, self.journal, tls | settings, metrics_port=self.metrics_port)
        self.program = self._start()

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(f"{self._scheme}://127.0.0.1:{self.port}/log-request", self.journal, (self.log,))

    def counted(self, metric: str) -> float:
        """Return the sum of all samples of one of the function's own metrics."""
        families = text_string_to_metric_families(self.metrics_text())
        return sum(sample.value for family in families for sample in family.samples if sample.name == metric)

    def metrics_text(self) -> str:
        """Return what a scrape shows."""
        connection = HTTPConnection("127.0.0.1", self.metrics_port, timeout=20)
        with contextlib.closing(connection):
            connection.request("GET", "/metrics")
            return connection.getresponse().read().decode()

    def start_again(self) -> None:
        """Start after an end, however it came."""
        self.program = self._start()

    def _start(self) -> Program:
        self._directory.mkdir(parents=True, exist_ok=True)
        program = Program("serve", [sys.executable, "-m", "function", "serve"], log=self.log, env=self._env, cwd=TREE)
        try:
            program.wait_until(lambda: is_ready(self.port, tls=self._scheme == "https"), seconds=20)
        except BaseException:
            program.kill()
            raise
        return program


@contextlib.contextmanager
def serve(directory: Path, **options: object) -> Iterator[Serve]:
    """Run `python -m function serve`; see `Serve` for the options."""
    server = Serve(directory, **options)  # type: ignore[arg-type]  # passed on as they are
    try:
        yield server
    finally:
        server.program.interrupt()  # without the drain


@contextlib.contextmanager
def host(name: str, directory: Path, authority: Authority, **settings: str) -> Iterator[Endpoint]:
    """Run the function on the host of this name, TLS in front of it or its own."""
    if name == "functions-framework":
        with functions_framework(directory, authority, **settings) as endpoint:
            yield endpoint
    elif name == "knative-func":
        with knative_func(directory, **settings) as server:
            pair = authority.issue(f"proxy-{directory.name}")
            with proxy(directory / "nginx", [server.port], pair) as port:
                url = f"https://127.0.0.1:{port}/log-request"
                yield Endpoint(url, server.journal, (server.program.log, directory / "nginx" / "log"))
    else:
        with serve(directory, pair=authority.issue(directory.name), **settings) as server:
            yield server.endpoint


@contextlib.contextmanager
def functions_framework(directory: Path, authority: Authority, **settings: str) -> Iterator[Endpoint]:
    """Run the functions-framework target behind a TLS proxy."""
    port = free_ports(1)[0]
    journal = directory / "journal"
    log = directory / "function.log"
    command: list[str | Path] = [
        Path(sys.executable).with_name("functions-framework"),
        "--target=handle",
        "--source=handler.py",
        "--port",
        str(port),
    ]
    directory.mkdir(parents=True, exist_ok=True)
    program = Program("functions-framework", command, log=log, env=_environment(port, journal, settings), cwd=TREE)
    with stopping(program):
        program.wait_until(lambda: is_ready(port, tls=False), seconds=30)
        with proxy(directory / "nginx", [port], authority.issue(f"proxy-{directory.name}")) as proxy_port:
            yield Endpoint(f"https://127.0.0.1:{proxy_port}/log-request", journal, (log, directory / "nginx" / "log"))


@dataclass(frozen=True)
class Func:
    """The function in Knative func's middleware, with plain HTTP on ``port``."""

    program: Program
    port: int
    journal: Path


@contextlib.contextmanager
def knative_func(directory: Path, **settings: str) -> Iterator[Func]:
    """Run what func's host builder builds as its image starts it."""
    port = free_ports(1)[0]
    journal = directory / "journal"
    program = start_func(directory, port, AUDIT_JOURNAL_DIR=str(journal), **settings)
    with stopping(program):
        program.wait_until(lambda: is_ready(port, tls=False, path="/health/readiness"), seconds=30)
        yield Func(program, port, journal)


def start_func(directory: Path, port: int, **settings: str) -> Program:
    """Start it, ready or not."""
    built = Path(os.environ["E2E_FUNC"])
    environ = {
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(built / "lib"),
        "LISTEN_ADDRESS": f"[::]:{port}",
        "AUDIT_METRICS_PORT": "0",
        **settings,
    }
    command = [sys.executable, "-S", built / "service" / "main.py"]  # the image has these packages and no others
    return Program("knative-func", command, log=directory / "function.log", env=environ, cwd=built)


@contextlib.contextmanager
def proxy(directory: Path, upstream_ports: Sequence[int], pair: Pair) -> Iterator[int]:
    """Run the TLS proxy before some instances; yield its port."""
    directory.mkdir(parents=True, exist_ok=True)
    port = free_ports(1)[0]
    text = NGINX.format(
        directory=directory,
        port=port,
        pair=pair,
        servers="\n".join(f"    server 127.0.0.1:{one} fail_timeout=1s;" for one in upstream_ports),
        user="user root;\n" if os.geteuid() == 0 else "",
    )
    (directory / "nginx.conf").write_text(text)
    command: list[str | Path] = ["nginx", "-p", directory, "-c", directory / "nginx.conf"]
    program = Program("nginx", command, log=directory / "log", env={"PATH": f"{os.environ['PATH']}:/usr/sbin"})
    with stopping(program):
        program.wait_until(lambda: is_ready(port, tls=True), seconds=30)
        yield port


def is_ready(port: int, *, tls: bool, path: str = "/readyz") -> bool:
    """Return whether an instance, or the proxy before it, answers that it is ready."""
    context = ssl._create_unverified_context()
    connection = (
        HTTPSConnection("127.0.0.1", port, context=context, timeout=10)
        if tls
        else HTTPConnection("127.0.0.1", port, timeout=10)
    )
    with contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().status == 200


def _environment(port: int, journal: Path, settings: dict[str, str], *, metrics_port: int = 0) -> dict[str, str]:
    """Return an environment that holds nothing of the tests' own but the path."""
    return {
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "PORT": str(port),
        "AUDIT_JOURNAL_DIR": str(journal),
        "AUDIT_METRICS_PORT": str(metrics_port),
        **settings,
    }
