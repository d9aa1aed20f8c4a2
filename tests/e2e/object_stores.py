"""Object stores written by others, each on a free port with one bucket: MinIO, Azurite and fake-gcs-server."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import hashlib
import hmac
import http.client
import http.server
import json
import os
import random
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Self

import google_access
import obstore
from google_xml import XmlApi
from obstore.store import S3Store
from ports import free_ports
from processes import Program, stopping

BUCKET = "audit"
MINIO_SECRET = "minio-secret-of-the-test"
# Azurite's own, in its documentation: no secret.
AZURITE_ACCOUNT = "devstoreaccount1"
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


class ObjectStore(NamedTuple):
    """A running store. ``environ`` returns what a client's environment has to hold for an endpoint at this port."""

    kind: str
    url: str
    port: int
    environ: Callable[[int], Mapping[str, str]]
    refused: Mapping[str, str]  # credentials that it does not take
    server_port: int = 0  # of the server itself, where something translates for it


@contextlib.contextmanager
def minio(directory: Path) -> Iterator[ObjectStore]:
    """Run MinIO, of S3's kind."""
    (port,) = free_ports(1)
    command = [Path(os.environ["E2E_MINIO"]) / "minio", "server", directory / "data", "--address", f"127.0.0.1:{port}"]
    environ = {**os.environ, "MINIO_ROOT_USER": "tester", "MINIO_ROOT_PASSWORD": MINIO_SECRET, "HOME": str(directory)}
    environ |= {"MINIO_BROWSER": "off", "CI": "true", "MINIO_UPDATE": "off"}

    def environ_at(port: int) -> Mapping[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": "tester",
            "AWS_SECRET_ACCESS_KEY": MINIO_SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        }

    program = Program("minio", command, log=directory / "minio.log", env=environ)
    with stopping(program):
        program.wait_until(lambda: _status(port, "GET", "/minio/health/ready") == 200, seconds=60)
        store = S3Store(
            BUCKET,
            endpoint=f"http://127.0.0.1:{port}",
            access_key_id="tester",
            secret_access_key=MINIO_SECRET,
            region="us-east-1",
            client_options={"allow_http": True},
        )
        signed = urllib.parse.urlsplit(obstore.sign(store, "PUT", "", dt.timedelta(minutes=1)))
        assert _status(port, "PUT", f"{signed.path}?{signed.query}") == 200
        yield ObjectStore("s3", f"s3://{BUCKET}", port, environ_at, {"AWS_SECRET_ACCESS_KEY": "not-the-secret"})


@contextlib.contextmanager
def azurite(directory: Path) -> Iterator[ObjectStore]:
    """Run Azurite, Microsoft's own of Azure Blob Storage's kind."""
    (port,) = free_ports(1)
    command = ["node", Path(os.environ["E2E_AZURITE"]) / "node_modules/azurite/dist/src/blob/main.js"]
    command += ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", directory / "azurite", "--silent"]
    command += ["--skipApiVersionCheck", "--disableTelemetry"]

    def environ_at(port: int) -> Mapping[str, str]:
        return {"AZURE_STORAGE_USE_EMULATOR": "true", "AZURITE_BLOB_STORAGE_URL": f"http://127.0.0.1:{port}"}

    program = Program("azurite", command, log=directory / "azurite.log")
    with stopping(program):
        program.wait_until(lambda: _status(port, "GET", "/") > 0, seconds=60)
        path = f"/{AZURITE_ACCOUNT}/{BUCKET}"
        assert _status(port, "PUT", f"{path}?restype=container", b"", _azure_headers(path)) == 201
        refused = {
            "AZURE_STORAGE_USE_EMULATOR": "false",
            "AZURE_STORAGE_ACCOUNT_NAME": AZURITE_ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": base64.b64encode(b"not the key" * 6).decode(),
            "AZURE_STORAGE_ENDPOINT": f"http://127.0.0.1:{port}/{AZURITE_ACCOUNT}",
        }
        yield ObjectStore("az", f"az://{BUCKET}", port, environ_at, refused)


@contextlib.contextmanager
def google(directory: Path) -> Iterator[ObjectStore]:
    """Run fake-gcs-server, of Google Cloud Storage's kind, behind the XML API that it lacks."""
    (port,) = free_ports(1)
    command = [Path(os.environ["E2E_FAKE_GCS_SERVER"]) / "fake-gcs-server", "-scheme", "http", "-host", "127.0.0.1"]
    command += ["-port", str(port), "-backend", "memory", "-log-level", "warn"]
    access = google_access.new_access()
    account = google_access.write_service_account(directory / "account.json", access.key)
    stranger = google_access.write_service_account(directory / "stranger.json", google_access.new_access().key)
    program = Program("fake-gcs-server", command, log=directory / "fake-gcs-server.log")
    with stopping(program), XmlApi(port, access) as api:
        program.wait_until(lambda: _status(port, "GET", "/_internal/healthcheck") == 200, seconds=120)
        assert _status(port, "POST", "/storage/v1/b", json.dumps({"name": BUCKET}).encode()) == 200

        def environ_at(port: int) -> Mapping[str, str]:
            metadata_server = dict.fromkeys(("GCE_METADATA_HOST", "GCE_METADATA_IP"), f"127.0.0.1:{api.port}")
            endpoint = {"GOOGLE_BASE_URL": f"http://127.0.0.1:{port}"}
            return {"GOOGLE_APPLICATION_CREDENTIALS": account, **metadata_server, **endpoint}

        refused = {"GOOGLE_APPLICATION_CREDENTIALS": stranger}
        yield ObjectStore("gs", f"gs://{BUCKET}", api.port, environ_at, refused, server_port=port)


def _azure_headers(path: str) -> dict[str, str]:
    """Return the headers of a request that makes a container, signed with the shared key."""
    date = dt.datetime.now(dt.UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    headers = f"x-ms-date:{date}\nx-ms-version:2021-12-02"
    text = f"PUT{12 * chr(10)}{headers}\n/{AZURITE_ACCOUNT}{path}\nrestype:container"
    digest = hmac.new(base64.b64decode(AZURITE_KEY), text.encode(), hashlib.sha256).digest()
    signature = base64.b64encode(digest).decode()
    return {
        "x-ms-date": date,
        "x-ms-version": "2021-12-02",
        "Authorization": f"SharedKey {AZURITE_ACCOUNT}:{signature}",
    }


def _status(port: int, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = {}) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(connection):
        connection.request(method, path, body, dict(headers))
        return connection.getresponse().status


# -- between us and a store -------------------------------------------------------------------------------------------


class Storm:
    """A proxy before a store: a ``share`` of the requests is answered 503, or cut when the store has had them."""

    def __init__(self, port: int, *, share: float, seed: int = 1) -> None:
        self.share = share
        self.failed = self.passed = 0
        numbers = random.Random(seed)
        storm = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fate = numbers.random()
                if fate < storm.share / 2:
                    storm.failed += 1
                    self.send_response(503)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                with contextlib.closing(upstream):
                    upstream.request(self.command, self.path, body or None, dict(self.headers))
                    answer = upstream.getresponse()
                    content = answer.read()
                if fate < storm.share:  # it was done, and nobody hears of it
                    storm.failed += 1
                    self.close_connection = True
                    return
                storm.passed += 1
                self.send_response_only(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                        self.send_header(name, value)
                length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
                self.send_header("Content-Length", length or "0")
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _any  # noqa: N815 - the library's names

            def log_message(self, *_: object) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
