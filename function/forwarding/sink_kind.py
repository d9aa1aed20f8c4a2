"""What a module of ``sinks`` offers: its settings, the sink that is made of them, and help with what all sinks have."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

from ..configuration import parsers
from ..configuration.settings import SIZE_HINT, Mistake, Setting, SinkSettings, Values
from .sink import BatchBounds, Sink

__all__ = ["URL_HINT", "BatchMaxima", "SinkKind", "batch_bounds", "batch_settings", "missing", "not_installed"]

URL_HINT = "write it as https://host:port/path, without credentials"


class SinkKind(NamedTuple):
    """A kind of backend. ``make`` takes what ``settings.read`` returned, and opens nothing. It raises `SinkError`.

    ``modules`` are those of other people that it imports: the extra of pyproject.toml with the sink's name brings them.
    """

    settings: SinkSettings
    make: Callable[[Any], Sink]
    modules: tuple[str, ...] = ()


class BatchMaxima(NamedTuple):
    """What the three settings of `batch_settings` may be set to at most."""

    records: int
    bytes: int
    record_bytes: int


def batch_settings(
    prefix: str, sink: str, *, records: int, size: str, record: str, most: BatchMaxima
) -> tuple[Setting, ...]:
    """Return the three settings that bound a batch, with their defaults; `batch_bounds` reads them."""
    return (
        Setting(f"AUDIT_{prefix}_BATCH_RECORDS_MAX", str(records), f"{sink}: records in one batch",
                parsers.number(1, most.records), f"write a number up to {most.records}"),
        Setting(f"AUDIT_{prefix}_BATCH_BYTES_MAX", size, f"{sink}: bytes in one batch",
                parsers.size(1024, most.bytes), SIZE_HINT),
        Setting(f"AUDIT_{prefix}_RECORD_BYTES_MAX", record, f"{sink}: a larger record is cut down, its objects first",
                parsers.size(1024, most.record_bytes), SIZE_HINT),
    )  # fmt: skip


def batch_bounds(prefix: str, values: Values) -> BatchBounds:
    """Return what the three settings of `batch_settings` say."""
    return BatchBounds(
        values[f"AUDIT_{prefix}_BATCH_RECORDS_MAX"],
        values[f"AUDIT_{prefix}_BATCH_BYTES_MAX"],
        values[f"AUDIT_{prefix}_RECORD_BYTES_MAX"],
    )


def missing(sink: str, name: str) -> Mistake:
    """Return the mistake of a sink that is wanted, and whose setting ``name`` is not there."""
    return Mistake(name, "", f"not set, and {sink} needs it", f"set {name}, or leave {sink} out")


def not_installed(sink: str, modules: tuple[str, ...]) -> list[Mistake]:
    """Return the mistake of a sink whose ``modules`` are not all installed. Imports none of them."""
    absent = [module for module in modules if not _is_installed(module)]
    if not absent:
        return []
    hint = f"pip install '.[{sink}]' in the clone; the image and requirements.txt have it"
    return [Mistake("AUDIT_FORWARD_TO", sink, f"needs what is not installed ({', '.join(absent)})", hint)]


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # nor is the package that it would be in
        return False
