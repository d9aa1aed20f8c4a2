"""Streams of HTTP requests as no API server writes them, and some as it does; and what answers may differ in (pure)."""

import itertools
import json
import re
from typing import NamedTuple

import running

# Where a review's uid stands; each time a stream is sent it gets others of the same length.
UID = "@UID@@@@@@@@"
PROBE = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"


class Request(NamedTuple):
    """``is_framed``: nobody can doubt where it ends, and it is answered once."""

    data: bytes
    is_framed: bool = False
    is_chunked: bool = False


class Case(NamedTuple):
    """Requests for one connection, the places where the stream is cut, the pause there, and how the caller ends it."""

    requests: list
    cuts: list
    pause: float
    end: str  # "probe" that asks for a close, "half" closed, "abort"


def case(rng, number):
    """Return a case: a stream, and how it is torn."""
    requests = [request(rng) for _ in range(rng.choice([1, 1, 1, 2, 3, 5, 9]))]
    if rng.random() < 0.06:
        requests[-1] = unfinished(rng)
    stream = b"".join(one.data for one in requests)
    end = rng.choices(["probe", "half", "abort"], [90, 5, 5])[0]
    return Case(requests, cuts(rng, number, len(stream)), rng.choice([0.0, 0.0, 0.0003, 0.002]), end)


def cuts(rng, number, length):
    """Return where the stream is cut: at one place (each in its turn), into pieces of one size, or by chance."""
    kind = rng.random()
    if kind < 0.4:
        return [number % max(length, 1)]
    if kind < 0.6:
        size = 1 + number % 97 if length < 3000 else rng.randrange(200, 9000)
        return list(range(size, length, size))
    return sorted(rng.randrange(length + 1) for _ in range(rng.choice([1, 2, 4, 8, 20])))


def torn(stream, at):
    """Return the pieces of a stream that is cut at these places."""
    places = [0, *at, len(stream)]
    pieces = [stream[start:end] for start, end in itertools.pairwise(places)]
    return [piece for piece in pieces if piece]


# -- requests -------------------------------------------------------------------------------------------------


def request(rng):
    """Return one request: most are reviews that are recorded, in some form."""
    kind = rng.random()
    if kind < 0.35:
        return Request(running.raw_post(body(rng, plain=True), target(rng, plain=True)), is_framed=True)
    if kind < 0.45:
        return probe(rng)
    if kind < 0.6:
        return chunked(rng)
    if kind < 0.66:
        return garbage(rng)
    return odd(rng)


def body(rng, *, plain=False):
    """Return a body: a review, and where it need not be plain also what is none."""
    reviews = [
        lambda: running.review(UID, name=rng.choice(["demo", "é漢😀", "a" * rng.randrange(1, 300)])),
        lambda: running.review(UID, object={"data": {"blob": "x" * rng.choice([10, 3000, 20_000, 90_000])}}),
        lambda: running.review(
            UID,
            kind={"group": "", "version": "v1", "kind": "Secret"},
            object={"data": {f"k{number}": "" for number in range(rng.choice([3, 300, 3000]))}},
        ),
        lambda: running.nested(rng.choice([20, 1200]), UID),
    ]
    others = [
        lambda: b"",
        lambda: b"{",
        lambda: b"[]",
        lambda: b"{}",
        lambda: b"\xff\xfe",
        lambda: running.review(UID).replace(b"CREATE", b"WATCH"),
        lambda: running.review("").replace(b"CREATE", b"DELETE"),
        lambda: running.review(UID).replace(b'"demo"', b'"\\ud800"'),
        lambda: running.large(rng.choice([110_000, 300_000]), UID),
        lambda: json.dumps(json.loads(running.review(UID)), indent=2).encode(),
        lambda: running.review(UID)[: rng.randrange(200)],
        lambda: running.review(UID) * 2,
    ]
    return rng.choice(reviews if plain or rng.random() < 0.6 else others)()


def target(rng, *, plain=False):
    usual = ["/log-request?timeout=10s", "/log-request?timeout=30s", "/log-request", "/"]
    if not plain:  # what never comes is waited for
        usual[1] = "/log-request?timeout=2s"
    unusual = [
        "/log%2Drequest",
        "/log-request/",
        "/log-request#a",
        "/log-request?timeout=&timeout=2s&" + "a" * rng.randrange(3000),
        "/log-request?timeout=99999999999999999999h",
        "/log-request?timeout=%31%30s",
        "http://x/log-request",
        "/%",
        "/%ff%00",
        "//",
        "*",
        "/metrics",
        "/log-request/prod/" + "a" * 32,
        "/" + "a" * rng.choice([10, 8000, 20_000]),
    ]
    return rng.choice(usual if plain or rng.random() < 0.7 else unusual)


def probe(rng):
    path = rng.choice(["/healthz", "/readyz", "/_/health", "/_/ready", "/log-request", "/nowhere"])
    method = rng.choice([b"GET", b"GET", b"GET", b"HEAD", b"OPTIONS", b"DELETE"])
    return Request(b"%b %b HTTP/1.1\r\nHost: x\r\n\r\n" % (method, path.encode()), is_framed=True)


