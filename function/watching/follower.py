"""One resource: listed once, then followed by a watch, and listed again whenever the watch was lost."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import msgspec
from msgspec import Raw

from ..record.observation import ObservedResource
from .api_server import Answer, ApiServer, Unreachable
from .objects import DEPTH_MAX, readable

__all__ = ["Follower", "Gone", "Listener", "discovered"]

log = logging.getLogger("audit.watch")

T = TypeVar("T")

PAGE_OBJECTS = 100
# The API server ends a watch after this time; spread, as its own clients do.
WATCH_SECONDS = (240, 300)
BACKOFF_SECONDS_MIN, BACKOFF_SECONDS_MAX = 0.2, 30.0
SHORT_SECONDS = 1.0
_NOT_FOUND, _GONE = 404, 410


class Listener(Protocol):
    """Who is told. Both return when what they were told is durable, and raise `Stopped` where that will not be."""

    def listed(self, resource: ObservedResource, kind: str, items: Sequence[Raw]) -> None:
        """Take everything that is there now."""

    def changed(self, resource: ObservedResource, name: str, source: Raw | None) -> None:
        """Take one object as it is now, or that it is gone."""


class Gone(Exception):  # noqa: N818 - what the API server calls it: 410
    """The version to go on from is not known to the API server any more."""


class Refused(Exception):  # noqa: N818 - named after what happened; the caller tries again, later
    """The API server does not allow it, or has no such resource."""


class Missing(Refused):
    """The API server has no such resource, in this version."""


class _ListMetadata(msgspec.Struct):
    resourceVersion: str  # noqa: N815 - Kubernetes' own spelling
    continue_: str = msgspec.field(default="", name="continue")


class _List(msgspec.Struct):
    kind: str
    metadata: _ListMetadata
    items: list[Raw] | None = None


class _ObjectMetadata(msgspec.Struct):
    resourceVersion: str = ""  # noqa: N815
    name: str = ""


class _Object(msgspec.Struct):
    metadata: _ObjectMetadata = msgspec.field(default_factory=_ObjectMetadata)
    code: int = 0  # of a Status
    message: str = ""


class _Event(msgspec.Struct):
    type: str
    object: Raw


class _Served(msgspec.Struct):
    name: str


class _Resources(msgspec.Struct):
    resources: list[_Served]


_list = msgspec.json.Decoder(_List).decode
_event = msgspec.json.Decoder(_Event).decode
_object = msgspec.json.Decoder(_Object).decode
_resources = msgspec.json.Decoder(_Resources).decode


def discovered(api: ApiServer, group: str, versions: Sequence[str]) -> dict[str, ObservedResource]:
    """Return the group's resources by name, each in the first of ``versions`` that has it. Raises `Unreachable`."""
    found: dict[str, ObservedResource] = {}
    for version in versions:
        answer = api.get(f"/apis/{group}/{version}")
        if answer.status == _NOT_FOUND:
            continue
        if answer.status != 200:
            raise Unreachable(str(answer))
        try:
            names = [one.name for one in _resources(answer.body).resources]
        except msgspec.DecodeError:
            raise Unreachable("what it serves is not understood") from None
        found |= {name: ObservedResource(group, version, name) for name in names if name not in found}
    return found


