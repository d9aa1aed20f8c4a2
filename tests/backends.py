"""Backends for the forwarder: real servers on loopback that remember what they were given, and fail when told to."""

import collections
import contextlib
import gzip
import http.server
import json
import random
import re
import socket
import struct
import threading
import time

import running

from function.journal import Limits
from function.journal.writer import Writer

FAULTS = ("status", "reset", "lost_answer", "partial")


class Silent:
    """A journal's observer that does not care."""

    def wrote(self, records, size): ...
    def synced(self, seconds): ...
    def failed(self, operation): ...
    def lost(self, reason, records): ...
    def torn(self, size): ...


def review_line(number, *, filling=""):
    """Return a record in the review format."""
    body = running.review(f"uid-{number:08d}", name=f"demo-{number}", object={"data": {"n": number, "f": filling}})
    return b'%b,"requestReceivedTimestamp":"%b"}\n' % (body.rstrip()[:-1], timestamp(number, 9))


def event_line(number, *, filling=""):
    """Return a record in the event format."""
    event = {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": "Request",
        "auditID": f"uid-{number:08d}",
        "stage": "ResponseComplete",
        "requestURI": "/api/v1/namespaces/default/configmaps",
        "verb": "create",
        "user": {"username": "jane", "groups": ["system:authenticated"]},
        "objectRef": {"resource": "configmaps", "namespace": "default", "name": f"demo-{number}", "apiVersion": "v1"},
        "requestObject": {"data": {"n": number, "f": filling}},
        "requestReceivedTimestamp": timestamp(number, 6).decode(),
        "stageTimestamp": timestamp(number, 6).decode(),
        "annotations": {"authorization.k8s.io/decision": "allow"},
    }
    return json.dumps(event, separators=(",", ":")).encode() + b"\n"


def timestamp(number, digits):
    second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(1_790_000_000 + number // 1000))
    return f"{second}.{number % 1000:0{digits}d}Z".encode()


def write_journal(path, lines, *, segment_bytes=100_000, host=None, close=True):
    """Write ``lines`` as a process would, and return its directory."""
    limits = Limits(segment_bytes, 0, 0, 0)
    writer = Writer(str(path), host=host or socket.gethostname(), limits=limits, every_second=False, observer=Silent())
    writer.tick()
    for start in range(0, len(lines), 64):
        assert writer.store(lines[start : start + 64]) == len(lines[start : start + 64])
    directory = writer.directory
    if close:
        writer.close()
    return directory


def number_of(uid):
    return int(re.search(r"uid-(\d{8})", uid)[1])


class Faults:
    """Says of each request how it fails, if it does."""

    def __init__(self, rate, faults, seed, slot_seconds):
        self.rate = rate
        self.faults = faults
        self.seed = seed
        self.slot_seconds = slot_seconds
        self.random = random.Random(seed)

    def next(self):
        if self.slot_seconds:
            slot = int(time.monotonic() / self.slot_seconds)
            fails = random.Random(slot * 1000 + self.seed).random() < self.rate
        else:
            fails = self.random.random() < self.rate
        return self.random.choice(self.faults) if fails else None


class HttpBackend:
    """A server on 127.0.0.1. ``rate`` is the share of requests that fail, each in one of ``faults``.

    With ``slot_seconds`` it is the share of the time: in one slot of that length all requests fail, or none.

    ``received`` is every record accepted, in order, as (id, record); ``requests`` counts.
    """

    def __init__(self, *, rate=0.0, faults=FAULTS, seed=1, slot_seconds=0.0):
        self.fault = Faults(rate, faults, seed, slot_seconds)
        self.down = False
        self.answer = None  # (status, headers, body) for every request
        self.poison = None  # what makes a request fail that holds it: bytes of the body
        self.poison_fault = "status"  # or "reset"
        self.poison_status = 500
        self.content_type = "application/json"  # of answers
        self.received = []
        self.requests = 0
        self.headers = []
        self.failed = collections.Counter()
        self.random = random.Random(seed)
        self.lock = threading.Lock()
        backend = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self):
                backend.handle(self)

            do_GET = do_PUT = do_POST  # noqa: N815 - the library's names

            def log_message(self, *args): ...

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, client_address): ...

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def handle(self, request):
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        if request.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        with self.lock:
            self.requests += 1
            self.headers.append(dict(request.headers))
            fault = self.fault.next()
            if self.down:
                fault = "status"
            if fault:
                self.failed[fault] += 1
            if self.answer:
                return self.respond(request, *self.answer)
            if self.poison and self.poison in body:
                self.failed["poison"] += 1
                self.choke(request, body)
                return (
                    self.reset(request)
                    if self.poison_fault == "reset"
                    else self.respond(request, self.poison_status, {}, b"oh")
                )
            if fault == "reset":
                return self.reset(request)
            if fault == "status":
                status = self.random.choice([429, 500, 502, 503])
                return self.respond(request, status, {"Retry-After": "0"}, b"not now")
            status, answer = self.accept(request, body, partial=fault == "partial")
            if fault == "lost_answer":
                return self.reset(request)
        return self.respond(request, status, {}, answer)

    def accept(self, request, body, *, partial):
        """Take the records of a request; return status and body of the answer."""
        raise NotImplementedError

    def choke(self, request, body):
        """Come upon the poison in a body: what is before it may be taken already."""

    def respond(self, request, status, headers, body):
        with contextlib.suppress(OSError):
            request.send_response(status)
            for name, value in headers.items():
                request.send_header(name, value)
            request.send_header("Content-Type", self.content_type)
            request.send_header("Content-Length", str(len(body)))
            request.end_headers()
            request.wfile.write(body)

    def reset(self, request):
        request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.close_connection = True
        request.connection.close()

    # -- what arrived ---------------------------------------------------------------------------------------------

    def firsts(self):
        """Return the numbers of the records in the order in which each arrived first."""
        seen = set()
        return [number for number in map(number_of, self.ids()) if not (number in seen or seen.add(number))]

    def ids(self):
        return [record_id for record_id, _ in self.received]


