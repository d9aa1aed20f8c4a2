"""The floor: a webhook by hand in CPython, with no framework, that records nothing.

httptools and uvloop; reads headers and body, decodes the review with orjson and answers its uid, without which no API
server takes an answer. Run: ``PORT=8080 python bench/floor.py``.
"""

import asyncio
import os

import orjson
import uvloop
from bare_httptools import Bare, answer


class Floor(Bare):
    """One connection. A request without a body is a probe."""

    def on_message_begin(self) -> None:
        """Forget the request before."""
        super().on_message_begin()
        self.headers: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect the headers, as whoever looks at one must."""
        self.headers.append((name.lower(), value))

    def on_message_complete(self) -> None:
        """Decode the review and answer it."""
        body = b"".join(self.body)
        uid = orjson.loads(body)["request"]["uid"] if body else ""
        response = {"uid": uid, "allowed": True}
        review = {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response}
        self.transport.write(answer(orjson.dumps(review)))


async def serve(port: int) -> None:
    """Listen until killed."""
    server = await asyncio.get_running_loop().create_server(Floor, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(os.environ.get("PORT", "8080"))))
