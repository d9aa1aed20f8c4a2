"""Google Cloud Storage's XML API before fake-gcs-server, which has only downloads of it: made requests of the JSON API.

Objects, preconditions, checksums, ranges and pages are the server's. Here are the parts of an upload until it is
completed, and who may do what. What is not translated is answered 501. After
https://cloud.google.com/storage/docs/xml-api/overview and https://cloud.google.com/storage/docs/access-control/iam-xml
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import http.server
import json
import threading
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from google_access import METADATA_PATH, Access, Rights

META = "x-goog-meta-"
CONDITION = "x-goog-if-generation-match"
QUERY = {"list-type", "prefix", "delimiter", "continuation-token", "uploads", "uploadId", "partNumber"}
CODES = {401: "AuthenticationRequired", 403: "AccessDenied", 412: "PreconditionFailed", 501: "NotImplemented"}
PAGE = 5  # objects in an answer at most: everybody has to ask for the next page
PART_BYTES_MIN = 5 << 20


class Refused(Exception):  # noqa: N818 - says what happened
    """Answered with an error of the XML API."""

    def __init__(self, status: int, code: str = "") -> None:
        super().__init__(status, code or CODES.get(status, "InternalError"))


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    content: bytes = b""


class Upload(NamedTuple):
    """One in parts that is not complete."""

    name: str
    headers: Mapping[str, str]
    parts: dict[int, bytes]


class XmlApi:
    """A context manager; listens on ``port`` for the server at another."""

    def __init__(self, server: int, access: Access) -> None:
        self._server, self._access = server, access
        self._uploads: dict[str, Upload] = {}
        api = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                try:
                    answer = api._answer(self.command, self.path, headers, body)
                except Refused as refused:
                    status, code = refused.args
                    answer = _xml("Error", Code=code, Message=code)._replace(status=status)
                self.send_response_only(answer.status)
                for name, value in ({"Content-Length": str(len(answer.content))} | dict(answer.headers)).items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer.content)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _any  # noqa: N815 - the library's names

            def log_message(self, *_: object) -> None: ...

        self._listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._listener.daemon_threads = True
        self.port = self._listener.server_address[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._listener.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown()
        self._listener.server_close()

    def _answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        url = urlsplit(target)
        if url.path == METADATA_PATH:
            return Answer(200, {"Content-Type": "application/json"}, self._access.token_for_pod(headers))
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        bucket, _, name = unquote(url.path[1:]).partition("/")
        rights = self._access.rights(headers.get("authorization", ""))
        if not rights:
            raise Refused(401)
        extensions = {one for one in headers if one.startswith("x-goog-") and not one.startswith(META)}
        if query.keys() - QUERY or extensions - {CONDITION}:
            raise Refused(501)
        match method, bool(name), *sorted(query.keys() & {"uploads", "uploadId", "partNumber"}):
            case "GET", False:
                return self._list(rights, bucket, query)
            case (("GET" | "HEAD"), True):
                return self._get(rights, method, bucket, name, headers)
            case "PUT", True:
                self._need_to_put(rights, bucket, name)
                return Answer(200, _about(self._store(bucket, name, headers, body)))
            case "POST", True, "uploads":
                _need(rights, "create")
                self._json("GET", f"/storage/v1/b/{bucket}")
                upload = uuid.uuid4().hex
                self._uploads[upload] = Upload(name, headers, {})
                return _xml("InitiateMultipartUploadResult", Bucket=bucket, Key=name, UploadId=upload)
            case "PUT", True, "partNumber", "uploadId":
                _need(rights, "create")
                self._upload(query, name).parts[int(query["partNumber"])] = body
                return Answer(200, {"ETag": _etag(body)})
            case "POST", True, "uploadId":
                self._need_to_put(rights, bucket, name)
                about = _about(self._complete(bucket, name, query, body))
                answer = _xml("CompleteMultipartUploadResult", Bucket=bucket, Key=name, ETag=about.pop("ETag"))
                return answer._replace(headers=answer.headers | about)
            case "DELETE", True, "uploadId":
                _need(rights, "create")
                self._upload(query, name)
                del self._uploads[query["uploadId"]]
                return Answer(204, {})
        raise Refused(501)

    def _need_to_put(self, rights: Rights, bucket: str, name: str) -> None:
        """Putting where an object is needs the right to delete it, too; no document says that conditions go first."""
        _need(rights, "create")
        if "delete" not in rights and self._ask("GET", f"/storage/v1/b/{bucket}/o/{quote(name, '')}")[0] == 200:
            raise Refused(403)

    def _get(self, rights: Rights, method: str, bucket: str, name: str, headers: Mapping[str, str]) -> Answer:
        """The server's own answer. Who may not list is not told that an object is absent."""
        _need(rights, "get")
        asked = {"Host": "storage.googleapis.com"} | {one: headers[one] for one in ("range",) if one in headers}
        answer = self._ask(method, f"/{bucket}/{quote(name, '')}", None, asked)
        if answer.status == 404:
            _need(rights, "list")
            raise self._absent(bucket)
        return answer

    def _list(self, rights: Rights, bucket: str, query: Mapping[str, str]) -> Answer:
        _need(rights, "list")
        names = {"prefix": "prefix", "delimiter": "delimiter", "continuation-token": "pageToken"}
        asked = {names[one]: value for one, value in query.items() if one in names} | {"maxResults": str(PAGE)}
        found = self._json("GET", f"/storage/v1/b/{bucket}/o?{urlencode(asked)}")
        names = {"name": "Key", "generation": "Generation", "updated": "LastModified", "size": "Size"}
        contents = [
            {to: one[name] for name, to in names.items()} | {"ETag": f'"{one["etag"]}"'}
            for one in found.get("items", [])
        ]
        prefixes = [{"Prefix": one} for one in found.get("prefixes", [])]
        following = [found["nextPageToken"]] if found.get("nextPageToken") else []
        return _xml("ListBucketResult", Name=bucket, Prefix=query.get("prefix", ""), Contents=contents,
                    CommonPrefixes=prefixes, IsTruncated=str(bool(following)).lower(),
                    NextContinuationToken=following)  # fmt: skip

    def _upload(self, query: Mapping[str, str], name: str) -> Upload:
        upload = self._uploads.get(query["uploadId"])
        if upload is None or upload.name != name:
            raise Refused(404, "NoSuchUpload")
        return upload

    def _complete(self, bucket: str, name: str, query: Mapping[str, str], body: bytes) -> Any:
        upload = self._upload(query, name)
        wanted = [(int(one.findtext("PartNumber", "0")), one.findtext("ETag")) for one in ET.fromstring(body)]
        parts = [upload.parts.get(number, b"") for number, _ in wanted]
        if wanted != sorted(wanted) or [etag for _, etag in wanted] != [_etag(part) for part in parts]:
            raise Refused(400, "InvalidPart")
        if any(len(part) < PART_BYTES_MIN for part in parts[:-1]):
            raise Refused(400, "EntityTooSmall")
        stored = self._store(bucket, name, upload.headers, b"".join(parts))
        del self._uploads[query["uploadId"]]
        return stored

    def _store(self, bucket: str, name: str, headers: Mapping[str, str], body: bytes) -> Any:
        """https://cloud.google.com/storage/docs/json_api/v1/objects/insert, with ``uploadType=multipart``."""
        kind = headers.get("content-type", "application/octet-stream")
        metadata = {one.removeprefix(META): value for one, value in headers.items() if one.startswith(META)}
        about = json.dumps({"contentType": kind, "metadata": metadata})
        edge = uuid.uuid4().hex
        before = (
            f"--{edge}\r\nContent-Type: application/json\r\n\r\n{about}\r\n--{edge}\r\nContent-Type: {kind}\r\n\r\n"
        )
        query = {"uploadType": "multipart", "name": name}
        if CONDITION in headers:
            query["ifGenerationMatch"] = headers[CONDITION]
        content = before.encode() + body + f"\r\n--{edge}--\r\n".encode()
        typed = {"Content-Type": f"multipart/related; boundary={edge}"}
        return self._json("POST", f"/upload/storage/v1/b/{bucket}/o?{urlencode(query)}", content, typed)

    def _json(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = {}) -> Any:
        answer = self._ask(method, path, body, headers)
        if answer.status == 404:
            raise self._absent(path.partition("/b/")[2].partition("/")[0])
        if answer.status >= 400:
            raise Refused(answer.status)
        return json.loads(answer.content)

    def _absent(self, bucket: str) -> Refused:
        is_there = self._ask("GET", f"/storage/v1/b/{bucket}").status == 200
        return Refused(404, "NoSuchKey" if is_there else "NoSuchBucket")

    def _ask(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = {}) -> Answer:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._server, timeout=60)) as connection:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())


def _need(rights: Rights, right: str) -> None:
    if right not in rights:
        raise Refused(403)


def _about(stored: Mapping[str, str]) -> dict[str, str]:
    checksums = f"crc32c={stored['crc32c']},md5={stored['md5Hash']}"
    about = {"ETag": f'"{stored["etag"]}"', "x-goog-generation": stored["generation"], "x-goog-hash": checksums}
    return about | {"x-goog-stored-content-length": stored["size"]}


def _etag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


def _xml(kind: str, **elements: str | list[str] | list[dict[str, str]]) -> Answer:
    root = ET.Element(kind)
    for name, values in elements.items():
        for value in [values] if isinstance(values, str) else values:
            element = ET.SubElement(root, name)
            if isinstance(value, str):
                element.text = value
            else:
                for below, text in value.items():
                    ET.SubElement(element, below).text = text
    return Answer(200, {"Content-Type": "application/xml"}, ET.tostring(root, encoding="utf-8", xml_declaration=True))
