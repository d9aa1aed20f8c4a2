"""One test record to a sink, and what became of it: whether the sink is set up right."""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from .. import review, synthetic
from ..record import Format, reading
from .sink import DELIVERED, Refused, Rejected, Retry, Sink, SinkError, TooLarge

__all__ = ["Trial", "try_sink"]


class Trial(NamedTuple):
    """Whether the test record was ``delivered``, and a sentence for people."""

    delivered: bool
    text: str


def try_sink(sink: Sink, record_format: Format) -> Trial:
    """Send one record, of a dry run whose object says what it is."""
    started = time.perf_counter()
    record = reading.read(_test_record(record_format))
    try:
        sink.open()
        (outcome,) = sink.send([sink.encode(record)])
    except SinkError as error:
        return Trial(delivered=False, text=f"{error} (hint: {error.hint})")
    except (ConnectionError, Refused, TooLarge) as error:
        return Trial(delivered=False, text=f"not delivered: {error}")
    finally:
        sink.close()
    if outcome == DELIVERED:
        return Trial(delivered=True, text=f"delivered in {(time.perf_counter() - started) * 1e3:.0f} ms")
    if isinstance(outcome, Rejected):
        return Trial(delivered=False, text=f"refused for good: {outcome.reason}")
    reason = outcome.reason if isinstance(outcome, Retry) else ""
    return Trial(delivered=False, text=f"not delivered, would be retried: {reason}")


def _test_record(record_format: Format) -> bytes:
    now = time.time_ns()
    body = synthetic.review(f"check-{os.urandom(8).hex()}")
    return record_format.render(
        review.decode(body), level="Request", received_ns=now, now_ns=now, cluster="", changes=None
    )
