"""Receivers for bench/forward.py: they read each request and answer that all is well, at little cost."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


def run(sink: str, listening: Any) -> None:
    """Serve until terminated; put the port into the queue ``listening``."""
    if sink == "google-cloud-logging":
        _serve_grpc(listening)
    else:
        asyncio.run(_serve_http(sink, listening))


async def _serve_http(sink: str, listening: Any) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                body = await reader.readexactly(int(length[1]) if length else 0)
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


def _serve_grpc(listening: Any) -> None:
    from concurrent import futures  # noqa: PLC0415 - only this receiver needs them

    import grpc  # noqa: PLC0415

    write = grpc.unary_unary_rpc_method_handler(lambda _request, _context: b"")  # an empty WriteLogEntriesResponse
    server = grpc.server(futures.ThreadPoolExecutor(2), options=[("grpc.max_receive_message_length", 32 << 20)])
    handler = grpc.method_handlers_generic_handler("google.logging.v2.LoggingServiceV2", {"WriteLogEntries": write})
    server.add_generic_rpc_handlers((handler,))
    listening.put(server.add_insecure_port("127.0.0.1:0"))
    server.start()
    server.wait_for_termination()