def chunked(rng):
    """Return a request whose body comes in chunks, of odd sizes and forms; some are none."""
    content = body(rng, plain=rng.random() < 0.7)
    coding = rng.choice([b"chunked"] * 8 + [b"Chunked", b"gzip, chunked", b"gzip", b"identity", b"chunked, gzip"])
    more = rng.choice(
        [b""] * 6 + [OFFER, b"Expect: 100-continue\r\n", b"Connection: close\r\n", b"Content-Length: 3\r\n"]
    )
    is_framed = coding.lower() == b"chunked" and b"Length" not in more
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: %b\r\n%b\r\n" % (
        target(rng, plain=is_framed).encode(),
        coding,
        more,
    )
    parts, at = [], 0
    most = rng.choice([1, 7, 300, 20_000, len(content) + 1]) if len(content) < 3000 else rng.choice([3000, 50_000])
    while at < len(content):
        end = at + rng.randrange(1, most + 1)
        if (uid := content.find(UID.encode(), max(0, end - len(UID) + 1))) >= 0 and uid < end:
            end = max(end, uid + len(UID))  # never within it
        parts.append(chunk(rng, content[at:end]))
        at = end
    trailers = rng.choice([b""] * 6 + [b"X-Trailer: a\r\n", b"Content-Length: 5\r\n", b"a:b\r\n" * 50])
    parts.append(rng.choice([b"0\r\n"] * 8 + [b"000\r\n", b"0;end\r\n"]) + trailers + b"\r\n")
    if rng.random() < 0.06:
        bad = [b"g\r\n", b"-1\r\n", b"\r\n", b"ffffffffffffffffff\r\n", b"5\n", b"5 \r\n", b"0x5\r\n"]
        parts.insert(rng.randrange(len(parts)), rng.choice(bad))
        is_framed = False
    return Request(head + b"".join(parts), is_framed, is_chunked=True)


def chunk(rng, part):
    size = rng.choice([b"%x", b"%X", b"000%x", b"%x;a=b", b'%x;a="b c"'] if rng.random() < 0.2 else [b"%x"])
    return size % len(part) + b"\r\n" + part + b"\r\n"


