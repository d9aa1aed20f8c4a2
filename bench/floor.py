"""The floor: a webhook by hand in CPython, with no framework, that records nothing.

httptools and uvloop; reads headers and body, decodes the review with orjson and answers its uid, without which no API
server takes an answer. Run: ``PORT=8080 python bench/floor.py``.
"""

import orjson
from bare_httptools import Bare, answer, run


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


if __name__ == "__main__":
    run(Floor)
