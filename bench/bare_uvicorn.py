"""A bare uvicorn application: reads the body, answers one fixed AdmissionReview.

What uvicorn costs by itself, to start and to answer. Run: ``PORT=8080 python bench/bare_uvicorn.py``.
"""

import os
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

BODY = b'{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","response":{"uid":"bare","allowed":true}}'
START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))],
}
END = {"type": "http.response.body", "body": BODY}


async def app(
    scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
) -> None:
    """Answer any HTTP request."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send(START)
    await send(END)


if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(os.environ.get("PORT", "8080")),
        loop="uvloop",
        http="httptools",
        lifespan="off",
        ws="none",
        access_log=False,
        log_level="warning",
        server_header=False,
        date_header=False,
        proxy_headers=False,
    )
