"""The ASGI 3 application: for hosts whose server is not ours. No exception leaves it: frameworks log the path."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Literal, NamedTuple

from ..configuration.settings import BODY_BYTES_HARD_MAX
from .endpoint import Endpoint, Head
from .intake import JSON

__all__ = ["Receive", "Scope", "Send", "answer_request"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


async def answer_request(endpoint: Endpoint, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one request."""
    if scope["type"] != "http":
        await _answer_other_protocols(scope, receive, send)
        return
    caller = _Caller(scope.get("client"))
    exchange = endpoint.begin(*_head(scope), caller)
    if exchange is not None:
        exchange.wait()
        while not caller.answered.done():
            message = await _next(receive, caller.answered)
            if message is None:
                break
            if message["type"] != "http.request":
                exchange.leave()
                if not caller.answered.done():
                    return
                break
            if not message.get("more_body"):
                exchange.end(message.get("body", b""))
                break
            exchange.take(message.get("body", b""))
    await _send(await caller.answered, send)


class _Answer(NamedTuple):
    status: int
    body: bytes
    close: bool
    headers: bytes


class _Caller:
    """A `Caller` that a task waits for."""

    def __init__(self, client: tuple[str, int] | None) -> None:
        self.client = client
        self.answered: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()

    def answer(self, status: int, body: bytes, *, close: bool, headers: bytes = JSON) -> None:
        if not self.answered.done():  # the task was cancelled: nobody waits
            self.answered.set_result(_Answer(status, body, close, headers))


def _head(scope: Scope) -> tuple[Head, int]:
    content_type, length = b"", 0
    for name, value in scope["headers"]:
        if name == b"content-type":
            content_type = value
        elif name == b"content-length":
            length = int(value) if value.isdigit() and len(value) < 19 else BODY_BYTES_HARD_MAX + 1
    return Head(scope["method"].encode(), scope["path"], scope["query_string"], content_type), length


async def _next(receive: Receive, answered: asyncio.Future[_Answer]) -> Message | None:
    """Return the next message, None where the answer is there first."""
    receiving = asyncio.ensure_future(receive())
    try:
        await asyncio.wait((receiving, answered), return_when=asyncio.FIRST_COMPLETED)
        return receiving.result() if receiving.done() else None
    finally:
        receiving.cancel()


async def _send(answer: _Answer, send: Send) -> None:
    headers = [tuple(line.split(b": ", 1)) for line in answer.headers.splitlines()]
    headers.append((b"content-length", b"%d" % len(answer.body)))
    if answer.close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


async def _answer_other_protocols(scope: Scope, receive: Receive, send: Send) -> None:
    """Complete the lifespan protocol, refuse websockets."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close"})
    while scope["type"] == "lifespan":
        phase: Literal["lifespan.startup", "lifespan.shutdown"] = (await receive())["type"]
        await send({"type": f"{phase}.complete"})
        if phase == "lifespan.shutdown":
            return
