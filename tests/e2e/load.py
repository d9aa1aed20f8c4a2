"""Users who go on writing whatever happens: config maps with names of their own, from several threads."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from api import Answer, Api


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
    stop = threading.Event()
    numbers = itertools.count()
    broken: list[BaseException] = []

    def write() -> None:
        try:
            while not stop.is_set():
                create(admin, load, f"written-{next(numbers)}", size)
                stop.wait(pause)
        except BaseException as error:  # noqa: BLE001 - reported by the thread that waits
            broken.append(error)

    workers = [threading.Thread(target=write) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield load
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