class Follower:
    """Follows ``resource`` on a thread of its own. ``up`` is told whether changes are followed just now."""

    def __init__(
        self, api: ApiServer, resource: ObservedResource, listener: Listener, *, up: Callable[[bool], None]
    ) -> None:
        self._api = api
        self.resource = resource
        self.is_missing = False  # when it was last asked for
        self._path = f"/apis/{resource.group}/{resource.version}/{resource.resource}"
        self._listener = listener
        self._up = up
        self._version = ""  # to go on from; empty: list first
        self._stopped = threading.Event()
        self._backoff = BACKOFF_SECONDS_MIN

    def list_once(self) -> None:
        """List everything, and tell it. Raises `Unreachable`, `Refused`, `Gone`."""
        items: list[Raw] = []
        kind, proceed = "", ""
        while True:
            query = {"limit": str(PAGE_OBJECTS)} | ({"continue": proceed} if proceed else {})
            page = _page(self._api.get(self._path, **query))
            items += [Raw(readable(bytes(item))) for item in page.items or []]
            kind, proceed = page.kind.removesuffix("List"), page.metadata.continue_
            if not proceed:
                break
        try:
            self._listener.listed(self.resource, kind, items)
        except msgspec.DecodeError:
            raise Refused("an object that it lists is not understood") from None
        self._version = page.metadata.resourceVersion

    def run(self) -> None:
        """Follow until stopped."""
        while not self._stopped.is_set():
            began = time.monotonic()
            try:
                if not self._version:
                    self.list_once()
                self._follow()
                if time.monotonic() - began < SHORT_SECONDS:
                    self._pause()  # whoever ends watches at once must not be asked again at once
            except Gone:
                self._lost("the version to go on from is gone: everything is listed again", logging.INFO)
                self._version = ""
                if time.monotonic() - began < SHORT_SECONDS:
                    self._pause()
            except (Unreachable, Refused) as error:
                self.is_missing = isinstance(error, Missing)
                self._lost(str(error), logging.WARNING)
                self._pause()

    def stop(self) -> None:
        """End soon; a watch that is silent ends with the process."""
        self._stopped.set()

    # -- steps ------------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        """Tell one watch's changes, until the API server ends it. Raises `Unreachable`, `Refused`, `Gone`."""
        seconds = random.randint(*WATCH_SECONDS)  # noqa: S311 - to spread load, not to hide anything
        query = {"watch": "1", "allowWatchBookmarks": "true", "resourceVersion": self._version}
        with self._api.watch(self._path, **query, timeoutSeconds=str(seconds)) as (status, lines):
            if status == _GONE:
                raise Gone
            if status != 200:
                raise _refused(Answer(status, b"".join(lines)))
            self.is_missing = False
            self._up(True)
            for line in lines:
                self._take(line)
                self._backoff = BACKOFF_SECONDS_MIN
                if self._stopped.is_set():
                    return

    def _take(self, line: bytes) -> None:
        try:
            event = _any_depth(_event, line)
            source = Raw(readable(bytes(event.object)))
            found = _object(source)
        except msgspec.DecodeError:
            raise Gone from None  # whatever it was: what is there now is known from a list
        if event.type == "ERROR":
            if found.code == _GONE:
                raise Gone
            raise Unreachable(f"the watch ended: {found.code} {found.message[:300]}".rstrip())
        if event.type != "BOOKMARK":
            gone = event.type == "DELETED"
            try:
                self._listener.changed(self.resource, found.metadata.name, None if gone else source)
            except msgspec.DecodeError:
                raise Gone from None
        self._version = found.metadata.resourceVersion or self._version

    def _lost(self, why: str, level: int) -> None:
        self._up(False)
        log.log(
            level,
            "watch: %s: %s",
            self.resource.resource,
            why,
            extra={"hint": "what happens meanwhile is found by comparing, and recorded then"},
        )

    def _pause(self) -> None:
        self._stopped.wait(self._backoff * (0.5 + random.random()))  # noqa: S311 - as above
        self._backoff = min(2 * self._backoff, BACKOFF_SECONDS_MAX)


def _page(answer: Answer) -> _List:
    if answer.status == _GONE:
        raise Gone
    if answer.status != 200:
        raise _refused(answer)
    try:
        return _any_depth(_list, answer.body)
    except msgspec.DecodeError:
        raise Refused("what it lists is not understood") from None


def _refused(answer: Answer) -> Refused:
    return Missing(str(answer)) if answer.status == _NOT_FOUND else Refused(str(answer))


def _any_depth(decode: Callable[[bytes], T], source: bytes) -> T:
    try:
        return decode(source)
    except (RecursionError, UnicodeDecodeError):
        return decode(readable(source, 2 * DEPTH_MAX))  # the objects in it are cut by themselves, all alike
