"""Files that are read again when they change: policy, redaction, tokens, certificates.

A mounted ConfigMap or Secret changes by a swap of the symbolic link ``..data``, so what belongs together is resolved
once (`resolve`) and then read from one version. ``subPath`` mounts never change.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

__all__ = ["Reloader", "Watch", "directory_entries", "resolve", "signature"]

log = logging.getLogger("audit.config")

Signature = tuple[object, ...]


class Watch(NamedTuple):
    """``load`` reads ``paths`` again and puts the result in force; it raises, and changes nothing, when it cannot.

    ``seen`` is the `signature` of what is in force, taken before it was read; None where it was read just now.
    """

    config: str
    paths: tuple[str, ...]
    load: Callable[[], None]
    seen: Signature | None = None


class Reloader:
    """One thread that looks at all watched files every ``seconds``. ``reloaded`` is called with each load's outcome."""

    def __init__(self, watches: Sequence[Watch], reloaded: Callable[[str, bool], None], *, seconds: float) -> None:
        self._watches = watches
        self._seconds = seconds
        self._reloaded = reloaded
        self._seen = {watch.config: signature(watch.paths) if watch.seen is None else watch.seen for watch in watches}
        self._stopped = threading.Event()
        for watch in watches:
            reloaded(watch.config, True)

    def start(self) -> None:
        """Start looking."""
        if self._watches:
            threading.Thread(target=self._run, name="audit-reload", daemon=True).start()

    def stop(self) -> None:
        """Stop looking."""
        self._stopped.set()

    def poll(self) -> None:
        """Load what has changed since the last look; keep what is in force where that fails."""
        for watch in self._watches:
            now = signature(watch.paths)
            if now == self._seen[watch.config]:
                continue
            self._seen[watch.config] = now
            try:
                watch.load()
            except Exception as error:  # noqa: BLE001 - whatever is wrong with a file, the old configuration stays in force
                self._reloaded(watch.config, False)
                if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                    self._seen[watch.config] = ()  # it may be readable soon, and look the same then: try again
                log.getChild(watch.config).error(  # a logger each: one must not hide the other as a repetition
                    "the new %s is not usable, the old one stays in force: %s",
                    watch.config,
                    error,
                    extra={"hint": f"fix {watch.paths[0]}; it is read again when it changes"},
                )
            else:
                self._reloaded(watch.config, True)
                log.getChild(watch.config).info("the new %s is in force", watch.config)

    def _run(self) -> None:
        while not self._stopped.wait(self._seconds):
            self.poll()


def resolve(paths: Sequence[str]) -> list[str]:
    """Return ``paths`` with the version of their mounted volume fixed, so that what belongs together is read."""
    versions: dict[str, str] = {}
    resolved = []
    for path in paths:
        parent, name = os.path.split(os.path.abspath(path))
        data = os.path.join(parent, "..data")
        if parent not in versions:
            versions[parent] = os.path.realpath(data) if os.path.lexists(data) else parent
        candidate = os.path.join(versions[parent], name)
        resolved.append(candidate if os.path.lexists(candidate) else path)
    return resolved


def directory_entries(path: str) -> list[str]:
    """Return the paths of the files of a mounted directory, of one version; dot entries are left out."""
    data = os.path.join(path, "..data")
    root = os.path.realpath(data) if os.path.lexists(data) else path
    return [os.path.join(root, name) for name in sorted(os.listdir(root)) if not name.startswith(".")]


def signature(paths: Sequence[str]) -> Signature:
    """Return what changes when any of the files (or of the files in a directory) does."""
    found: list[object] = []
    for path in paths:
        try:
            files = directory_entries(path) if os.path.isdir(path) else resolve([path])
            stats = [(file, os.stat(file)) for file in files]
            found += [(file, stat.st_ino, stat.st_mtime_ns, stat.st_size) for file, stat in stats]
        except OSError as error:
            found.append(error.errno)
    return tuple(found)
