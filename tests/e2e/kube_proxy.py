"""kube-proxy for one namespace: the addresses of its Services lead to the pods that the EndpointSlices name.

A new connection goes to a ready pod, by turns; where none is ready, to one that is ending and still serves; an open one
stays where it is. Services have loopback addresses here (`control_plane.py`), so that nothing of this machine changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from api import Api
from cluster_service import pass_on

POLL_SECONDS = 0.2


class Address(NamedTuple):
    """A pod's address, and one of its ports."""

    host: str
    port: int


class KubeProxy:
    """Keeps Services reachable until told to stop. ``dropped`` counts connections for which there was no pod."""

    def __init__(self, api: Api, namespace: str, socket_to: Callable[[str], socket.socket]) -> None:
        self.dropped = 0
        self._api, self._namespace, self._socket_to = api, namespace, socket_to
        self._targets: dict[Address, list[Address]] = {}
        self._servers: dict[Address, asyncio.Server] = {}
        self._turn = itertools.count()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="kube-proxy")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(30)

    async def _run(self) -> None:
        while not self._stopping.is_set():
            self._targets = await asyncio.to_thread(self._read)
            for address in self._targets.keys() - self._servers.keys():
                self._servers[address] = await self._listen(address)
            await asyncio.sleep(POLL_SECONDS)
        for server in self._servers.values():
            server.close()

    async def _listen(self, address: Address) -> asyncio.Server:
        async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._connect(address, reader, writer)

        return await asyncio.start_server(connect, address.host, address.port, backlog=1024)

    async def _connect(self, address: Address, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        targets = self._targets[address]
        try:
            if not targets:
                raise ConnectionRefusedError(f"{address}: no pod is ready")
            target = targets[next(self._turn) % len(targets)]
            to_pod = self._socket_to(target.host)
            to_pod.setblocking(False)
            await asyncio.get_running_loop().sock_connect(to_pod, target)
            to_read, to_write = await asyncio.open_connection(sock=to_pod)
        except OSError:
            self.dropped += 1
            writer.transport.abort()
            return
        with contextlib.suppress(OSError):
            await asyncio.gather(pass_on(reader, to_write), pass_on(to_read, writer))

    def _read(self) -> dict[Address, list[Address]]:
        """Return the pods of each Service's ports."""
        core = f"/api/v1/namespaces/{self._namespace}/services"
        slices = f"/apis/discovery.k8s.io/v1/namespaces/{self._namespace}/endpointslices"
        services = self._api.must("GET", core).json["items"]
        known = self._api.must("GET", slices).json["items"]
        return {
            Address(service["spec"]["clusterIP"], port["port"]): _pods(service["metadata"]["name"], port, known)
            for service in services
            if service["spec"]["clusterIP"] != "None"
            for port in service["spec"]["ports"]
        }


def _pods(service: str, port: dict[str, Any], slices: list[dict[str, Any]]) -> list[Address]:
    """Return the ready pods, or those that end and still serve."""
    of_service = [one for one in slices if one["metadata"]["labels"]["kubernetes.io/service-name"] == service]
    found = [
        (endpoint["conditions"], Address(endpoint["addresses"][0], to["port"]))
        for one in of_service
        for to in one.get("ports") or ()
        if to.get("name") == port.get("name")
        for endpoint in one.get("endpoints") or ()
    ]
    ready = [address for conditions, address in found if conditions.get("ready")]
    return ready or [address for conditions, address in found if conditions.get("serving")]
