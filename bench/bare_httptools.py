"""A bare httptools protocol: reads the body, answers one fixed AdmissionReview.

What HTTP costs in CPython when nothing is done with the review. Run: ``PORT=8080 python bench/bare_httptools.py``.
"""

import asyncio
import os
import ssl
from typing import cast

import httptools
import uvloop


def answer(body: bytes) -> bytes:
    """Return the answer 200 with a body of JSON."""
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


FIXED = answer(
    b'{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","response":{"uid":"bare","allowed":true}}'
)


class Bare(asyncio.Protocol):
    """One connection. Any request is answered once its body has been read."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; the parser calls back into this object."""
        self.transport = cast("asyncio.Transport", transport)
        self.parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        """Forget the body before."""
        self.body: list[bytes] = []

    def on_body(self, body: bytes) -> None:
        """Collect the body, as a webhook must before it can parse it."""
        self.body.append(body)

    def on_message_complete(self) -> None:
        """Join the body and answer."""
        b"".join(self.body)
        self.transport.write(FIXED)


def run(protocol: type[Bare]) -> None:
    """Listen on PORT until killed, with TLS where AUDIT_TLS_CERT_FILE is set."""
    context = None
    if certificate := os.environ.get("AUDIT_TLS_CERT_FILE"):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, os.environ["AUDIT_TLS_KEY_FILE"])

    async def serve() -> None:
        port = int(os.environ.get("PORT", "8080"))
        server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", port, ssl=context)
        await server.serve_forever()

    uvloop.run(serve())


if __name__ == "__main__":
    run(Bare)
