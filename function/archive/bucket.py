"""Where the archive is: what every kind of place can do, and how it fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol
from urllib.parse import unquote, urlsplit

from ..journal.files import Files

__all__ = ["SCHEMES", "Blocks", "Bucket", "BucketError", "Object", "is_archive", "open_bucket"]

SCHEMES = ("s3", "gs", "az", "file")

Blocks = Callable[[], Iterator[bytes]]  # the same bytes with every call


class BucketError(Exception):
    """It did not work; tried again later. ``hint`` is the operator's next step.

    ``lasting`` says that it will not work before somebody has done something.
    """

    def __init__(self, reason: str, hint: str, *, lasting: bool = False) -> None:
        super().__init__(reason)
        self.hint = hint
        self.lasting = lasting


class Object(NamedTuple):
    """What is there under a name."""

    name: str
    bytes: int


class Bucket(Protocol):
    """Every method raises `BucketError`. Names are relative to the URL."""

    url: str

    def put(self, name: str, blocks: Blocks, metadata: dict[str, str]) -> bool:
        """Store an object, whole or not at all; return False where one of that name is there: that one stays."""

    def read(self, name: str) -> Iterator[bytes]:
        """Yield what an object holds."""

    def folders(self, prefix: str) -> Iterator[str]:
        """Yield the names of the directories right below a prefix, empty for the top."""

    def objects(self, prefix: str) -> Iterator[Object]:
        """Yield the objects whose names begin with the directories of ``prefix``."""


def is_archive(path: str) -> bool:
    """Return whether an argument names an archive, and no path."""
    return path.partition("://")[0] in SCHEMES and "://" in path


def open_bucket(url: str, files: Files | None = None) -> Bucket:
    """Return the place of a checked URL. Raises `BucketError` where its client is missing or refuses the URL."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        from .directory import Directory  # noqa: PLC0415 - one of the two is needed

        return Directory(unquote(parts.path), url, files)
    from .object_store import Store  # noqa: PLC0415 - as above

    return Store(url)