class AuditWebhook(HttpBackend):
    """Decodes EventLists as strictly as the API machinery's decoder does for these types."""

    def accept(self, request, body, *, partial):
        del partial  # such a receiver takes all or nothing
        assert request.headers["Content-Type"] == "application/json"
        document = json.loads(body)
        assert set(document) == {"kind", "apiVersion", "metadata", "items"}
        assert (document["kind"], document["apiVersion"]) == ("EventList", "audit.k8s.io/v1")
        for event in document["items"]:
            assert event["kind"] == "Event"
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", event["stageTimestamp"])
            assert event["level"] in ("Metadata", "Request")
            if event.get("verb") == "poison":
                return 400, b"poison"
        self.received += [(event["auditID"], event) for event in document["items"]]
        return 200, b""


class Elasticsearch(HttpBackend):
    """``_bulk`` with ``create``: 409 for an id that is there, item errors, one HTTP 200 over all of it."""

    def __init__(self, **more):
        super().__init__(**more)
        self.documents = {}
        self.conflicts = 0
        self.template = None

    def accept(self, request, body, *, partial):
        if not body and request.command == "POST":
            return 200, b""
        if request.command == "GET":
            return 200, b'{"version":{"number":"9.0.0","distribution":"none"}}'
        if request.command == "PUT":
            self.template = (request.path, json.loads(body))
            return 200, b'{"acknowledged":true}'
        assert request.path.split("?")[0].endswith("/_bulk")
        if not body.endswith(b"\n"):
            return 400, b"The bulk request must be terminated by a newline"
        lines = body.splitlines()
        items = [
            self.create(json.loads(action)["create"], source, partial)
            for action, source in zip(lines[::2], lines[1::2], strict=True)
        ]
        errors = any(item["create"]["status"] >= 300 for item in items)
        return 200, json.dumps({"took": 1, "errors": errors, "items": items}).encode()

    def choke(self, request, body):
        """As a receiver does that writes document by document: the answer tells nothing of those it has taken."""
        before = body[: body.index(self.poison)]
        self.accept(request, body[: before.rfind(b'{"create"')], partial=False)

    def create(self, action, source, partial):
        document = json.loads(source)
        assert "@timestamp" in document
        if partial and self.random.random() < 0.3:
            return self.item(action, 429, "es_rejected_execution_exception")
        if b"poison" in source:
            return self.item(action, 400, "mapper_parsing_exception")
        self.received.append((action["_id"], document))
        if action["_id"] in self.documents:
            assert self.documents[action["_id"]] == source  # a duplicate is the same in every byte
            self.conflicts += 1
            return self.item(action, 409, "version_conflict_engine_exception")
        self.documents[action["_id"]] = source
        return {"create": {"_index": action["_index"], "_id": action["_id"], "status": 201, "result": "created"}}

    def item(self, action, status, kind):
        error = {"type": kind, "reason": "because"}
        return {"create": {"_index": action["_index"], "_id": action["_id"], "status": status, "error": error}}


class CloudEvents(HttpBackend):
    """Checks the attributes by the specification's own words (v1.0.2, HTTP binary mode).

    As most servers it takes 16 KiB of headers (Python's own answers 431 too, to a line of 64 KiB).
    """

    def accept(self, request, body, *, partial):
        if len(bytes(request.headers)) > 16 << 10:
            return 431, b"too many bytes of headers"
        headers = {name.lower(): value for name, value in request.headers.items()}
        if partial:
            return 503, b""
        assert headers["ce-specversion"] == "1.0"
        assert headers["content-type"] == "application/json"
        for name in ("ce-id", "ce-source", "ce-type"):
            assert headers[name]
        for name, value in headers.items():
            if name.startswith("ce-"):
                assert re.fullmatch("[a-z0-9]{1,20}", name[3:])
                assert re.fullmatch(r"[\x20-\x7e]+", value)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", headers["ce-time"])
        json.loads(body)
        if b"poison" in body:
            return 422, b"poison"
        self.received.append((headers["ce-id"], (headers, body)))
        return 202, b""


@contextlib.contextmanager
def running_backend(kind, **more):
    backend = kind(**more)
    try:
        yield backend
    finally:
        backend.close()


def settings_for(sink, backend, journal="/nonexistent", **more):
    """Return the environment that forwards ``journal`` to ``backend``."""
    prefix = {"audit-webhook": "WEBHOOK"}.get(sink, sink.upper().replace("-", "_"))
    environ = {
        "AUDIT_JOURNAL_DIR": str(journal),
        "AUDIT_FORMAT": "event" if sink == "audit-webhook" else "review",
        "AUDIT_FORWARD_TO": sink,
        f"AUDIT_{prefix}_URL": backend.url,
        "AUDIT_FORWARD_BATCH_SECONDS": "0.05",
    }
    if sink == "google-cloud-logging":
        environ["AUDIT_GOOGLE_CLOUD_LOGGING_PROJECT"] = "some-project"
    return environ | more


def line_for(sink, number, **more):
    return (event_line if sink == "audit-webhook" else review_line)(number, **more)
