"""Users who go on writing whatever happens: config maps with names of their own, from several threads."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from api import MERGE_PATCH, Answer, Api


@dataclass
class Load:
    """What the users did. ``answers`` are by object name; ``seconds`` is what each create took."""

    namespace: str
    answers: dict[str, Answer] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)

    @property
    def created(self) -> set[str]:
        return {name for name, answer in self.answers.items() if answer.status == 201}

    @property
    def refused(self) -> dict[str, Answer]:
        return {name: answer for name, answer in self.answers.items() if answer.status != 201}


@dataclass
class Changes:
    """What users changed: operations on names that the API server accepted, and what it answered to others."""

    namespace: str
    accepted: Counter[tuple[str, str]] = field(default_factory=Counter)
    refused: list[Answer] = field(default_factory=list)


def new_namespace(admin: Api, name: str) -> None:
    """Create a namespace and wait until the controllers have put into it what they put."""
    admin.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    path = f"/api/v1/namespaces/{name}"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        known = (
            admin.call("GET", f"{path}/configmaps/kube-root-ca.crt"),
            admin.call("GET", f"{path}/serviceaccounts/default"),
        )
        if all(answer.ok for answer in known):
            return
        time.sleep(0.05)
    raise AssertionError(f"the controllers left namespace {name} empty")


@contextlib.contextmanager
def writing(admin: Api, namespace: str, *, threads: int = 6, pause: float = 0.02, size: int = 2000) -> Iterator[Load]:
    """Write from several threads until the end of the block; the API server must answer each create."""
    load = Load(namespace)
    numbers = itertools.count()

    def write() -> None:
        create(admin, load, f"written-{next(numbers)}", size)

    with _at_it(write, threads, pause):
        yield load


@contextlib.contextmanager
def changing(admin: Api, namespace: str, *, threads: int = 4, pause: float = 0.02) -> Iterator[Changes]:
    """Create, patch and delete from several threads until the end of the block; the API server must answer each."""
    changes = Changes(namespace)
    numbers = itertools.count()
    lock = threading.Lock()
    path = f"/api/v1/namespaces/{namespace}/configmaps"

    def change() -> None:
        name = f"changed-{next(numbers)}"
        patch = {"data": {"text": "later"}}
        for operation, send in (
            ("CREATE", lambda: admin.call("POST", path, {"metadata": {"name": name}, "data": {"text": "first"}})),
            ("UPDATE", lambda: admin.call("PATCH", f"{path}/{name}", patch, content_type=MERGE_PATCH)),
            ("DELETE", lambda: admin.call("DELETE", f"{path}/{name}")),
        ):
            answer = send()
            with lock:
                if answer.ok:
                    changes.accepted[operation, name] += 1
                else:
                    changes.refused.append(answer)

    with _at_it(change, threads, pause):
        yield changes


@contextlib.contextmanager
def _at_it(work: Callable[[], None], threads: int, pause: float) -> Iterator[None]:
    """Repeat some work in several threads until the end of the block, and raise what it raised."""
    stop = threading.Event()
    broken: list[BaseException] = []

    def repeat() -> None:
        try:
            while not stop.is_set():
                work()
                stop.wait(pause)
        except BaseException as error:  # noqa: BLE001 - reported by the thread that waits
            broken.append(error)

    workers = [threading.Thread(target=repeat) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield
    finally:
        stop.set()
        for worker in workers:
            worker.join(timeout=60)
    if broken:
        raise broken[0]


def create(admin: Api, load: Load, name: str, size: int) -> None:
    """Create one config map of about ``size`` bytes."""
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"text": "z" * size}}
    began = time.monotonic()
    answer = admin.call("POST", f"/api/v1/namespaces/{load.namespace}/configmaps", body)
    load.seconds.append(time.monotonic() - began)
    load.answers[name] = answer
