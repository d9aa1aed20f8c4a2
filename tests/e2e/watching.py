"""An independent witness: a plain watch of every type of the API server, what it told and when it came."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

from control_plane import TOKENS, ControlPlane
from judge import deep_json

EVERY_SECONDS = 0.3  # new types are looked for
# Events are in two groups at once, and nobody asks what an Event was.
NOT_WATCHED = frozenset(["events"])

Key = tuple[str, str, str, str]  # group, resource, namespace, name


class Seen(NamedTuple):
    """What an object was from a time on: None where it was gone. ``first`` is what was there when the watch began."""

    at_ns: int
    object: dict[str, Any] | None
    first: bool


class Witness:
    """Watches from threads of its own until it is stopped."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._stopping = threading.Event()
        self._types: set[tuple[str, str]] = set()
        self.seen: dict[Key, list[Seen]] = defaultdict(list)

    def at(self, key: Key, at_ns: int) -> Seen | None:
        """Return what an object was at a time, None where nothing had been told of it."""
        return next((one for one in reversed(self.seen[key]) if one.at_ns <= at_ns), None)

    def distance_ns(self, key: Key, at_ns: int) -> int:
        """Return how far a time is from the next thing that was told of an object."""
        return min((abs(one.at_ns - at_ns) for one in self.seen[key]), default=1 << 62)

    def discover(self) -> None:
        """Begin to watch every type that is not watched yet."""
        admin = self._plane.admin
        paths = {"": "/api/v1"}
        for group in admin.must("GET", "/apis").json["groups"]:
            paths[group["name"]] = f"/apis/{group['preferredVersion']['groupVersion']}"
        for group, path in paths.items():
            answer = admin.call("GET", path)
            for resource in answer.json["resources"] if answer.ok else []:
                name = resource["name"]
                if "watch" in resource["verbs"] and name not in NOT_WATCHED and (group, name) not in self._types:
                    self._types.add((group, name))
                    self._start(self._watch, group, name, f"{path}/{name}")

    def run(self) -> None:
        """Look for new types until stopped."""
        while not self._stopping.wait(EVERY_SECONDS):
            with contextlib.suppress(OSError, http.client.HTTPException, KeyError, ValueError):
                self.discover()

    def start(self) -> None:
        """Watch all types that there are, and those that come."""
        self.discover()
        self._start(self.run)

    def stop(self) -> None:
        """Take no more of what comes; the threads end with the API server."""
        self._stopping.set()

    def _start(self, target: Any, *arguments: Any) -> None:
        threading.Thread(target=target, args=arguments, daemon=True).start()

    def _watch(self, group: str, resource: str, path: str) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                self._watch_once(group, resource, path)
            self._stopping.wait(0.2)

    def _watch_once(self, group: str, resource: str, path: str) -> None:
        context = self._plane.authority.client_context()
        connection = http.client.HTTPSConnection("127.0.0.1", self._plane.port, context=context, timeout=900)
        began_ns = time.time_ns()
        with contextlib.closing(connection):
            connection.request("GET", f"{path}?watch=1", headers={"Authorization": f"Bearer {TOKENS['admin']}"})
            response = connection.getresponse()
            if response.status != 200:
                return
            buffer = b""
            while not self._stopping.is_set():
                block = response.read1(1 << 20)
                if not block:
                    return
                *lines, buffer = (buffer + block).split(b"\n")
                for line in lines:
                    self._tell(group, resource, deep_json.parse(line), began_ns)

    def _tell(self, group: str, resource: str, event: dict[str, Any], began_ns: int) -> None:
        if event["type"] not in ("ADDED", "MODIFIED", "DELETED"):
            return
        now_ns = time.time_ns()
        metadata = event["object"]["metadata"]
        known = self.seen[group, resource, metadata.get("namespace", ""), metadata["name"]]
        if event["type"] == "DELETED":
            known.append(Seen(now_ns, None, first=False))
        elif (
            not known
            or not known[-1].object
            or known[-1].object["metadata"]["resourceVersion"] != metadata["resourceVersion"]
        ):
            known.append(Seen(now_ns, event["object"], first=now_ns < began_ns + 200_000_000))


@contextlib.contextmanager
def watching(plane: ControlPlane) -> Iterator[Witness]:
    """Watch everything meanwhile."""
    witness = Witness(plane)
    witness.start()
    try:
        yield witness
    finally:
        witness.stop()
