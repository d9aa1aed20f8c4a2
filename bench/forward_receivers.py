"""Receivers for bench/forward.py: they read each request and answer that all is well, at little cost.

Or that it is not: a share of the answers, drawn at random, is a failure that may pass.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Callable
from typing import Any

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


def run(sink: str, listening: Any, failing: float = 0.0) -> None:
    """Serve until terminated; put the port into the queue ``listening``. ``failing`` is the share that fails."""
    chance = random.Random(7)

    def fails() -> bool:
        return chance.random() < failing

    if sink == "google-cloud-logging":
        _serve_grpc(listening, fails)
    else:
        asyncio.run(_serve_http(sink, listening, fails))


async def _serve_http(sink: str, listening: Any, fails: Callable[[], bool]) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                body = await reader.readexactly(int(length[1]) if length else 0)
                if fails():
                    writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
                    await writer.drain()
                    continue
                answer = _bulk_answer(body) if sink == "elasticsearch" else b""
                status = b"202 Accepted" if sink == "cloudevents" else b"200 OK"
                writer.write(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(answer), answer))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=1 << 20)
    listening.put(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def _bulk_answer(body: bytes) -> bytes:
    item = {"create": {"_index": "kube-audit", "_id": "an-id-of-about-this-length-as-they-are", "status": 201}}
    return json.dumps({"took": 1, "errors": False, "items": [item] * (body.count(b"\n") // 2)}).encode()


def _serve_grpc(listening: Any, fails: Callable[[], bool]) -> None:
    from concurrent import futures  # noqa: PLC0415 - only this receiver needs them

    import grpc  # noqa: PLC0415

    def answer(_request: bytes, context: grpc.ServicerContext) -> bytes:
        if fails():
            context.abort(grpc.StatusCode.UNAVAILABLE, "try later")
        return b""  # an empty WriteLogEntriesResponse

    write = grpc.unary_unary_rpc_method_handler(answer)
    server = grpc.server(futures.ThreadPoolExecutor(2), options=[("grpc.max_receive_message_length", 32 << 20)])
    handler = grpc.method_handlers_generic_handler("google.logging.v2.LoggingServiceV2", {"WriteLogEntries": write})
    server.add_generic_rpc_handlers((handler,))
    listening.put(server.add_insecure_port("127.0.0.1:0"))
    server.start()
    server.wait_for_termination()