def odd(rng):
    """Return a request with an odd head."""
    content = body(rng)
    method = rng.choice([b"POST"] * 12 + [b"PUT", b"PATCH", b"GET", b"HEAD", b"post", b"CONNECT", b"PRI", b"X-Y"])
    version = rng.choice([b"HTTP/1.1"] * 14 + [b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/0.9", b"http/1.1", b""])
    types = [b"application/json"] * 8 + [b"application/json; charset=utf-8", b"Application/JSON", b"text/plain", b""]
    name = rng.choice([b"Content-Type"] * 5 + [b"content-type", b"CONTENT-TYPE"])
    lines = [b"%b: %b" % (name, rng.choice(types))]
    lines += rng.choice([[]] * 8 + [[b"Content-Type: text/plain"], [b"Connection: close"], [b"Connection: keep-alive"]])
    lines += rng.choice([[]] * 8 + [[b"Expect: 100-continue"], [b"EXPECT: 100-Continue"], [b"Expect: x"]])
    lines += rng.choice([[]] * 10 + [OFFER.splitlines()])
    lines += length_lines(rng, len(content))
    lines += extra_lines(rng)
    if rng.random() < 0.5:
        rng.shuffle(lines)
    end = b"\n" if rng.random() < 0.03 else b"\r\n"
    before = rng.choice([b""] * 12 + [b"\r\n", b"\r\n\r\n", b"\n", b" "])
    first = b"%b %b %b" % (method, target(rng).encode(), version)
    head = before + end.join([first, b"Host: x", *lines, b"", b""])
    return Request(head + content)


def length_lines(rng, length):
    right = b"Content-Length: %d" % length
    wrong = [
        [],
        [right, right],
        [right, b"Content-Length: %d" % (length + 1)],
        [b"content-length: %d" % length],
        [b"Content-Length: +%d" % length],
        [b"Content-Length: -%d" % length],
        [b"Content-Length: 0%d" % length],
        [b"Content-Length: 0x%x" % length],
        [b"Content-Length: %d, %d" % (length, length)],
        [b"Content-Length:  %d  " % length],
        [b"Content-Length: "],
        [b"Content-Length: 999999999999999999999999"],
        [b"Content-Length: " + b"9" * 5000],
        [b"Content-Length: %d" % (200 << 20)],
        [b"Content-Length: %d" % (length // 2)],
        [right, b"Transfer-Encoding: chunked"],
        [b"Content-Length : %d" % length],
    ]
    return rng.choice([[right]] * 34 + wrong)


def extra_lines(rng):
    extra = [
        [b"X-%d: y" % number for number in range(rng.randrange(1, 130))],
        [b"a:b"] * rng.randrange(1, 3000),
        [b"X-Long: " + b"z" * rng.randrange(100, 20_000)],
        [b"X-Empty:"],
        [b": no name"],
        [b"no colon"],
        [b"X-Folded: a", b" b"],
        [b"X-Odd\x00: a"],
        [b"X-Odd: a\x00b"],
        [b"X-Odd: a\rb"],
        [b"X-Latin: \xe9\xff"],
        [b"X y: z"],
        [b"\xff\xfe: z"],
        [b"Host: y"],
        [b"Keep-Alive: timeout=1000000"],
        [b"Transfer-Encoding:"],
        [b"Accept-Encoding: gzip", b"User-Agent: kube-apiserver-admission"],
    ]
    return rng.choice(extra) if rng.random() < 0.4 else []


def garbage(rng):
    """Return what is no request."""
    kinds = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(200),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        rng.randbytes(rng.randrange(1, 400)) + b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /healthz\r\n\r\n",
        b"A" * 20_000,
        b"POST " + b"/" * 20_000,
        b"\x00\r\n\r\n",
        b"GET /healthz HTTP/1.1\nHost: x\n\n",
    ]
    return Request(rng.choice(kinds))


def unfinished(rng):
    """Return a request whose end does not come."""
    in_chunks = chunked(rng).data
    in_chunks = in_chunks[: in_chunks.rfind(b"\r\n0") + 3]  # in a trailer what comes next could end it
    whole = rng.choice([running.raw_post(running.review(UID), "/log-request?timeout=1s"), in_chunks, odd(rng).data])
    whole = whole.replace(b"timeout=30s", b"timeout=1s")
    return Request(whole[: rng.randrange(1, len(whole))])


# -- answers --------------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """What the caller saw, without what may differ from time to time."""

    status: int
    headers: tuple
    body: bytes

    @property
    def closes(self):
        return ("connection", "close") in self.headers

    def without_close(self):
        return self._replace(headers=tuple(header for header in self.headers if header[0] != "connection"))


_PLACE = re.compile(rb'"recorded":"[^"]*"')
_HEAD = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n((?:[^\r\n]+\r\n)*)\r\n")


def answers(data, uids=()):
    """Return the answers in what came back, in their order, and the rest that is none. Interim ones are left out."""
    found, at = [], 0
    while head := _HEAD.match(data, at):
        status, at = int(head[1]), head.end()
        if 100 <= status < 200:
            continue
        headers = [line.partition(b":") for line in head[2].splitlines()]
        fields = {name.decode("latin-1").lower(): value.strip().decode("latin-1") for name, _, value in headers}
        # All our bodies begin like this; those that HEAD asks for are left out.
        length = int(fields.get("content-length", 0)) if data.startswith(b"{", at) else 0
        body = data[at : at + length]
        if len(body) < length:
            return found, data[head.start() :]
        at += length
        for uid in uids:
            body = body.replace(uid, UID.encode())
        if place := _PLACE.search(body):  # where in the journal, at this time
            body = body.replace(place[0], b"PLACE")
            del fields["content-length"]
        if status == 400 and b"send HTTP/1.1" in body:  # with what it knew of the rest when it gave up
            body = b"not HTTP"
            del fields["content-length"]
        found.append(Answer(status, tuple(sorted(fields.items())), body))
    return found, data[at:]


def differs_from_alone(case_, alone, found):
    """Return what is wrong with the answers to a stream, "" for nothing; ``alone`` has those to each request."""
    for number, (request_, own) in enumerate(zip(case_.requests, alone, strict=True)):
        if not request_.is_framed or own is None:
            return ""
        if number == len(found):
            return f"request {number} was not answered"
        given = found[number]
        if given.without_close() != own.without_close() or (given.closes != own.closes and not request_.is_chunked):
            return f"request {number} was answered {given}, and alone {own}"
        if given.closes:
            return "" if number + 1 == len(found) else f"there are answers behind the last one, {given}"
        if number + 1 == len(found) and request_.is_chunked:
            return ""  # what followed in the same read was not looked at
    return ""


def differ(case_, whole, in_parts):
    """Return how the answers to a stream in one piece and in many differ, "" for not at all.

    A request in chunks may be the last that is answered where more follows it in the same read, and only there.
    """
    shorter, longer = sorted((whole, in_parts), key=len)
    for number, (one, other) in enumerate(zip(shorter, longer, strict=False)):
        if one.without_close() != other.without_close():
            return f"answer {number} was {whole[number]} in one piece, {in_parts[number]} in parts"
    has_chunks = any(request_.is_chunked or b"hunked" in request_.data for request_ in case_.requests)
    if len(shorter) < len(longer) and not has_chunks:
        return f"{len(whole)} answers in one piece, {len(in_parts)} in parts"
    return ""


def normal(record, uid):
    """Return a journal's record without what may differ from time to time."""
    fields = json.loads(record.replace(uid, UID.encode()))
    fields.pop("requestReceivedTimestamp", None)
    if "degraded" in fields:
        fields["degraded"].pop("sha256", None)
    return fields
