"""An API server as far as a watch and a canary see one: lists in pages, watches, bookmarks, 410, cut connections."""

import http.server
import json
import threading
import time
import urllib.parse

GROUP = "/apis/admissionregistration.k8s.io"
KINDS = {
    "validatingwebhookconfigurations": "ValidatingWebhookConfiguration",
    "mutatingwebhookconfigurations": "MutatingWebhookConfiguration",
    "validatingadmissionpolicies": "ValidatingAdmissionPolicy",
    "validatingadmissionpolicybindings": "ValidatingAdmissionPolicyBinding",
}
WEBHOOKS = "validatingwebhookconfigurations"


class ApiServer:
    """A real server on a port of its own; what it stores is changed by the test."""

    def __init__(self):
        self.version = 100
        self.objects = {resource: {} for resource in KINDS}
        self.events = []  # (version, resource, type, object)
        self.compacted = 0  # versions up to it cannot be gone on from
        self.requests = []
        self.forbidden = set()
        self.token = ""
        self.configmap = lambda body: 201
        self.refusal = "no"  # what is said where the answer is not 201
        self.documents = {}  # other objects and lists, by their paths
        self.cuts = 0
        self._condition = threading.Condition()
        handler = type("Handler", (_Handler,), {"api": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self):
        self.cut()
        self._server.shutdown()
        self._server.server_close()

    # -- what a test does ---------------------------------------------------------------------------------------

    def put(self, resource, name, manager="kubectl", **fields):
        """Create or update an object; return it."""
        with self._condition:
            self.version += 1
            before = self.objects[resource].get(name)
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            metadata = dict(before["metadata"]) if before else {"name": name, "uid": f"uid-{self.version}"}
            metadata.setdefault("creationTimestamp", now)
            metadata |= {"resourceVersion": str(self.version)}
            entry = {
                "manager": manager,
                "operation": "Update",
                "apiVersion": "v1",
                "time": now,
                "fieldsType": "FieldsV1",
            }
            entry["fieldsV1"] = {"f:version": {str(self.version): {}}}
            metadata["managedFields"] = [
                *(one for one in metadata.get("managedFields", []) if one["manager"] != manager),
                entry,
            ]
            metadata |= fields.pop("metadata", {})
            stored = {"metadata": metadata, **fields}
            self.objects[resource][name] = stored
            self._event(resource, "MODIFIED" if before else "ADDED", stored)
            return stored

    def delete(self, resource, name):
        with self._condition:
            self.version += 1
            gone = self.objects[resource].pop(name)
            gone = gone | {"metadata": gone["metadata"] | {"resourceVersion": str(self.version)}}
            self._event(resource, "DELETED", gone)

    def bookmark(self, resource):
        with self._condition:
            self.version += 1
            self._event(resource, "BOOKMARK", {"metadata": {"resourceVersion": str(self.version)}})

    def compact(self):
        """Forget every event: whoever wants to go on from before gets 410."""
        with self._condition:
            self.compacted = self.version
            self.events.clear()

    def cut(self):
        """Cut every watch, in the middle of a line."""
        with self._condition:
            self.cuts += 1
            self._condition.notify_all()

    def watches(self, resource):
        return [path for path in self.requests if f"/{resource}?" in path and "watch=1" in path]

    # -- what it answers ----------------------------------------------------------------------------------------

    def _event(self, resource, kind, stored):
        whole = {"kind": KINDS[resource], "apiVersion": "admissionregistration.k8s.io/v1"} | stored
        self.events.append((self.version, resource, kind, whole))
        self._condition.notify_all()

    def listed(self, resource, query):
        """Return one page: two objects at most."""
        with self._condition:
            names = sorted(self.objects[resource])
            start = int(query.get("continue", "0"))
            page = names[start : start + 2]
            metadata = {"resourceVersion": str(self.version)}
            if start + 2 < len(names):
                metadata["continue"] = str(start + 2)
            items = [self.objects[resource][name] for name in page]
            return {"kind": f"{KINDS[resource]}List", "metadata": metadata, "items": items}

    def follow(self, resource, query, write):
        """Write events from the version on until cut."""
        at, cuts = int(query["resourceVersion"]), self.cuts
        while True:
            with self._condition:
                fresh = [event for event in self.events if event[0] > at and event[1] == resource]
                if not fresh and self.cuts == cuts:
                    self._condition.wait(0.5)
                is_cut = self.cuts != cuts
            for version, _, kind, stored in fresh:
                write(json.dumps({"type": kind, "object": stored}).encode() + b"\n")
                at = version
            if is_cut:
                write(b'{"type":"MODIFIED","object":{"metadata":{"na')
                return


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api = None

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.api.requests.append(self.path)
        parts = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(parts.query))
        name = parts.path.rpartition("/")[2]
        if self.api.token and self.headers["Authorization"] != f"Bearer {self.api.token}":
            self._answer(401, {"kind": "Status", "message": "Unauthorized"})
        elif parts.path == f"{GROUP}/v1":
            self._answer(200, {"resources": [{"name": one} for one in (*KINDS, "others/status")]})
        elif parts.path in self.api.documents:
            self._answer(200, self.api.documents[parts.path])
        elif name not in KINDS or parts.path != f"{GROUP}/v1/{name}":
            self._answer(404, {"kind": "Status", "message": "not found"})
        elif name in self.api.forbidden:
            self._answer(403, {"kind": "Status", "message": f"cannot list {name}"})
        elif "watch" not in query:
            self._answer(200, self.api.listed(name, query))
        elif int(query["resourceVersion"]) < self.api.compacted:
            gone = {"kind": "Status", "code": 410, "message": "too old resource version"}
            self._chunked(lambda write: write(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n"))
        else:
            self._chunked(lambda write: self.api.follow(name, query, write))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.api.requests.append(self.path)
        status = self.api.configmap(body)
        self._answer(status, body if status == 201 else {"kind": "Status", "message": self.api.refusal})

    def _answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _chunked(self, follow):
        """Send chunks until ``follow`` returns, and then cut the connection: no last chunk."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

        def write(data):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
            self.wfile.flush()

        self.close_connection = True
        try:
            follow(write)
        except OSError:
            return
